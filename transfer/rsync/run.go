package rsync

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// ErrPeerRefused marks a request that the source does not answer.
var ErrPeerRefused = errors.New("the source refuses")

// Report is what is known after a pass.
type Report struct {
	Ran
	// Code is rsync's exit code, Meaning what it stands for.
	Code    int    `json:"code"`
	Meaning string `json:"meaning"`
	// Problems are the first things that either rsync complained of.
	Problems []string `json:"problems,omitempty"`
	// Differences names the first files that a check found to differ.
	Differences []string `json:"differences,omitempty"`
	// Written is how many bytes were written to the destination's storage, as the
	// kernel counts them; PeakMemory the largest resident size of one rsync here.
	Written    int64 `json:"written"`
	PeakMemory int64 `json:"peakMemory"`
}

// pass runs one pass. The error is for what kept rsync from saying how it ended
// itself; the report is valid then as well.
func (c *Copier) pass(ctx context.Context, p Pass, limit int64, onProgress func(Progress)) (Report, error) {
	report := Report{Ran: Ran{Pass: p, Class: Permanent}}
	dir, err := os.MkdirTemp(c.Work, "pass-")
	if err != nil {
		return report, fmt.Errorf("prepare the %s pass: %w", p, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	list := filepath.Join(dir, "sample")
	if p == PassSample {
		if err := writeSample(ctx, c.Root, list, c.Settings); err != nil {
			return report, fmt.Errorf("choose a sample: %w", err)
		}
	}
	door, err := openDoor(filepath.Join(dir, "s"))
	if err != nil {
		return report, err
	}
	request := c.Settings.request(p, c.version)
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	root := c.Root
	if !c.Settings.Block {
		root += "/"
	}
	args := clientArgs(c.Settings, request, root, strings.Join(c.Shim, " "), list, int(limit))
	cmd := exec.CommandContext(run, c.Program.Path, args...) //nolint:gosec // G204: arguments are built here
	cmd.Env = environment(append([]string{ShimSocket + "=" + door.path}, c.Env...)...)
	cmd.Dir = "/"
	ownGroup(cmd)
	out, said := &output{itemized: checks(p), onProgress: onProgress}, &problems{}
	if !c.Settings.Block && foreign(c.Root) {
		out.exceptRoot, said.root = true, c.Root
	}
	cmd.Stdout, cmd.Stderr = out, said

	var wg sync.WaitGroup
	var joined session
	wg.Go(func() {
		joined = c.join(run, door, request)
		if joined.err != nil {
			cancel() // rsync would wait for its own timeout
		}
	})
	err = cmd.Start()
	if err == nil {
		err = cmd.Wait()
		reap(cmd)
	}
	_ = door.listener.Close() // the shim may never have come
	wg.Wait()

	report.Code = exitStatus(err)
	report.Class, report.Meaning = ClassOf(said.code(report.Code))
	report.Stats, report.Pending = out.stats, said.skipped
	report.Different, report.Differences = out.different, out.differences
	report.Problems = append(said.lines, joined.exit.Problems...)
	if len(report.Problems) > maxNamed {
		report.Problems = report.Problems[:maxNamed]
	}
	if state := cmd.ProcessState; state != nil {
		if u, ok := state.SysUsage().(*syscall.Rusage); ok {
			const block, kilo = 512, 1024
			report.Written, report.PeakMemory = u.Oublock*block, u.Maxrss*kilo
		}
	}
	return report, c.explain(ctx, &report, joined.err)
}

// explain finds the class of a pass that rsync itself could not finish.
func (c *Copier) explain(ctx context.Context, r *Report, err error) error {
	switch {
	case ctx.Err() != nil:
		r.Class, r.Meaning = Canceled, "it was asked to stop"
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.Is(err, ErrNoSpace):
		r.Class, r.Meaning = Storage, err.Error()
	case errors.Is(err, ErrPeerRefused):
		r.Class, r.Meaning = Permanent, err.Error()
	case r.Class == Done, r.Class == Canceled: // we stopped it, as the stream had ended
		r.Class, r.Meaning = Transient, "the stream to the peer ended"
	case r.Class == Storage: // its own, and the reason for which the stream ended
		return nil
	}
	return err
}

// session is how the conversation with the source went.
type session struct {
	exit exitMessage
	err  error
}

// join joins the shim that comes in at the door with a stream to the source.
func (c *Copier) join(ctx context.Context, door *shimDoor, r Request) session {
	shim, err := door.next()
	if err != nil {
		return session{} // rsync ended before it started its shim, and says why
	}
	s := c.talk(ctx, shim, r)
	code := s.exit.Code
	if s.err != nil {
		code = codeLost
	}
	shim.dismiss(code)
	return s
}

// talk opens a stream, and copies until the source has said its last word.
func (c *Copier) talk(ctx context.Context, shim *caller, r Request) (s session) {
	stream, err := c.Open(ctx)
	if err != nil {
		return session{err: err}
	}
	defer func() { _ = stream.Close() }()
	if err := send(stream, messageRequest, r); err != nil {
		return session{err: fmt.Errorf("ask the source: %w", err)}
	}
	in := bufio.NewReaderSize(stream, maxText)
	var a answer
	if err := value(in, messageAnswer, &a); err != nil {
		return session{err: fmt.Errorf("read the source's answer: %w", err)}
	}
	if a.Refused != "" {
		const most = 500
		return session{err: fmt.Errorf("%w: %.*q", ErrPeerRefused, most, a.Refused)}
	}
	if r.Pass == PassData && !r.Block {
		if err := usageOf(c.Root).fits(a.Used); err != nil {
			return session{err: err}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, maxText)
		if _, err := io.CopyBuffer(onlyWriter{stream}, onlyReader{shim.from}, b); err == nil || errors.Is(err, os.ErrClosed) {
			_ = stream.CloseWrite() // the source sees it, or is gone
		}
	})
	s.exit, s.err = receive(in, shim.to)
	_ = shim.to.Close()   // rsync's end of the session
	_ = shim.from.Close() // and of its words
	wg.Wait()
	return s
}

// onlyWriter and onlyReader keep io.Copy from shortcuts past the buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
