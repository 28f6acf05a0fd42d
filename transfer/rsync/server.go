package rsync

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Server is the source's end: it answers requests by running rsync over the volume,
// read-only. Its methods are safe for concurrent use.
type Server struct {
	Program Program
	// Root is the directory or the device to read. The peer cannot name another.
	Root string
	// Block says that Root is a device.
	Block bool
	// Log receives refusals and failures.
	Log *slog.Logger

	once    sync.Once
	version Version
	err     error
}

const (
	// requestTimeout is how long a peer may take to say what it wants.
	requestTimeout = 30 * time.Second
	// partingTimeout is how long it may take to leave.
	partingTimeout = 30 * time.Second
	// stopTimeout is how long rsync may take to end when it is asked to.
	stopTimeout = 10 * time.Second
)

// Check looks whether the program can be used. The answer is kept.
func (s *Server) Check(ctx context.Context) error {
	s.once.Do(func() { s.version, s.err = s.Program.Check(ctx) })
	return s.err
}

// Serve answers one request on a stream. The stream remains the caller's to close.
func (s *Server) Serve(ctx context.Context, stream Stream) {
	if err := s.serve(ctx, stream); err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "a pass has failed at the source", telemetry.KeyError, err)
	}
}

func (s *Server) serve(ctx context.Context, stream Stream) error {
	if err := stream.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(stream, maxText)
	asked, err := text(in, messageRequest)
	if err != nil {
		return fmt.Errorf("read the peer's request: %w", err)
	}
	request, err := parseRequest(asked)
	if err == nil {
		err = s.agree(ctx, request)
	}
	if err != nil {
		return errors.Join(err, send(stream, messageAnswer, answer{Refused: err.Error()}), stream.CloseWrite())
	}
	a := answer{Version: s.version.String()}
	if !s.Block {
		a.Used = usageOf(s.Root)
	}
	if err := send(stream, messageAnswer, a); err != nil {
		return fmt.Errorf("answer the request: %w", err)
	}
	if err := stream.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.run(ctx, request, in, stream)
}

// agree says why a request is not answered.
func (s *Server) agree(ctx context.Context, r Request) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	theirs, err := ParseVersion(r.Version)
	if err != nil {
		return err
	}
	switch {
	case theirs.Major != s.version.Major || theirs.Minor != s.version.Minor:
		return fmt.Errorf("%w: the source has %s, the destination %s: use the same image at both", ErrVersion, s.version, theirs)
	case r.Block != s.Block:
		return errors.New("one end has a block volume, the other has not")
	}
	return nil
}

// run runs rsync between the two directions of the stream.
func (s *Server) run(ctx context.Context, r Request, in io.Reader, stream Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	root := s.Root
	if !s.Block {
		root += "/" // what is in it
	}
	cmd := exec.CommandContext(ctx, s.Program.Path, serverArgs(r, root)...) //nolint:gosec // G204: arguments are built here
	cmd.Env = environment()
	cmd.Dir = "/"
	ownGroup(cmd)
	said := &problems{}
	cmd.Stderr = said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start rsync: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start rsync: %w", err)
	}
	widen(stdin, stdout)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start rsync: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_, err := io.Copy(stdin, in)
		if err != nil && !errors.Is(err, unix.EPIPE) {
			cancel() // the peer is gone: rsync shall not wait for its own timeout
		}
		_ = stdin.Close() // the peer has nothing more to say; rsync may be gone already
	})
	sendErr := sendData(stream, stdout)
	if sendErr != nil {
		cancel()
		_, _ = io.Copy(io.Discard, stdout) // until rsync is gone
	}
	exit := exitMessage{Code: exitStatus(cmd.Wait()), Problems: said.lines}
	reap(cmd)
	if sendErr != nil {
		return fmt.Errorf("send what rsync says: %w", sendErr)
	}
	if err := stream.SetDeadline(time.Now().Add(partingTimeout)); err != nil {
		return err
	}
	if err := errors.Join(send(stream, messageExit, exit), stream.CloseWrite()); err != nil {
		return fmt.Errorf("tell how rsync ended: %w", err)
	}
	return nil
}

// sendData sends what comes from r as data messages.
func sendData(w io.Writer, r io.Reader) error {
	b := make([]byte, messageHeader+maxData)
	for {
		n, err := r.Read(b[messageHeader:])
		if n > 0 {
			putMessageHeader(b, messageData, n)
			if _, err := w.Write(b[:messageHeader+n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the pipe of a process ends in one way: with it
		}
	}
}
