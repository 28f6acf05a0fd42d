package natslog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// History reads a site's history; see pipeline.History. It is safe for
// concurrent use.
type History struct {
	conn *Conn
	site site
}

// State implements pipeline.History.
func (h *History) State(ctx context.Context) (pipeline.State, error) {
	st, err := h.conn.admin.state(ctx, h.site)
	if err != nil {
		return pipeline.State{}, fmt.Errorf("read the history of site %q: %w", h.site.name, err)
	}
	newest, ok := st.newest()
	if !ok {
		return pipeline.State{}, fmt.Errorf("read the history of site %q: %w", h.site.name, pipeline.ErrNoHistory)
	}
	return pipeline.State{
		First:    pipeline.Position{Epoch: newest.Epoch, Seq: newest.First},
		Last:     pipeline.Position{Epoch: newest.Epoch, Seq: newest.Last},
		LastTime: newest.LastTime,
		Bytes:    newest.Bytes,
		Origin:   st.Origin,
		Missing:  st.missing(),
	}, nil
}

// Current implements pipeline.History. It reads the current stream and then
// what the histories have beyond it, so a current stream that lags, or stands
// still, only makes it slower.
func (h *History) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		err := h.readCurrent(ctx, q, yield)
		if err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.Record{}, fmt.Errorf("read the current state of site %q: %w", h.site.name, err))
		}
	}
}

// errStopped ends a scan whose caller wants no more.
var errStopped = errors.New("stopped")

func (h *History) readCurrent(ctx context.Context, q pipeline.Query, yield func(pipeline.Record, error) bool) error {
	st, err := h.conn.admin.state(ctx, h.site)
	if err != nil {
		return err
	}
	newest, ok := st.newest()
	if !ok {
		return pipeline.ErrNoHistory
	}
	if newest.lacks(st.Through) {
		return fmt.Errorf("%w: the copy of epoch %s lacks records, a new epoch has to come over the link", pipeline.ErrGap, newest.Epoch)
	}
	emit := func(m message, err error) error {
		var rec pipeline.Record
		if err == nil {
			rec, err = m.record(ctx, h.conn, h.site, q.HeadersOnly)
		}
		switch {
		case err != nil && !errors.Is(err, pipeline.ErrForeign):
			return err
		case !yield(rec, err):
			return errStopped
		}
		return nil
	}
	request := readRequest{Start: 1, Kind: q.Kind, Heartbeat: q.Heartbeat, HeadersOnly: q.HeadersOnly}
	through := st.Through
	for again := true; again; {
		err = h.scan(ctx, request, st.CurrentLast, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			return emit(currentMessage(h.site, m, meta))
		})
		if err != nil {
			return err
		}
		request.Start, through = st.CurrentLast+1, st.Through
		// Up to where they end now: an object that changed while this was reading has
		// moved out of sight in the current stream.
		if st, err = h.conn.admin.state(ctx, h.site); err != nil {
			return err
		}
		// Retention may have passed meanwhile over what the current stream has since taken up.
		again = st.from(through).missing() > st.missing()
	}
	for _, epoch := range st.Histories {
		// The current stream takes up an epoch only when it has all of those before.
		if epoch.Epoch < through.Epoch {
			continue
		}
		request.Epoch, request.Start = epoch.Epoch, 1
		if epoch.Epoch == through.Epoch {
			request.Start = through.Seq + 1
		}
		// What an older epoch lacks was put anew in the one that began for that reason.
		request.Start = max(request.Start, epoch.First)
		err = h.scan(ctx, request, epoch.Last, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			return emit(historyMessage(epoch.Epoch, m, meta), nil)
		})
		if err != nil {
			return err
		}
	}
	if missing := st.from(through).missing(); missing > 0 && !q.Heartbeat {
		telemetry.Add(ctx, telemetry.MetricLogGaps, 1, telemetry.String(telemetry.KeySite, h.site.name))
		return fmt.Errorf("%w: %d records that follow the current state's last, %s, are gone", pipeline.ErrGap, missing, through)
	}
	return nil
}

// message is a stored message with its place in the history.
type message struct {
	subject string
	header  nats.Header
	data    []byte
	at      pipeline.Position
	stored  time.Time
}

func historyMessage(epoch string, m jetstream.Msg, meta *jetstream.MsgMetadata) message {
	return message{
		subject: m.Subject(), header: m.Headers(), data: m.Data(), stored: meta.Timestamp,
		at: pipeline.Position{Epoch: epoch, Seq: meta.Sequence.Stream},
	}
}

// currentMessage reads a message of the current stream, whose own sequence and
// subject mean nothing outside.
func currentMessage(s site, m jetstream.Msg, meta *jetstream.MsgMetadata) (message, error) {
	at, subject, ok := s.originOf(m.Headers().Get(headerStreamSource))
	if !ok {
		return message{}, fmt.Errorf("%w: message on %q has no origin in the history", pipeline.ErrForeign, m.Subject())
	}
	return message{subject: subject, header: m.Headers(), data: m.Data(), stored: meta.Timestamp, at: at}, nil
}

// record decodes the message. An error that wraps ErrForeign is about the
// message itself, another one about reading it.
func (m message) record(ctx context.Context, c *Conn, s site, headersOnly bool) (pipeline.Record, error) {
	rec := pipeline.Record{Position: m.at, Stored: m.stored}
	wire := pipeline.Message{Subject: m.subject, Header: m.header, Data: m.data}
	var err error
	if headersOnly {
		rec.Event, err = pipeline.DecodeHeaders(wire)
	} else {
		if check := m.header.Get(headerClaim); check != "" {
			if wire.Data, err = c.body(ctx, s, check); err != nil {
				return rec, fmt.Errorf("record %s: %w", m.at, err)
			}
		}
		rec.Event, err = pipeline.Decode(wire)
	}
	if err == nil && rec.Ref.Site != s.name {
		err = fmt.Errorf("%w: message on %q is of another site", pipeline.ErrForeign, m.subject)
	}
	if err != nil {
		rec.Event = pipeline.Event{}
		if ref, refErr := pipeline.ParseRef(m.subject); refErr == nil && ref.Site == s.name {
			rec.Ref = ref
		}
		return rec, fmt.Errorf("record %s: %w", m.at, err)
	}
	return rec, nil
}

// scan reads one stream; see the function scan.
func (h *History) scan(ctx context.Context, r readRequest, until uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	open := func(start uint64) opener {
		r.Start = start
		return func(ctx context.Context) (jetstream.Consumer, func(), error) {
			return h.conn.admin.reader(ctx, h.site, r)
		}
	}
	batch := pullMessages
	if r.HeadersOnly {
		batch = pullHeaders
	}
	return scan(ctx, h.conn, open, batch, r.Start, until, f)
}
