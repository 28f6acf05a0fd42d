package natslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// makeConsumer makes the consumer so that it begins with the next record, in
// place of one that is there already. Unless first is set, only our own is replaced.
func (s *subscription) makeConsumer(ctx context.Context, first bool) error {
	stream := s.h.site.history(s.epoch)
	cfg := jetstream.ConsumerConfig{
		Name:              s.name,
		Description:       "follows the history of site " + s.h.site.name,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       s.next,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           followAckWait,
		MaxDeliver:        -1,
		MaxAckPending:     followPending,
		MemoryStorage:     true,
		InactiveThreshold: followIdle,
		Metadata:          map[string]string{metaFollow: s.nonce},
	}
	var consumer jetstream.Consumer
	var err error
	if cfg.Replicas, err = s.h.conn.replicas(ctx, stream); err != nil {
		return err
	}
	for try := 0; ; try++ {
		// Different each time: making a consumer that exists with the same
		// configuration would go on with it, and with what it has delivered.
		cfg.Metadata[metaAttempt] = strconv.FormatUint(s.generation.Add(1), 10)
		if first || try > 0 {
			err := s.drop(ctx, stream)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				return fmt.Errorf("replace consumer %q: %w", s.name, err)
			}
		}
		consumer, err = s.create(ctx, stream, cfg)
		if err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrConsumerExists) || try >= followRetries {
			return fmt.Errorf("create consumer %q: %w", s.name, err)
		}
		if first {
			continue
		}
		mine, err := s.lookUp(ctx)
		switch {
		case err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound):
			return fmt.Errorf("look up consumer %q: %w", s.name, err)
		case err == nil && !mine:
			return ErrSuperseded
		}
	}
	s.counted = 0
	s.messages, err = consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(pullMessages, s.h.conn.pullLimit()),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("read from consumer %q: %w", s.name, err)
	}
	return nil
}

// drop deletes the consumer of our name. On a cluster the answer gets lost when the consumer has no leader yet, or
// none any more, as one that was made just before: it is asked again.
func (s *subscription) drop(ctx context.Context, stream string) error {
	passes := func(err error) bool { return errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil }
	return s.h.conn.patiently(ctx, passes, func() error {
		return s.h.conn.do(ctx, func(ctx context.Context) error {
			if s.h.conn.clustered() {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, electionAnswer)
				defer cancel()
			}
			return s.h.conn.js.DeleteConsumer(ctx, stream, s.name)
		})
	})
}

func (s *subscription) create(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (consumer jetstream.Consumer, err error) {
	err = s.h.conn.do(ctx, func(ctx context.Context) error {
		consumer, err = s.h.conn.js.CreateConsumer(ctx, stream, cfg)
		return err
	})
	return consumer, err
}
