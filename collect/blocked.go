package collect

import (
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// block is why and until when a lane stands aside: the log could not take its event, and takes those of
// the others meanwhile.
type block struct {
	// size of the body that was not taken. What is smaller need not wait.
	size   int
	reason string
	// waiting is set until due, when the object is read again and handed to the log.
	waiting bool
	due     time.Time
	delay   time.Duration
}

// The delays between two attempts at an object that stands aside.
const (
	firstBlock = time.Second
	lastBlock  = time.Minute
)

// setAside takes back what is flying of a lane, since the log could not take it. It waits as a
// sighting whose body has to be read again: what many large objects weigh would keep
// everything else out. It reports whether the lane did not stand aside before.
func (o *outbox) setAside(l *lane, reason error, now time.Time) (first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := l.flying[len(l.flying)-1].sighting
	if loss := l.flying[0].sighting; loss != s {
		if l.loss != nil {
			ended(l.loss, reason, resultSuperseded) // of an object that the log has never held
		}
		l.loss = loss
	}
	first = l.block == nil
	if first {
		l.block = &block{}
		o.blocked[l.ref] = l
	}
	b := l.block
	b.size, b.reason, b.waiting = len(s.body), reason.Error(), true
	b.delay = min(max(2*b.delay, firstBlock), lastBlock)
	b.due = now.Add(pipeline.Jittered(b.delay))
	o.free(len(s.body))
	s.body, l.flying = nil, nil
	if l.next == nil {
		l.next, l.nextGen = s, l.flyingGen
		return first
	}
	ended(s, reason, resultSuperseded)
	o.progressOf(l.ref.GroupResource()).pending[l.flyingGen]--
	if size := len(l.next.body); l.mayTry(l.next) {
		o.schedule(l)
	} else {
		l.next.body = nil
		o.free(size)
	}
	return first
}

// standsAside reports whether the lane waits for its time to try again.
func (l *lane) standsAside() bool { return l.block != nil && l.block.waiting }

// mayTry reports whether a sighting may be handed to the log now. One that is smaller than what was not taken
// ends the waiting of its lane.
func (l *lane) mayTry(s *sighting) bool {
	if !l.standsAside() {
		return true
	}
	unread := s.presence == present && s.body == nil
	l.block.waiting = unread || len(s.body) >= l.block.size
	return !l.block.waiting
}

// unblock ends that a lane stands aside, and reports whether it did.
func (o *outbox) unblock(l *lane) bool {
	if l.block == nil {
		return false
	}
	l.block = nil
	delete(o.blocked, l.ref)
	return true
}

// readmit lets those that stand aside try again whose time has come, or all of them.
func (o *outbox) readmit(now time.Time, all bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.blocked {
		if b := l.block; b.waiting && (all || !now.Before(b.due)) {
			b.waiting = false
			o.schedule(l)
		}
	}
}

// standAside returns the number of objects that the log could not take when they were handed to it.
func (o *outbox) standAside() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.blocked)
}
