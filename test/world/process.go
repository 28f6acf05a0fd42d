package world

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one program under test. Its methods are not safe for concurrent
// use, apart from Alive.
type Process struct {
	// Name is for messages; its log is <dir>/<name>.log, appended to by every start.
	Name string
	Path string
	Args []string
	Env  []string
	Log  string
	// Ready, if not empty, is the URL that answers 200 once the program serves.
	Ready string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts the process and waits until it is ready or ctx ends.
func (p *Process) Start(ctx context.Context) error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.WaitReady(ctx)
}

// Launch starts the process without waiting for readiness. The process dies with its parent.
func (p *Process) Launch() error {
	if p.Alive() {
		return fmt.Errorf("start %s: already running", p.Name)
	}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startLocked(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.err = cmd, done, nil
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// WaitReady waits until the process serves, exits or ctx ends.
func (p *Process) WaitReady(ctx context.Context) error {
	if p.Ready == "" {
		return nil
	}
	client := &http.Client{Timeout: time.Second}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Ready, nil)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", p.Name, err)
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w\n%s", p.Name, ctx.Err(), p.Tail(20))
		case <-p.exited():
			return fmt.Errorf("wait for %s: it ended: %w\n%s", p.Name, p.exitError(), p.Tail(20))
		case <-tick.C:
		}
	}
}

// Stop asks the process to end (SIGTERM) and waits; past the limit it is killed
// and that is an error. Stopping one that does not run is no error.
func (p *Process) Stop(limit time.Duration) error {
	if !p.Alive() {
		return nil
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited():
		if err := p.exitError(); err != nil {
			return fmt.Errorf("stop %s: %w\n%s", p.Name, err, p.Tail(20))
		}
		return nil
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("stop %s: still running after %s\n%s", p.Name, limit, p.Tail(20))
	}
}

// Kill is kill -9 and waits for the end.
func (p *Process) Kill() {
	if p.Alive() {
		p.signal(syscall.SIGKILL)
		<-p.exited()
	}
}

// Freeze stops the process in its tracks (SIGSTOP); Thaw lets it go on.
func (p *Process) Freeze() { p.signal(syscall.SIGSTOP) }

// Thaw continues a frozen process.
func (p *Process) Thaw() { p.signal(syscall.SIGCONT) }

// Alive reports whether the process runs.
func (p *Process) Alive() bool {
	select {
	case <-p.exited():
		return false
	default:
		return true
	}
}

// PID is the id of the running process, 0 if there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ResidentBytes is the memory the process occupies, in bytes.
func (p *Process) ResidentBytes() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read memory of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if n, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil && n == 1 {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory of %s: no VmRSS", p.Name)
}

func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // gone already is what the caller checks for
	}
}

func (p *Process) exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return p.done
}

func (p *Process) exitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return fmt.Errorf("%s: %w", p.Name, exit)
	}
	return p.err
}

// Wait waits until the process ends by itself, and returns how: an *exec.ExitError
// if it failed.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.exited():
		return p.exitError()
	case <-time.After(limit):
		return fmt.Errorf("wait for %s: still running after %s\n%s", p.Name, limit, p.Tail(20))
	}
}
