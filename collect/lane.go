package collect

import (
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// refusal says why an object is not written.
type refusal struct {
	// digest of the body that the log does not take; zero if the object cannot be read.
	digest pipeline.Digest
	reason string
	// again, if not nil, is what to enqueue to try again, at due; attempts have failed.
	again    *sighting
	due      time.Time
	attempts int
}

// lane is one object's way into the log.
type lane struct {
	ref pipeline.Ref
	// next is the newest sighting that is neither in the log nor being written.
	next *sighting
	// loss is the sighted end of the object that the log holds (or is being handed).
	loss *sighting
	// flying are the events being written. While reading is set, the object is being
	// read instead.
	flying  []planned
	reading bool
	// Where it is queued. It may be found there when it has nothing to do there any more.
	inReady, inUnread bool
	// The generations in which next and flying are counted; see progress.
	nextGen, flyingGen uint8
	// block is set while the lane stands aside.
	block *block
}

// busy reports whether somebody works on the lane: it must not be taken again.
func (l *lane) busy() bool { return len(l.flying) > 0 || l.reading }

// bodiless reports whether the newest sighting's body has to be read first.
func (l *lane) bodiless() bool { return l.next.presence == present && l.next.body == nil }

// lanes is a queue with a signal.
type lanes struct {
	queue  []*lane
	signal chan struct{} // of size 1: something was pushed
}

func (q *lanes) push(l *lane) {
	q.queue = append(q.queue, l)
	q.wake()
}

func (q *lanes) wake() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

func (q *lanes) front() *lane {
	if len(q.queue) == 0 {
		return nil
	}
	return q.queue[0]
}

// pop takes the front lane, which must be there, out.
func (q *lanes) pop() {
	q.queue[0] = nil
	q.queue = q.queue[1:]
	if len(q.queue) == 0 {
		q.queue = nil // let the backing array go
	}
}
