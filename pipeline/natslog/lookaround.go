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

// lookAround finds out whether the consumer is still ours and the epoch still
// the newest.
func (s *subscription) lookAround(ctx context.Context) error {
	mine, err := s.lookUp(ctx)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: %w", errLost, err)
	case err != nil:
		return s.later(err)
	case !mine:
		return ErrSuperseded
	}
	st, err := s.h.conn.admin.state(ctx, s.h.site)
	if err != nil {
		return s.later(err)
	}
	if err := s.inspect(st); err != nil {
		return err
	}
	return s.stalled(ctx, st)
}

// stalled finds out why a record that is there does not come: the server gives
// no sign when it cannot read one.
func (s *subscription) stalled(ctx context.Context, st siteState) error {
	ours, _ := st.history(s.epoch)
	switch {
	case s.next > ours.Last:
		s.stuck = 0
		return nil
	case s.stuck != s.next:
		s.stuck, s.stuckSince = s.next, time.Now()
		return nil
	case time.Since(s.stuckSince) < followCheck/2:
		return nil
	}
	err := s.h.conn.do(ctx, func(ctx context.Context) error {
		stream, err := s.h.conn.js.Stream(ctx, ours.Stream)
		if err == nil {
			_, err = led(stream).GetMsg(ctx, s.next)
		}
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: record %d of epoch %s cannot be read: %w", pipeline.ErrGap, s.next, s.epoch, err)
	}
	info, infoErr := s.info(ctx)
	switch {
	case err != nil || infoErr != nil:
		return s.later(errors.Join(err, infoErr))
	case info.NumAckPending >= followPending:
		return nil // it waits for settlements
	}
	return fmt.Errorf("%w: it stands still at record %d", errLost, s.next)
}

// later leaves open what could not be found out: the connection is down, it
// heals, and then we look again.
func (s *subscription) later(err error) error {
	s.h.conn.log.Debug("cannot look after a subscription", slog.String(telemetry.KeySite, s.h.site.name), slog.String(telemetry.KeyName, s.name), slog.Any(telemetry.KeyError, err))
	return nil
}

// inspect draws the conclusions from what the site's streams are now.
func (s *subscription) inspect(st siteState) error {
	newest, ok := st.newest()
	if !ok {
		return pipeline.ErrNoHistory
	}
	ours, ok := st.history(s.epoch)
	if newest.Epoch != s.epoch {
		if !ok {
			return pipeline.ErrEpochEnded
		}
		s.ended, s.end = true, ours.Last
		if s.next > s.end {
			return pipeline.ErrEpochEnded
		}
		return nil
	}
	return s.within(st)
}
