package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// settle brings the current stream up to date with the histories. It takes up
// one epoch at a time, and the next one only once it has all of that, so that an
// older record never replaces a newer one there, whatever the server remembers
// of former sources; until then readers read the newer epochs' histories
// themselves. What is not done now is done at the next opening.
func (l *local) settle(ctx context.Context, s site, o StreamOptions) (siteState, error) {
	if err := l.ensure(ctx, o.current(s)); err != nil {
		return siteState{}, err
	}
	deadline := time.Now().Add(drainWait)
	for {
		st, err := l.state(ctx, s)
		if err != nil {
			return st, err
		}
		next, waiting := nextSource(st)
		switch {
		case next != "":
			if err := l.takeUp(ctx, s, next); err != nil {
				return st, err
			}
			continue
		case !waiting:
			return st, l.forget(ctx, s, st)
		case time.Now().After(deadline):
			l.conn.log.Info("the current state does not take up the newest epoch yet", slog.String(telemetry.KeySite, s.name))
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// nextSource decides which epoch the current stream takes up next, if any, and
// whether one waits for an older one.
func nextSource(st siteState) (epoch string, waiting bool) {
	for i, h := range st.Histories {
		if h.Epoch <= st.Sourced {
			continue
		}
		if i == 0 || st.Sourced == "" || drained(st, st.Histories[i-1]) {
			return h.Epoch, false
		}
		return "", true
	}
	return "", false
}

// drained reports whether the current stream has all of a history.
func drained(st siteState, h historyState) bool {
	return h.Messages == 0 || st.Through.Compare(pipeline.Position{Epoch: h.Epoch, Seq: h.Last}) >= 0
}

func (l *local) takeUp(ctx context.Context, s site, epoch string) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.current())
		if err != nil {
			return err
		}
		cfg := stream.CachedInfo().Config
		for _, source := range cfg.Sources {
			if source.Name >= s.history(epoch) {
				return nil // somebody else was faster
			}
		}
		cfg.Sources = []*jetstream.StreamSource{s.source(epoch)}
		_, err = l.conn.js.UpdateStream(ctx, cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("have the current state of site %q take up epoch %s: %w", s.name, epoch, err)
	}
	return nil
}

// forget deletes closed histories of which retention has left nothing.
func (l *local) forget(ctx context.Context, s site, st siteState) error {
	for _, h := range st.Histories {
		if h.Open || h.Messages > 0 || h.Epoch >= st.Sourced {
			continue
		}
		err := l.conn.do(ctx, func(ctx context.Context) error { return l.conn.js.DeleteStream(ctx, h.Stream) })
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("forget epoch %s of site %q: %w", h.Epoch, s.name, err)
		}
	}
	return nil
}
