package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// trimMargin is how many records an open history keeps before those that it
// should: trimming is by number, and while it is done more are appended.
const trimMargin = 10_000

// Trim implements pipeline.Archive. It needs rights over streams: a site's user at
// the embedded server has none, and cannot shorten its history. What the current
// stream has not taken up yet is kept.
func (a *Archive) Trim(ctx context.Context, before pipeline.Position) error {
	if err := (&local{conn: a.conn}).trim(ctx, a.site, before, trimMargin); err != nil {
		return fmt.Errorf("trim the history of site %q before %s: %w", a.site.name, before, err)
	}
	return nil
}

func (l *local) trim(ctx context.Context, s site, before pipeline.Position, margin uint64) error {
	st, err := l.state(ctx, s)
	if err != nil {
		return err
	}
	if err := l.lift(ctx, s, st); err != nil {
		return err
	}
	if taken := (pipeline.Position{Epoch: st.Through.Epoch, Seq: st.Through.Seq + 1}); before.Compare(taken) > 0 {
		before = taken
	}
	for _, h := range st.Histories {
		switch {
		case h.Epoch > before.Epoch:
		case h.Epoch < before.Epoch && !h.Open && h.Epoch < st.Sourced:
			err := l.conn.do(ctx, func(ctx context.Context) error { return l.conn.js.DeleteStream(ctx, h.Stream) })
			if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("delete epoch %s: %w", h.Epoch, err)
			}
			l.conn.log.Info("let go of an epoch", slog.String(telemetry.KeySite, s.name), slog.String(telemetry.KeyEpoch, h.Epoch))
		case h.Epoch == before.Epoch:
			spare := margin
			if !h.Open {
				spare = 0
			}
			if err := l.shorten(ctx, s, h, before.Seq, spare); err != nil {
				return err
			}
		}
	}
	return nil
}

// shorten has a history drop records from its front. The stream denies deletion to
// everybody, so it is given a limit for a moment, and then none again: nothing but a
// deliberate act ever lets go of history by number.
func (l *local) shorten(ctx context.Context, s site, h historyState, first, margin uint64) error {
	if h.Messages == 0 || first <= h.First+margin {
		return nil
	}
	keep := int64(max(1, h.Last+1+margin-min(first, h.Last+1))) //nolint:gosec // G115: far below
	err := l.limit(ctx, h, keep)
	// The limit goes again, whatever becomes of the caller.
	if err := errors.Join(err, l.limit(context.WithoutCancel(ctx), h, -1)); err != nil {
		return err
	}
	st, err := l.histories(ctx, s)
	if err != nil {
		return err
	}
	if now, ok := st.history(h.Epoch); ok && now.First > first {
		l.conn.log.Error("more was appended while the history was trimmed than it could keep", slog.String(telemetry.KeySite, s.name),
			slog.String(telemetry.KeyEpoch, h.Epoch), slog.Uint64(telemetry.KeySequence, first), slog.Uint64(telemetry.KeyCount, now.First-first))
	}
	return nil
}

// lift takes away the limits of trimmings that were cut off: with one, a history would lose a record of its front for
// each that is appended.
func (l *local) lift(ctx context.Context, s site, st siteState) error {
	for _, h := range st.Histories {
		if !h.Trimming {
			continue
		}
		if err := l.limit(ctx, h, -1); err != nil {
			return err
		}
		l.conn.log.Warn("a trimming was cut off, took its limit away", slog.String(telemetry.KeySite, s.name), slog.String(telemetry.KeyEpoch, h.Epoch))
	}
	return nil
}

// liftAll does it for all sites.
func (l *local) liftAll(ctx context.Context) error {
	sites, err := l.conn.Sites(ctx)
	if err != nil {
		return err
	}
	for _, name := range sites {
		s := siteOf(name)
		st, err := l.histories(ctx, s)
		if err != nil {
			return err
		}
		if err := l.lift(ctx, s, st); err != nil {
			return err
		}
	}
	return nil
}

// limit sets how many records a history may hold, -1 for any number.
func (l *local) limit(ctx context.Context, h historyState, records int64) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, h.Stream)
		if err != nil {
			return err
		}
		cfg := stream.CachedInfo().Config
		if cfg.MaxMsgs == records {
			return nil
		}
		cfg.MaxMsgs = records
		_, err = l.conn.js.UpdateStream(ctx, cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("limit epoch %s: %w", h.Epoch, err)
	}
	return nil
}
