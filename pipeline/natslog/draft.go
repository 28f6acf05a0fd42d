package natslog

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// draft is the messages of one append. Each is made of its event when it is asked for,
// so that a server can take the first while the last are being made.
type draft struct {
	events []pipeline.Event
	msgs   []*nats.Msg // as far as they are made
	hash   hash.Hash
	named  []byte
}

func (w *Writer) draft(events []pipeline.Event) (*draft, error) {
	if len(events) > pipeline.MaxBatch {
		return nil, fmt.Errorf("%d events at once, %d are possible: %w", len(events), pipeline.MaxBatch, pipeline.ErrTooLarge)
	}
	for _, e := range events {
		if e.Ref.Site != w.site.name {
			return nil, fmt.Errorf("event of %s belongs to another site", e.Ref)
		}
	}
	d := &draft{events: events, msgs: make([]*nats.Msg, 0, len(events)), hash: sha256.New()}
	if limit := w.opts.MaxBytes; limit > 0 && d.atMost() > limit {
		total, err := d.wireSize()
		if err == nil && total > limit {
			err = fmt.Errorf("%d bytes at once, the history is limited to %d: %w", total, limit, pipeline.ErrTooLarge)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// message returns a message; those before it are made too.
func (d *draft) message(i int) (*nats.Msg, error) {
	for len(d.msgs) <= i {
		m, err := pipeline.Encode(d.events[len(d.msgs)])
		if err != nil {
			return nil, err
		}
		msg := &nats.Msg{Subject: m.Subject, Header: nats.Header(m.Header), Data: m.Data}
		d.msgs = append(d.msgs, msg)
		d.named = d.named[:0]
		for _, part := range [...]string{m.Subject, msg.Header.Get(pipeline.HeaderID), msg.Header.Get(pipeline.HeaderDigest)} {
			d.named = append(append(strconv.AppendInt(d.named, int64(len(part)), 10), ':'), part...)
		}
		d.hash.Write(d.named)
	}
	return d.msgs[i], nil
}

// all makes all messages, and returns them.
func (d *draft) all() ([]*nats.Msg, error) {
	_, err := d.message(len(d.events) - 1)
	return d.msgs, err
}

// sum tells whether two appends are the same. All messages must be made.
func (d *draft) sum() (sum [sha256.Size]byte) {
	d.hash.Sum(sum[:0])
	return sum
}

// largest is the size of the largest body, in bytes.
func (d *draft) largest() int {
	size := 0
	for _, e := range d.events {
		size = max(size, len(e.Body))
	}
	return size
}

// atMost is above what the messages can occupy on the wire, and needs none of them.
func (d *draft) atMost() int64 {
	var total int64
	for _, e := range d.events {
		total += int64(len(e.Body) + maxHeaders)
	}
	return total
}

// wireSize is what the messages occupy on the wire.
func (d *draft) wireSize() (int64, error) {
	msgs, err := d.all()
	var total int64
	for _, m := range msgs {
		total += int64(len(m.Data) + len(m.Subject) + headerSize(m.Header))
	}
	return total, err
}
