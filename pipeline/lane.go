package pipeline

import (
	"container/list"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// item is one record on its way through the pump. While a worker has it, only
// that worker uses the fields below work; all else belongs to lanes.
type item struct {
	Delivery
	lane *lane
	kind string
	size int64

	order uint64        // of submission
	fresh *list.Element // in lanes.fresh until the first attempt is over
	retry *list.Element // in lanes.retrying
	index int           // in lanes.oldest
	young int           // in lanes.unsettled, -1 if it counts no more
	// redo says that this very record is parked: it has one attempt, and counts as
	// parked, not as held.
	redo bool
	// failed says that an attempt has failed: counted as retrying, not as pending.
	failed bool

	// work
	span     telemetry.Span
	trace    telemetry.TraceContext // of span
	stage    stage
	attempts int // charged to the budget
	tries    int // all attempts
	first    time.Time
	result   Result
	cause    error // why the last attempt failed
	early    bool  // parked before its budget was spent
	known    bool  // parked as it was before: nothing new
	silent   bool  // known, and for the same reason
	wakes    uint64
	delays   *backoff.ExponentialBackOff
}

// stage is what is left to do for an item before it is settled. A stage that
// fails is repeated; only applying has a budget.
type stage uint8

const (
	applying stage = iota
	parking        // it cannot be applied: make its dead letter
	healing        // it was applied: remove the dead letter there is
)

// lane holds what is unsettled for one Ref: one item that is queued, waiting or
// being worked on, and while it is being worked on the newest one after it.
type lane struct {
	ref   Ref
	kind  *kindCount
	state laneState
	cur   *item
	next  *item

	queue *list.List    // the queue it stands in, while queued
	place *list.Element // in queue
	due   time.Time     // of the next attempt, while waiting
	timer int           // index in lanes.timers, while waiting
	again bool          // the attempt that runs came from the retry queue
	// cooling: while waiting, its item was not tried yet; the object has only just changed.
	cooling bool
}

type laneState uint8

const (
	queued laneState = iota
	running
	waiting
)

// lanes decides what is worked on next. It does no I/O, knows no time but what
// it is told, and is guarded by Pump.mu.
type lanes struct {
	maxPending, maxRetrying       int
	maxBytes, maxRetryingBytes    int64
	maxRunningAgain, runningAgain int
	pace                          time.Duration

	byRef map[Ref]*lane
	kinds map[GroupResource]*kindCount

	queue      *list.List       // lanes whose item was not tried yet
	retryQueue *list.List       // lanes to be tried again now
	timers     *priority[*lane] // lanes to be tried again later, by due
	// retrying are the items to be applied again, longest first.
	retrying      *list.List
	retryingBytes int64

	held   int
	failed int
	bytes  int64
	oldest *priority[*item] // all items held, by position
	// unsettled are those of them that were never settled before.
	unsettled *priority[*item]
	redone    int        // items with redo
	fresh     *list.List // items not tried yet, in the order of submission
	// cool says, for what has changed lately, when it may again; changes are those
	// in that order.
	cool    map[Ref]time.Time
	changes []change
	order   uint64 // of the last submission
}

// change is an object that has changed, and when it may again.
type change struct {
	ref Ref
	due time.Time
}

func newLanes(cfg PumpConfig) *lanes {
	return &lanes{
		pace: cfg.Pace, cool: map[Ref]time.Time{},
		maxPending: cfg.MaxPending, maxRetrying: max(1, cfg.MaxPending/2),
		maxBytes: cfg.MaxPendingBytes, maxRetryingBytes: cfg.MaxPendingBytes / 2,
		maxRunningAgain: max(1, cfg.Workers/2),
		byRef:           map[Ref]*lane{}, kinds: map[GroupResource]*kindCount{},
		timers: &priority[*lane]{
			before: func(a, b *lane) bool { return a.due.Before(b.due) },
			place:  func(l *lane) *int { return &l.timer },
		},
		oldest: &priority[*item]{
			before: func(a, b *item) bool { return a.Position.Compare(b.Position) < 0 },
			place:  func(it *item) *int { return &it.index },
		},
		unsettled: &priority[*item]{
			before: func(a, b *item) bool { return a.Position.Compare(b.Position) < 0 },
			place:  func(it *item) *int { return &it.young },
		},
		queue: list.New(), retryQueue: list.New(), retrying: list.New(), fresh: list.New(),
	}
}

// full reports whether a record of ref has to wait outside. One that takes the
// place of another never has to.
func (ls *lanes) full(ref Ref) bool {
	if ls.held < ls.maxPending && ls.bytes < ls.maxBytes {
		return false
	}
	l := ls.byRef[ref]
	return l == nil || l.state == running && l.next == nil
}

// add takes in an item and returns the one that it makes superfluous: nil, the
// older one, or the given one when it is the older.
func (ls *lanes) add(it *item) (superseded *item) {
	l := ls.byRef[it.Ref]
	if l == nil {
		l = &lane{ref: it.Ref, kind: ls.kind(it.Ref.GroupResource()), cur: it}
		ls.byRef[it.Ref] = l
		ls.hold(l, it)
		ls.start(l)
		return nil
	}
	former := l.cur
	if l.next != nil {
		former = l.next
	}
	if it.Position.Compare(former.Position) <= 0 {
		return it
	}
	if l.state == running {
		superseded, l.next = l.next, it
	} else {
		superseded, l.cur = l.cur, it
	}
	ls.hold(l, it)
	if superseded == nil {
		return nil
	}
	if superseded.fresh != nil { // whoever waits for that Ref goes on waiting
		it.order = superseded.order
		it.fresh.Value = it
		ls.fresh.MoveBefore(it.fresh, superseded.fresh)
	}
	ls.drop(superseded)
	if l.state != running && l.queue != ls.queue && !l.cooling {
		ls.unqueue(l)
		ls.enqueue(l, ls.queue)
	}
	return superseded
}

// take returns the item to work on now, or nil. Retries that are due go first,
// as long as enough workers stay free of them.
func (ls *lanes) take() *item {
	q := ls.queue
	if ls.retryQueue.Len() > 0 && ls.runningAgain < ls.maxRunningAgain {
		q = ls.retryQueue
	}
	front := q.Front()
	if front == nil {
		return nil
	}
	l := valueOf[*lane](front)
	l.again = q == ls.retryQueue
	if l.again {
		ls.runningAgain++
	}
	ls.unqueue(l)
	l.state = running
	return l.cur
}

// done takes out the item that was worked on, for good. If a newer one waits in
// its lane, that is next, at once.
func (ls *lanes) done(it *item) {
	l := it.lane
	ls.stopped(l)
	ls.drop(it)
	if l.cur = l.next; l.cur == nil {
		delete(ls.byRef, l.ref)
		return
	}
	l.next = nil
	ls.start(l)
}

// start queues a lane whose item was not tried yet: at once, or when the object
// may change again.
func (ls *lanes) start(l *lane) {
	due, hot := ls.cool[l.ref]
	if !hot {
		ls.enqueue(l, ls.queue)
		return
	}
	l.state, l.due, l.cooling = waiting, due, true
	ls.timers.push(l)
}

// changed has the object of ref change again no sooner than the pace allows.
func (ls *lanes) changed(ref Ref, now time.Time) {
	if ls.pace <= 0 {
		return
	}
	ls.coolDown(now)
	due := now.Add(ls.pace)
	ls.cool[ref] = due
	ls.changes = append(ls.changes, change{ref, due})
}

// coolDown forgets changes that are long enough ago.
func (ls *lanes) coolDown(now time.Time) {
	n := 0
	for ; n < len(ls.changes) && !ls.changes[n].due.After(now); n++ {
		if c := ls.changes[n]; ls.cool[c.ref].Equal(c.due) {
			delete(ls.cool, c.ref)
		}
	}
	if ls.changes = ls.changes[n:]; len(ls.changes) == 0 {
		ls.changes = nil // let the backing array go
	}
}

// keep keeps the item that was worked on, to be worked on again at due; the
// zero time is now. If there is a newer one, that takes its place and is returned.
func (ls *lanes) keep(it *item, due time.Time) (newer *item) {
	l := it.lane
	if newer = l.next; newer != nil {
		ls.done(it)
		return newer
	}
	ls.stopped(l)
	ls.tried(it)
	if !it.failed && !it.redo {
		it.failed = true
		l.kind.retrying++
		ls.failed++
	}
	switch {
	case it.stage != applying:
		ls.forgetRetry(it)
	case it.retry == nil:
		it.retry = ls.retrying.PushBack(it)
		ls.retryingBytes += it.size
	}
	if due.IsZero() {
		ls.enqueue(l, ls.retryQueue)
	} else {
		l.state, l.due = waiting, due
		ls.timers.push(l)
	}
	ls.parkEarly()
	return nil
}

// parkEarly gives up those that have been retrying for longest while retrying
// ones hold more than their share.
func (ls *lanes) parkEarly() {
	for e := ls.retrying.Front(); e != nil; {
		if ls.retrying.Len() <= ls.maxRetrying && ls.retryingBytes <= ls.maxRetryingBytes {
			return
		}
		it := valueOf[*item](e)
		e = e.Next()
		if it.lane.state != waiting {
			continue // its attempt is imminent: that decides
		}
		it.stage, it.early = parking, true
		ls.forgetRetry(it)
		ls.unqueue(it.lane)
		ls.enqueue(it.lane, ls.retryQueue)
	}
}

// dueBy queues every lane whose wait is over and returns when the next one is
// due, the zero time for never, and whether there were any.
func (ls *lanes) dueBy(now time.Time) (next time.Time, moved bool) {
	ls.coolDown(now)
	for ls.timers.len() > 0 {
		l := ls.timers.first()
		if l.due.After(now) {
			return l.due, moved
		}
		q := ls.retryQueue
		if l.cooling {
			q = ls.queue
		}
		ls.unqueue(l)
		ls.enqueue(l, q)
		moved = true
	}
	return time.Time{}, moved
}

// wake queues every waiting lane whose item lacks a dependency, free of charge.
func (ls *lanes) wake() {
	var found []*lane
	for _, l := range ls.timers.items {
		if l.cur.stage == applying && ClassOf(l.cur.cause) == Dependency {
			found = append(found, l)
		}
	}
	for _, l := range found {
		l.cur.attempts--
		ls.unqueue(l)
		ls.enqueue(l, ls.retryQueue)
	}
}

// tried records that the first attempt of an item is over.
func (ls *lanes) tried(it *item) {
	if it.fresh != nil {
		ls.fresh.Remove(it.fresh)
		it.fresh = nil
	}
}

// freshUpTo reports whether an item submitted up to order was not tried yet.
func (ls *lanes) freshUpTo(order uint64) bool {
	front := ls.fresh.Front()
	return front != nil && valueOf[*item](front).order <= order
}

func (ls *lanes) hold(l *lane, it *item) {
	ls.order++
	it.lane, it.order = l, ls.order
	it.fresh = ls.fresh.PushBack(it)
	ls.oldest.push(it)
	if it.young >= 0 {
		ls.unsettled.push(it)
	}
	ls.held++
	ls.bytes += it.size
	l.kind.held++
	if it.redo {
		ls.redone++
		l.kind.redone++
	}
}

func (ls *lanes) drop(it *item) {
	ls.tried(it)
	ls.oldest.remove(it)
	if it.young >= 0 {
		ls.unsettled.remove(it)
	}
	ls.held--
	ls.bytes -= it.size
	it.lane.kind.held--
	if it.redo {
		it.redo = false
		ls.redone--
		it.lane.kind.redone--
	}
	if it.failed {
		it.failed = false
		it.lane.kind.retrying--
		ls.failed--
	}
	ls.forgetRetry(it)
}

// settledTo has nothing up to p count as unsettled any more.
func (ls *lanes) settledTo(p Position) {
	for ls.unsettled.len() > 0 {
		it := ls.unsettled.first()
		if it.Position.Compare(p) > 0 {
			return
		}
		ls.unsettled.remove(it)
		it.young = -1
	}
}

// forgetRetry takes an item off the retrying ones.
func (ls *lanes) forgetRetry(it *item) {
	if it.retry != nil {
		ls.retrying.Remove(it.retry)
		ls.retryingBytes -= it.size
		it.retry = nil
	}
}

func (ls *lanes) enqueue(l *lane, q *list.List) {
	l.state, l.queue = queued, q
	l.place = q.PushBack(l)
}

// unqueue takes a lane out of where it stands.
func (ls *lanes) unqueue(l *lane) {
	if l.state == waiting {
		ls.timers.remove(l)
		l.cooling = false
		return
	}
	l.queue.Remove(l.place)
	l.queue, l.place = nil, nil
}

func (ls *lanes) stopped(l *lane) {
	if l.again {
		l.again = false
		ls.runningAgain--
	}
}

func (ls *lanes) kind(gr GroupResource) *kindCount {
	k := ls.kinds[gr]
	if k == nil {
		k = &kindCount{}
		ls.kinds[gr] = k
	}
	return k
}

// valueOf returns what an element of a list holds; each list holds one type.
func valueOf[T any](e *list.Element) T {
	v, ok := e.Value.(T)
	_ = ok
	return v
}
