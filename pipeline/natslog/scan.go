package natslog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How much a reader asks for in advance: messages, and bytes at most, but
// always room for the largest message.
const (
	pullMessages  = 500
	pullHeaders   = 2000
	pullBytes     = 16 << 20
	pullExpiry    = 30 * time.Second
	pullHeartbeat = 2 * time.Second
)

const (
	// scanIdle is how long a scan waits for the next message before it asks
	// whether there is one.
	scanIdle     = 2 * time.Second
	scanAttempts = 5
	scanBackoff  = 50 * time.Millisecond
)

func (c *Conn) pullLimit() int { return max(pullBytes, 2*int(c.nc.MaxPayload())) }

// opener makes a consumer that does not acknowledge. release says that it is no
// longer needed.
type opener func(ctx context.Context) (consumer jetstream.Consumer, release func(), err error)

// errScan marks failures of reading that another attempt may get over.
var errScan = errors.New("reading was interrupted")

// errCount has another consumer count what is left: one that runs while messages
// are replaced counts too few in the end, a new one counts what there is.
var errCount = errors.New("nothing more is announced")

// scan calls f with every message of a stream from sequence start to until, in
// order and once. open makes a consumer that begins at a sequence. It begins
// again after a lost message, a lost consumer or a lost connection, and gives up
// after some attempts without progress, or with f's error.
func scan(ctx context.Context, c *Conn, open func(start uint64) opener, batch int, start, until uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	next := start
	once := func() error {
		consumer, release, err := open(next)(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errScan, err)
		}
		defer release()
		err = scanConsumer(ctx, consumer, batch, c.pullLimit(), until, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			err := f(m, meta)
			if err == nil {
				next = meta.Sequence.Stream + 1
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := c.behind(ctx, consumer.CachedInfo(), next, until); err != nil {
			return fmt.Errorf("%w: %w", errScan, err)
		}
		return nil
	}
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(scanBackoff))
	for failures := 0; next <= until; {
		if err := ctx.Err(); err != nil {
			return err
		}
		before := next
		err := once()
		if errors.Is(err, errCount) {
			continue
		}
		if err == nil || !errors.Is(err, errScan) {
			return err
		}
		if next > before {
			failures = 0
			retry.Reset()
		}
		if failures++; failures > scanAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry.NextBackOff()):
		}
	}
	return nil
}

// scanConsumer reads what one consumer delivers.
func scanConsumer(ctx context.Context, consumer jetstream.Consumer, batch, limit int, until uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(batch, limit),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("%w: %w", errScan, err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for delivered := uint64(1); ; delivered++ {
		msg, err := messages.Next(jetstream.NextMaxWait(scanIdle))
		if err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, nats.ErrTimeout) && exhausted(ctx, consumer, delivered-1):
				return nil
			}
			return fmt.Errorf("%w: %w", errScan, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("%w: %w", errScan, err)
		}
		if meta.Sequence.Consumer != delivered {
			return fmt.Errorf("%w: a message was lost on the way", errScan)
		}
		if meta.Sequence.Stream > until {
			return nil
		}
		if err := f(msg, meta); err != nil {
			return err
		}
		if meta.Sequence.Stream == until {
			return nil
		}
		if meta.NumPending == 0 {
			return errCount
		}
	}
}

// exhausted reports whether the consumer has nothing more, though it announced
// more: newer messages may have replaced what was pending.
func exhausted(ctx context.Context, consumer jetstream.Consumer, delivered uint64) bool {
	info, err := consumer.Info(ctx)
	return err == nil && info.NumPending == 0 && info.Delivered.Consumer == delivered
}
