package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// show is a demo that runs as a process, as a newcomer runs it.
type show struct {
	cmd  *exec.Cmd
	dir  string
	done chan error

	mu  sync.Mutex
	out bytes.Buffer
}

// Write implements io.Writer.
func (s *show) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *show) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// binary builds the demo once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	root, err := world.Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "bin", "demo")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the demo: %w\n%s", err, out)
	}
	return path, nil
})

func start(t *testing.T, env ...string) *show {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &show{dir: filepath.Join(t.TempDir(), "demo"), done: make(chan error, 1)}
	s.cmd = exec.Command(path, "-dir", s.dir)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start the demo: %v", err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// says waits until the demo has said the words.
func (s *show) says(t *testing.T, words string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() error {
		select {
		case err := <-s.done:
			s.done <- err
			return errStop{fmt.Errorf("the demo ended (%w) before it said %q:\n%s", err, words, s)}
		default:
		}
		if !strings.Contains(s.String(), words) {
			return fmt.Errorf("the demo does not say %q:\n%s", words, s)
		}
		return nil
	})
}

// exit waits for the end and returns the exit code.
func (s *show) exit(t *testing.T, limit time.Duration) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	select {
	case err := <-s.done:
		s.done <- err
		return s.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		t.Fatalf("the demo still runs after %s:\n%s", limit, s)
		return -1
	}
}

// nothingLeft waits until no process works in the demo's directory.
func (s *show) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return errStop{err}
		}
		var left []string
		for _, f := range files {
			line, err := os.ReadFile(f)
			if err == nil && bytes.Contains(line, []byte(s.dir)) {
				left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d processes are left:\n%s", len(left), strings.Join(left, "\n"))
		}
		return nil
	})
}

// errStop ends waiting at once.
type errStop struct{ error }

func eventually(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	err := retry(t.Context(), limit, func() error {
		err := f()
		if stop, ok := errors.AsType[errStop](err); ok {
			t.Fatal(stop.error)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDemoEndsWithEqualClusters(t *testing.T) {
	s := start(t)
	if code := s.exit(t, 4*time.Minute); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, s)
	}
	for _, words := range []string{"0 different", "dr is what prod is", "Deployment shop/web: 3 -> 6 replicas"} {
		if !strings.Contains(s.String(), words) {
			t.Errorf("the demo does not say %q:\n%s", words, s)
		}
	}
	if strings.Contains(s.String(), "\x1b[") {
		t.Errorf("colors on what is not a terminal:\n%s", s)
	}
	s.nothingLeft(t)
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

func TestEndedAtAnyMomentLeavesNoProcess(t *testing.T) {
	for name, tc := range map[string]struct {
		words  string
		signal os.Signal
		code   int
	}{
		"CtrlCWhileClustersStart": {"two Kubernetes control planes", os.Interrupt, exitInterrupted},
		"CtrlCWhileItReplicates":  {"A Replication in dr", os.Interrupt, exitInterrupted},
		"TerminatedInTheMiddle":   {"an application in prod", syscall.SIGTERM, exitInterrupted},
		"KilledInTheMiddle":       {"an application in prod", os.Kill, -1},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.says(t, tc.words, time.Minute)
			if err := s.cmd.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			if code := s.exit(t, 40*time.Second); code != tc.code {
				t.Errorf("exit code %d, want %d:\n%s", code, tc.code, s)
			}
			s.nothingLeft(t)
		})
	}
}
