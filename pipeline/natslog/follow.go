package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

const (
	followAckWait = time.Minute
	// followPending bounds what is delivered and not settled.
	followPending = 10_000
	// followIdle is when the server forgets a consumer that nobody pulls from.
	followIdle = 10 * time.Minute
	// followCheck is how often a subscription looks for a newer epoch.
	followCheck = 5 * time.Second
	// followPatience is how long a lost consumer is made again before giving up.
	followPatience = time.Minute
	followBuffer   = 64
	followRetries  = 10
)

// ErrSuperseded reports that somebody follows under the same name since.
var ErrSuperseded = errors.New("another subscription has taken this name")

// subscription is a running Follow. One goroutine reads from the server and
// hands over to Next; it makes the consumer again when that is lost, so a
// restart of the server is invisible.
type subscription struct {
	h     *History
	name  string // of the consumer
	nonce string // tells our consumer from another one of the same name
	epoch string

	out    chan pipeline.Delivery
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why it ended; set before done is closed

	// generation numbers the attempts to make a consumer; settling is for the
	// newest only.
	generation atomic.Uint64

	// interrupt wakes the reading goroutine to look around.
	mu        sync.Mutex
	interrupt context.CancelFunc

	// The rest belongs to the reading goroutine.
	next     uint64 // the sequence to deliver next
	end      uint64 // the epoch's last sequence once it has ended, else 0
	ended    bool
	messages jetstream.MessagesContext
	counted  uint64 // the consumer's sequence of the last message
	// stuck is the record that is there and has not come since a time.
	stuck      uint64
	stuckSince time.Time
}

// Follow implements pipeline.History. A subscription survives reconnections
// and restarts of the server, in order and without a hole; after those, records
// that were delivered but not settled are not delivered again.
func (h *History) Follow(ctx context.Context, name string, after pipeline.Position) (pipeline.Subscription, error) {
	s := &subscription{
		h: h, name: consumerName(name), nonce: ulid.Make().String(), epoch: after.Epoch, next: after.Seq + 1,
		out: make(chan pipeline.Delivery, followBuffer), done: make(chan struct{}),
	}
	if err := s.begin(ctx, after); err != nil {
		return nil, fmt.Errorf("follow the history of site %q after %s: %w", h.site.name, after, err)
	}
	return s, nil
}

func (s *subscription) begin(ctx context.Context, after pipeline.Position) error {
	st, err := s.h.conn.admin.state(ctx, s.h.site)
	if err != nil {
		return err
	}
	newest, ok := st.newest()
	switch {
	case !ok:
		return pipeline.ErrNoHistory
	case after.IsZero():
		s.epoch = newest.Epoch
	case after.Epoch < newest.Epoch:
		return pipeline.ErrEpochEnded
	case after.Epoch > newest.Epoch:
		return fmt.Errorf("%w: the newest epoch is %s", pipeline.ErrGap, newest.Epoch)
	}
	if err := s.within(st); err != nil {
		return err
	}
	if err := s.makeConsumer(ctx, true); err != nil {
		return err
	}
	announced, err := s.h.conn.nc.Subscribe(s.h.site.announce(), func(*nats.Msg) { s.wake() })
	if err != nil {
		s.messages.Stop()
		return explainAPI(err)
	}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	forget := s.h.conn.onceReconnected(s.wake)
	go func() {
		defer close(s.done)
		defer forget()
		s.err = s.run(ctx)
		s.messages.Stop()
		if err := announced.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			s.h.conn.log.Debug("cannot unsubscribe", slog.Any(telemetry.KeyError, err))
		}
	}()
	return nil
}

// within checks that the next record is there or will be the next one stored.
func (s *subscription) within(st siteState) error {
	h, _ := st.history(s.epoch)
	if st.damaged(pipeline.Position{}) {
		return fmt.Errorf("%w: epoch %s ends at %d, but the current state has come to %s", pipeline.ErrGap, h.Epoch, h.Last, st.Through)
	}
	if s.next < h.First {
		return fmt.Errorf("%w: records %d to %d of epoch %s are no longer there", pipeline.ErrGap, s.next, h.First-1, h.Epoch)
	}
	if s.next > h.Last+1 {
		return fmt.Errorf("%w: epoch %s ends at %d, before record %d", pipeline.ErrGap, h.Epoch, h.Last, s.next-1)
	}
	return nil
}

// Next implements pipeline.Subscription.
func (s *subscription) Next(ctx context.Context) (pipeline.Delivery, error) {
	select {
	case d := <-s.out:
		return d, nil
	default:
	}
	select {
	case d := <-s.out:
		return d, nil
	case <-ctx.Done():
		return pipeline.Delivery{}, ctx.Err()
	case <-s.done:
	}
	select {
	case d := <-s.out: // what came before the end
		return d, nil
	default:
		return pipeline.Delivery{}, fmt.Errorf("follow the history of site %q: %w", s.h.site.name, s.err)
	}
}

// Close implements pipeline.Subscription. It deletes the consumer.
func (s *subscription) Close() error {
	s.cancel()
	<-s.done
	s.generation.Add(1) // nothing is settled any more
	if errors.Is(s.err, ErrSuperseded) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.h.conn.Healthy() != nil {
		return nil // the server forgets it by itself
	}
	mine, err := s.lookUp(ctx)
	if err == nil && mine {
		err = s.h.conn.js.DeleteConsumer(ctx, s.h.site.history(s.epoch), s.name)
	}
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		s.h.conn.log.Debug("cannot delete a consumer", slog.String(telemetry.KeyName, s.name), slog.Any(telemetry.KeyError, err))
	}
	return nil
}

// wake makes the reading goroutine look around now.
func (s *subscription) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupt != nil {
		s.interrupt()
	}
}

// run reads until the subscription ends.
func (s *subscription) run(ctx context.Context) error {
	for {
		err := s.read(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("the subscription is closed: %w", context.Canceled)
		case errors.Is(err, errLookAround):
			err = s.lookAround(ctx)
		}
		if errors.Is(err, errLost) {
			err = s.recover(ctx, err)
		}
		if err != nil {
			return err
		}
	}
}

var (
	errLookAround = errors.New("look around")
	// errLost reports that the consumer, or a message on its way, is lost.
	errLost = errors.New("the consumer is lost")
)

// read delivers messages until it is time to look around, or it fails. Handing
// over waits as long as it takes: only waiting for the server is interrupted.
func (s *subscription) read(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, followCheck)
	defer cancel()
	s.mu.Lock()
	s.interrupt = cancel
	s.mu.Unlock()
	for {
		if s.ended && s.next > s.end {
			return pipeline.ErrEpochEnded
		}
		msg, err := s.messages.Next(jetstream.NextContext(wait))
		switch {
		case err == nil:
			err = s.take(ctx, msg)
		case wait.Err() != nil, errors.Is(err, jetstream.ErrNoHeartbeat):
			err = errLookAround
		default:
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		if err == nil && wait.Err() != nil {
			err = errLookAround
		}
		if err != nil {
			return err
		}
	}
}

// take hands one message over, if it is the one that comes next.
func (s *subscription) take(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	seq := meta.Sequence.Stream
	if s.counted++; meta.Sequence.Consumer != s.counted {
		// The server sent something that did not arrive: it is not lost in the log.
		return fmt.Errorf("%w: a message was lost on the way", errLost)
	}
	if seq > s.next {
		return fmt.Errorf("%w: records %d to %d of epoch %s are missing", pipeline.ErrGap, s.next, seq-1, s.epoch)
	}
	d, err := s.delivery(ctx, msg, meta)
	if err != nil {
		return err
	}
	select {
	case s.out <- d:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errLost, ctx.Err())
	}
	if seq == s.next { // else it came again, because it was not settled in time
		s.next++
	}
	return nil
}

func (s *subscription) delivery(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata) (pipeline.Delivery, error) {
	m := historyMessage(s.epoch, msg, meta)
	rec, err := m.record(ctx, s.h.conn, s.h.site, false)
	d := pipeline.Delivery{Record: rec, Settler: &settler{msg: msg, s: s, generation: s.generation.Load()}}
	switch {
	case errors.Is(err, pipeline.ErrForeign):
		d.Invalid = err
	case err != nil:
		return d, fmt.Errorf("%w: %w", errLost, err)
	}
	return d, nil
}

// lookUp reports whether the consumer of our name is the one we made.
func (s *subscription) lookUp(ctx context.Context) (bool, error) {
	info, err := s.info(ctx)
	if err != nil {
		return false, err
	}
	return info.Config.Metadata[metaFollow] == s.nonce, nil
}

func (s *subscription) info(ctx context.Context) (info *jetstream.ConsumerInfo, err error) {
	err = s.h.conn.do(ctx, func(ctx context.Context) error {
		consumer, err := s.h.conn.js.Consumer(ctx, s.h.site.history(s.epoch), s.name)
		if err == nil {
			info = consumer.CachedInfo()
		}
		return err
	})
	if hasCode(err, codeConsumerOffline) {
		err = fmt.Errorf("%w: %w", jetstream.ErrConsumerNotFound, err) // its servers are down: whoever follows makes another
	}
	return info, err
}

// recover makes the consumer again where it stopped.
func (s *subscription) recover(ctx context.Context, lost error) error {
	s.messages.Stop()
	s.h.conn.log.Info("reading the history again", slog.String(telemetry.KeySite, s.h.site.name),
		slog.String(telemetry.KeyName, s.name), slog.Uint64(telemetry.KeySequence, s.next), slog.Any(telemetry.KeyReason, lost))
	attempt := func() error {
		st, err := s.h.conn.admin.state(ctx, s.h.site)
		if err == nil {
			if err := s.inspect(st); err != nil {
				return backoff.Permanent(err)
			}
			err = s.makeConsumer(ctx, false)
		}
		if errors.Is(err, ErrSuperseded) {
			return backoff.Permanent(err)
		}
		return err
	}
	// The first wait leaves a new subscription of the same name time to begin.
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(followPatience))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(policy.NextBackOff()):
	}
	return backoff.Retry(attempt, backoff.WithContext(policy, ctx))
}
