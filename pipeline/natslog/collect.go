package natslog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// claimGrace is how long a body is kept in any case: its record is appended
// after it was stored.
const claimGrace = time.Hour

// CollectClaims removes the large bodies to which no record of the site refers
// any more: retention has removed the records, or an append was given up. It
// reads the headers of the whole history, so it is for now and then. It may run beside everything else.
// It returns the number of bodies removed. An embedded server does it for its sites by itself: there this
// only asks it to do so soon, and returns 0.
func (c *Conn) CollectClaims(ctx context.Context, siteName string) (int, error) {
	if r, ok := c.admin.(*remote); ok {
		if err := r.tidy(ctx, siteOf(siteName)); !errors.Is(err, errNoSteward) {
			return 0, err
		}
	}
	removed, err := c.collectClaims(ctx, siteOf(siteName), time.Now().Add(-claimGrace))
	if err != nil {
		return removed, fmt.Errorf("collect the large bodies of site %q: %w", siteName, err)
	}
	return removed, nil
}

// CollectClaims is Conn.CollectClaims for the writer's site.
func (w *Writer) CollectClaims(ctx context.Context) (int, error) {
	return w.conn.CollectClaims(ctx, w.site.name)
}

func (c *Conn) collectClaims(ctx context.Context, s site, before time.Time) (int, error) {
	// First the bodies, then the references: a body that is stored again
	// meanwhile has a later sequence and is left alone.
	pieces, err := c.storedPieces(ctx, s, before)
	if err != nil || len(pieces) == 0 {
		return 0, err
	}
	referred, err := c.referredClaims(ctx, s)
	if err != nil {
		return 0, err
	}
	removed := map[string]bool{}
	for subject, seq := range pieces {
		digest, _, _ := strings.Cut(strings.TrimPrefix(subject, s.claimSubject()+"."), ".")
		if referred[digest] {
			continue
		}
		err := c.do(ctx, func(ctx context.Context) error { return purge(ctx, c.nc, s.claims(), subject, seq) })
		if err != nil {
			return len(removed), err
		}
		removed[digest] = true
	}
	return len(removed), nil
}

// storedPieces lists the pieces stored before a time, with their sequences.
func (c *Conn) storedPieces(ctx context.Context, s site, before time.Time) (map[string]uint64, error) {
	pieces := map[string]uint64{}
	err := c.scanHeaders(ctx, s.claims(), func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if meta.Timestamp.Before(before) {
			pieces[m.Subject()] = meta.Sequence.Stream
		}
		return nil
	})
	return pieces, err
}

// referredClaims is the set of digests to which the histories and the current
// stream refer.
func (c *Conn) referredClaims(ctx context.Context, s site) (map[string]bool, error) {
	st, err := c.admin.state(ctx, s)
	if err != nil {
		return nil, err
	}
	referred := map[string]bool{}
	note := func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if digest, _, ok := strings.Cut(m.Headers().Get(headerClaim), "/"); ok {
			referred[digest] = true
		}
		return nil
	}
	streams := []string{s.current()}
	for _, h := range st.Histories {
		streams = append(streams, h.Stream)
	}
	for _, stream := range streams {
		if err := c.scanHeaders(ctx, stream, note); err != nil {
			return nil, err
		}
	}
	return referred, nil
}

// scanHeaders reads a stream as it is now, without bodies. A stream that does
// not exist is empty.
func (c *Conn) scanHeaders(ctx context.Context, stream string, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	end, err := c.lastSeq(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	open := func(start uint64) opener {
		return func(ctx context.Context) (jetstream.Consumer, func(), error) {
			return (&local{conn: c}).temporary(ctx, stream, jetstream.ConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, HeadersOnly: true,
			})
		}
	}
	return scan(ctx, c, open, pullHeaders, 1, end, f)
}

func (c *Conn) lastSeq(ctx context.Context, name string) (last uint64, err error) {
	err = c.do(ctx, func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, name)
		if err == nil {
			last = stream.CachedInfo().State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read stream %q: %w", name, err)
	}
	return last, nil
}
