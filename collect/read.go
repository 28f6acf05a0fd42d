package collect

import (
	"context"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// readers is how many objects are read at a time after the outbox was full.
const readers = 4

// read reads the objects of which the outbox had no room for the body, until ctx ends.
func (t *term) read(ctx context.Context) {
	pause := newBackOff()
	var buf []byte
	for {
		l := t.outbox.takeUnread()
		if l == nil {
			select {
			case <-ctx.Done():
				return
			case <-t.outbox.unread.signal:
				continue
			}
		}
		var err error
		if buf, err = t.readOne(ctx, l, buf); err != nil {
			t.log.WarnContext(ctx, "cannot read object again", telemetry.KeyKind, l.ref.GroupResource().String(), telemetry.KeyError, err)
			wait(ctx, pause.NextBackOff())
			continue
		}
		pause.Reset()
	}
}

func (t *term) readOne(ctx context.Context, l *lane, buf []byte) ([]byte, error) {
	wanted := t.outbox.wanted(l)
	h := t.handlers.get(l.ref.GroupResource())
	if h == nil {
		t.outbox.doneReading(l, wanted, false) // its kind is not watched any more
		return buf, nil
	}
	o, err := t.source.Get(ctx, h.kind, l.ref.Namespace, l.ref.Name)
	switch {
	case err == nil:
		_, buf = h.take(ctx, o, buf)
		t.outbox.doneReading(l, wanted, true)
	case kube.IsNotFound(err):
		t.outbox.doneReading(l, wanted, false)
	default:
		t.outbox.doneReading(l, wanted, true) // its turn comes again
		return buf, err
	}
	return buf, nil
}
