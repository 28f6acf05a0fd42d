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
		l, wanted := t.outbox.takeUnread()
		if l == nil {
			select {
			case <-ctx.Done():
				return
			case <-t.outbox.unread.signal:
				continue
			}
		}
		var err error
		if buf, err = t.readOne(ctx, l, wanted, buf); err != nil {
			t.log.WarnContext(ctx, "cannot read object again", telemetry.KeyKind, l.ref.GroupResource().String(), telemetry.KeyError, err)
			wait(ctx, pause.NextBackOff())
			continue
		}
		pause.Reset()
	}
}

func (t *term) readOne(ctx context.Context, l *lane, wanted *sighting, buf []byte) ([]byte, error) {
	h := t.handlers.get(l.ref.GroupResource())
	if h == nil {
		t.outbox.answer(ctx, l, wanted, nil) // its kind is not watched any more
		return buf, nil
	}
	o, err := t.source.Get(ctx, h.kind, l.ref.Namespace, l.ref.Name)
	switch {
	case err == nil:
		if o.UID != wanted.uid {
			t.answers.Add(1) // replaced, or of another cluster
		}
		var read *sighting
		read, buf = h.sightingOf(ctx, o, buf)
		t.outbox.answer(ctx, l, wanted, read)
	case kube.IsNotFound(err):
		t.outbox.answer(ctx, l, wanted, nil)
	default:
		t.outbox.giveBack(l)
		return buf, err
	}
	return buf, nil
}
