package collect

import (
	"context"
	"errors"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// take plans the next batch: lanes in the order they became ready, up to the limits. It
// returns none when nothing is ready.
func (o *outbox) take(maxEvents, maxBytes int) []*lane {
	o.mu.Lock()
	defer o.mu.Unlock()
	var batch []*lane
	events, size := 0, 0
	for events+2 <= maxEvents {
		l := o.ready.front()
		if l == nil || l.next != nil && size > 0 && size+len(l.next.body) > maxBytes {
			break
		}
		o.ready.pop()
		l.inReady = false
		if l.next != nil && !l.busy() && o.stale(l.next) {
			o.free(len(l.next.body))
			l.next.body = nil
		}
		if l.next == nil || l.busy() || l.bodiless() {
			o.schedule(l)
			o.retire(l)
			continue
		}
		base, known := o.inv.get(l.ref)
		l.flying = plan(l.ref, base, known, o.inv.uidText, l.loss, l.next)
		if l.loss != nil && (len(l.flying) == 0 || l.flying[0].sighting != l.loss) {
			ended(l.loss, nil, resultSuperseded)
		}
		l.loss = nil
		if len(l.flying) == 0 {
			o.inv.refresh(l.ref, number(l.next.version))
			delete(o.refused, l.ref)
			o.drop(l, resultUnchanged)
			continue
		}
		size += len(l.next.body)
		events += len(l.flying)
		l.flyingGen, l.next = l.nextGen, nil
		batch = append(batch, l)
	}
	if len(o.ready.queue) > 0 {
		o.ready.wake()
	}
	return batch
}

// settle notes that events are durable, all at once: who waits for room is woken once. It returns those whose
// lane stood aside until then.
func (o *outbox) settle(done []flight) (unblocked []flight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range done {
		if o.land(f.lane, f.planned, nil) {
			unblocked = append(unblocked, f)
		}
	}
	return unblocked
}

// settleRefused notes that the log refuses an event for good.
func (o *outbox) settleRefused(f flight, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.land(f.lane, f.planned, err)
}

// land notes what became of an event: err is nil when it is durable, else the log
// refuses it for good. The lane's last event frees it. unblocked is set if the lane stood aside until then.
func (o *outbox) land(l *lane, done planned, err error) (unblocked bool) {
	switch {
	case err != nil:
		if done.Op == pipeline.OpPut {
			reason := "the log does not take " + objectName(l.ref)
			if errors.Is(err, pipeline.ErrTooLarge) {
				reason += ": it is too large"
			}
			o.refused[l.ref] = refusal{digest: done.Digest, reason: reason}
		}
	case done.Op == pipeline.OpPut:
		delete(o.refused, l.ref)
		o.inv.put(l.ref, entry{uid: o.inv.uidOf(done.UID), digest: done.Digest, version: number(done.Version)})
	default:
		o.inv.remove(l.ref)
	}
	l.flying = l.flying[1:]
	last := len(l.flying) == 0
	if last || l.flying[0].sighting != done.sighting {
		ended(done.sighting, err, resultDurable)
	}
	if !last {
		return false
	}
	l.flying = nil
	unblocked = o.unblock(l)
	o.free(len(done.sighting.body))
	o.progressOf(l.ref.GroupResource()).pending[l.flyingGen]--
	o.schedule(l)
	o.retire(l)
	return unblocked
}

// refresh notes a newer version of an entry.
func (i *inventory) refresh(ref pipeline.Ref, version uint64) {
	if e, ok := i.get(ref); ok && version > e.version {
		e.version = version
		i.put(ref, e)
	}
}

// takeUnread returns the next lane whose object has to be read, and the sighting it has to be
// read for; nil if there is none. The caller ends it with answer or giveBack.
func (o *outbox) takeUnread() (*lane, *sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		l := o.unread.front()
		if l == nil {
			return nil, nil
		}
		idle := l.next == nil || l.busy() || !l.bodiless()
		if !idle && o.bytes >= o.maxBytes {
			return nil, nil // free wakes the reader
		}
		o.unread.pop()
		l.inUnread = false
		if idle {
			o.schedule(l)
			o.retire(l)
			continue
		}
		l.reading = true
		if len(o.unread.queue) > 0 {
			o.unread.wake()
		}
		return l, l.next
	}
}

// answer ends what takeUnread began, with what was read: nil if the object is not there
// (the watch will tell its end) or not to be written. wanted is the sighting that it was
// read for; if that is not the newest any more, the answer may be older than what is known,
// and is dropped.
func (o *outbox) answer(ctx context.Context, l *lane, wanted, read *sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.reading = false
	switch {
	case l.next != wanted:
	case read == nil:
		o.drop(l, resultSuperseded)
	default:
		o.sight(ctx, l.ref, read)
	}
	o.schedule(l)
	o.retire(l)
}

// giveBack ends what takeUnread began without an answer: the lane's turn comes again.
func (o *outbox) giveBack(l *lane) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.reading = false
	o.schedule(l)
	o.retire(l)
}

// abandon ends the spans of everything that is left.
func (o *outbox) abandon(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lanes {
		open := map[*sighting]bool{}
		for _, s := range []*sighting{l.next, l.loss} {
			if s != nil {
				open[s] = true
			}
		}
		for _, f := range l.flying {
			open[f.sighting] = true
		}
		for s := range open {
			ended(s, err, resultSuperseded)
		}
	}
	clear(o.lanes)
	clear(o.blocked)
}
