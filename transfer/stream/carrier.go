package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Carrier brings bare connections between the two ends, one per stream. All
// methods are safe for concurrent use.
type Carrier interface {
	// Connect returns the next connection with the peer. At the source it returns
	// when the peer has asked for one. The connection outlives ctx.
	Connect(ctx context.Context) (net.Conn, error)
	// Name is the carrier's name in status.
	Name() string
	// Close ends the carrier, its connections too, and waits for what it started.
	Close() error
}

// ErrClosed is returned by a carrier that was closed.
var ErrClosed = errors.New("the carrier is closed")

// Serve takes streams from the carrier until ctx ends, up to atOnce at a time, and
// hands each to handle, which owns it; it is closed when handle returns. A
// connection whose peer cannot show that it is the other end of the session is
// dropped and logged, and never reaches handle. The result is nil when ctx ended.
func Serve(ctx context.Context, e End, c Carrier, atOnce int, log *slog.Logger, handle func(context.Context, *Stream)) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("serve streams: %w", err)
	}
	var wg sync.WaitGroup
	errs := make(chan error, atOnce)
	for range atOnce {
		wg.Go(func() { errs <- serve(ctx, e, c, log, handle) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// serve takes one stream after the other.
func serve(ctx context.Context, e End, c Carrier, log *slog.Logger, handle func(context.Context, *Stream)) error {
	for failures := 0; ctx.Err() == nil; {
		s, err := e.next(ctx, c)
		switch {
		case err == nil:
			failures = 0
			handle(ctx, s)
			_ = s.Close() // what handle had to say was said
		case errors.Is(err, ErrClosed):
			return err
		case ctx.Err() == nil:
			failures++
			log.WarnContext(ctx, "no stream with the peer", telemetry.KeyError, err)
			_ = pause(ctx, backoff(failures)) // the loop looks whether ctx has ended
		}
	}
	return nil
}

// next makes a stream of the carrier's next connection.
func (e End) next(ctx context.Context, c Carrier) (*Stream, error) {
	raw, err := c.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return e.secure(ctx, raw, c.Name())
}

// Opener opens streams to the source over the first of its carriers that works.
type Opener struct {
	end      End
	carriers []Carrier
	patience time.Duration

	mu     sync.Mutex
	chosen int // the carrier that worked last
}

// NewOpener returns the opener of the destination's end. Carriers are tried in
// their order, each for the given patience, the last until the caller's context
// ends; one that has worked is asked first from then on.
func NewOpener(e End, patience time.Duration, carriers ...Carrier) (*Opener, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("prepare to open streams: %w", err)
	}
	if e.Role != Destination || len(carriers) == 0 {
		return nil, errors.New("prepare to open streams: it takes the destination's end and a carrier")
	}
	return &Opener{end: e, carriers: carriers, patience: patience}, nil
}

// Open opens a stream. A peer that cannot show that it is the other end of the
// session gives ErrRefused. The stream ends when ctx does.
func (o *Opener) Open(ctx context.Context) (*Stream, error) {
	o.mu.Lock()
	first := o.chosen
	o.mu.Unlock()
	var errs []error
	for i := range o.carriers {
		n := (first + i) % len(o.carriers)
		s, err := o.open(ctx, o.carriers[n], i == len(o.carriers)-1)
		if err == nil {
			o.mu.Lock()
			o.chosen = n
			o.mu.Unlock()
			return s, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.carriers[n].Name(), err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("open a stream: %w", errors.Join(errs...))
}

// open tries one carrier again and again.
func (o *Opener) open(ctx context.Context, c Carrier, last bool) (*Stream, error) {
	try := ctx
	if !last {
		var cancel context.CancelFunc
		try, cancel = context.WithTimeout(ctx, o.patience)
		defer cancel()
	}
	for failures := 1; ; failures++ {
		raw, err := c.Connect(try)
		if err == nil {
			var s *Stream
			if s, err = o.end.secure(ctx, raw, c.Name()); err == nil {
				return s, nil
			}
		}
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrRefused) || try.Err() != nil {
			return nil, err
		}
		if pause(try, backoff(failures)) != nil {
			return nil, err
		}
	}
}

const (
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
)

// backoff doubles per failure, with jitter.
func backoff(failures int) time.Duration {
	wait := min(firstPause<<min(failures, 16), longestPause)
	return wait/2 + rand.N(wait/2) //nolint:gosec // G404: jitter, not a secret
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
