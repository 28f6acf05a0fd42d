package collect

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// outbox holds what was sighted and is not in the log yet: the newest sighting
// per object, of which at most one is being written at a time. It owns the inventory,
// which follows what has become durable. All methods are safe for concurrent use.
type outbox struct {
	site     string
	maxBytes int
	// rules returns the rules of stage source that are in force; nil if there can be none.
	rules func() *transform.Set

	mu    sync.Mutex
	inv   *inventory
	lanes map[pipeline.Ref]*lane
	// ready are the lanes to be written, unread those whose body has to be read first.
	ready, unread lanes
	bytes         int
	kinds         map[pipeline.GroupResource]*progress
	// refused are objects that cannot be written.
	refused map[pipeline.Ref]refusal
	// blocked are the lanes that stand aside, or have tried again since.
	blocked map[pipeline.Ref]*lane
	away    bool          // the log cannot be reached
	room    chan struct{} // closed when waiting for room should end
	awaited bool          // somebody waits for that
}

func newOutbox(site string, maxBytes int, inv *inventory) *outbox {
	return &outbox{
		site: site, maxBytes: maxBytes, inv: inv,
		lanes:   map[pipeline.Ref]*lane{},
		ready:   lanes{signal: make(chan struct{}, 1)},
		unread:  lanes{signal: make(chan struct{}, 1)},
		kinds:   map[pipeline.GroupResource]*progress{},
		refused: map[pipeline.Ref]refusal{},
		blocked: map[pipeline.Ref]*lane{},
		room:    make(chan struct{}),
	}
}

// outcome says what a sighting came to.
type outcome uint8

const (
	queued    outcome = iota + 1 // it will be written
	unchanged                    // the log knows
	older                        // something newer is known: it was dropped
)

// latest is the newest known state of an object, durable or not.
type latest struct {
	known    bool // present, as far as is known
	readable bool // its body is known
	held     bool
	alien    bool
	uid      uid
	digest   pipeline.Digest
	version  uint64
}

func (o *outbox) latest(ref pipeline.Ref, l *lane) latest {
	switch {
	case l != nil && l.next != nil:
		return latestOf(l.next)
	case l != nil && len(l.flying) > 0:
		last := l.flying[len(l.flying)-1]
		return latestOf(last.sighting)
	}
	e, known := o.inv.get(ref)
	return latest{known: known, readable: known, held: e.held, alien: e.alien, uid: e.uid, digest: e.digest, version: e.version}
}

func latestOf(s *sighting) latest {
	u, _ := packUID(s.uid)
	return latest{
		known: s.presence == present, readable: s.body != nil,
		uid: u, digest: s.digest, version: number(s.version),
	}
}

// see takes up a sighting of an object that is present or unwanted. s.body may share
// a buffer: it is copied if it is kept. The span begins here, if there is one.
func (o *outbox) see(ctx context.Context, ref pipeline.Ref, s *sighting) outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sight(ctx, ref, s)
}

func (o *outbox) sight(ctx context.Context, ref pipeline.Ref, s *sighting) outcome {
	l := o.lanes[ref]
	now := o.latest(ref, l)
	u, _ := packUID(s.uid)
	if version := number(s.version); now.version != 0 && version != 0 && version < now.version && !now.held {
		return older
	}
	if s.presence == unwanted {
		delete(o.refused, ref)
		return o.depart(ctx, ref, l, s)
	}
	if now.known && now.readable && !now.held && now.uid == u && now.digest == s.digest {
		delete(o.refused, ref)
		o.touch(ref, l, s)
		return unchanged
	}
	if former, ok := o.refused[ref]; ok && former.digest == s.digest {
		return unchanged
	}
	o.enqueue(ctx, ref, l, s)
	return queued
}

// refuse notes that an object cannot be read or must not be published. It reports whether
// that is news.
func (o *outbox) refuse(ref pipeline.Ref, r refusal) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	former, known := o.refused[ref]
	if r.again != nil {
		r.attempts = former.attempts + 1
		r.due = time.Now().Add(min(firstRetry<<min(former.attempts, 10), lastRetry))
	}
	ref.Namespace, ref.Name = strings.Clone(ref.Namespace), strings.Clone(ref.Name)
	o.refused[ref] = r
	return !known || former.reason != r.reason
}

// refusals returns the number of objects that are refused.
func (o *outbox) refusals() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.refused)
}

// touch notes that the newest known state was seen again at another version.
func (o *outbox) touch(ref pipeline.Ref, l *lane, s *sighting) {
	switch {
	case l != nil && l.next != nil:
		l.next.version = s.version
	case l != nil && len(l.flying) > 0:
		// Its event says the older version, which is as true.
	default:
		if e, ok := o.inv.get(ref); ok {
			e.version = number(s.version)
			o.inv.put(ref, e)
		}
	}
}

// lose takes up that an object is gone. An empty s.uid means whatever is known under
// the name. What was never collected, or released, is not reported.
func (o *outbox) lose(ctx context.Context, ref pipeline.Ref, s *sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.refused, ref)
	o.depart(ctx, ref, o.lanes[ref], s)
}

// depart takes up that an object is gone or unwanted.
func (o *outbox) depart(ctx context.Context, ref pipeline.Ref, l *lane, s *sighting) outcome {
	now := o.latest(ref, l)
	if !now.known {
		return unchanged // never collected, or taken up before
	}
	published, ok := o.published(ref, l)
	if s.uid == "" {
		s.uid = o.uidText(ref, l)
	} else if u, _ := packUID(s.uid); s.presence == gone && now.uid != u {
		// Another object has the name already. The end of the one that the log
		// holds is evidence worth having.
		if ok && published == u && l != nil && l.loss == nil {
			o.begin(ctx, ref, s)
			l.loss = s
		}
		return unchanged
	}
	if !ok {
		o.drop(l, resultSuperseded) // never written: nobody has to be told
		return unchanged
	}
	o.enqueue(ctx, ref, l, s)
	return queued
}

// release takes up that whatever is known under a name is not wanted any more.
func (o *outbox) release(ctx context.Context, ref pipeline.Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lanes[ref]
	version := strconv.FormatUint(o.latest(ref, l).version, 10)
	o.depart(ctx, ref, l, &sighting{presence: unwanted, version: version, observed: time.Now()})
}

// known returns the objects of the kinds that match: those in the log, and those on their way.
func (o *outbox) known(match func(pipeline.GroupResource) bool) []pipeline.Ref {
	o.mu.Lock()
	defer o.mu.Unlock()
	var refs []pipeline.Ref
	for k, entries := range o.inv.kinds {
		if !match(k) {
			continue
		}
		for key := range entries {
			refs = append(refs, pipeline.Ref{Site: o.site, Group: k.Group, Resource: k.Resource, Namespace: key.namespace, Name: key.name})
		}
	}
	for ref := range o.lanes {
		if _, counted := o.inv.get(ref); !counted && match(ref.GroupResource()) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// resize changes the bound of the bodies in memory.
func (o *outbox) resize(maxBytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.maxBytes = maxBytes
	o.unread.wake()
	o.admit()
}

// uidText returns the UID of the newest known state.
func (o *outbox) uidText(ref pipeline.Ref, l *lane) string {
	switch {
	case l != nil && l.next != nil:
		return l.next.uid
	case l != nil && len(l.flying) > 0:
		return l.flying[len(l.flying)-1].UID
	}
	e, _ := o.inv.get(ref)
	return o.inv.uidText(e.uid)
}

// published returns the UID that the log holds, or will when what is being written is
// there.
func (o *outbox) published(ref pipeline.Ref, l *lane) (uid, bool) {
	if l != nil && len(l.flying) > 0 {
		last := l.flying[len(l.flying)-1]
		u, _ := packUID(last.UID)
		return u, last.Op == pipeline.OpPut
	}
	e, ok := o.inv.get(ref)
	return e.uid, ok
}

// begin starts the span of a change, linked to those that it makes obsolete.
func (o *outbox) begin(ctx context.Context, ref pipeline.Ref, s *sighting, obsolete ...telemetry.TraceContext) {
	ctx, s.span = telemetry.StartSpan(ctx, telemetry.SpanCollect, nil, obsolete...)
	s.trace = telemetry.Inject(ctx)
	if s.span.Recording() {
		s.span.Set(
			telemetry.String(telemetry.KeySite, o.site),
			telemetry.String(telemetry.KeyKind, ref.GroupResource().String()),
			telemetry.String(telemetry.KeyNamespace, ref.Namespace),
			telemetry.String(telemetry.KeyName, ref.Name),
			telemetry.String(telemetry.KeyUID, s.uid),
			telemetry.String(telemetry.KeyVersion, s.version),
		)
	}
}

// results of collect spans
const (
	resultSuperseded = "superseded"
	resultUnchanged  = "unchanged"
	resultDurable    = "durable"
)

func ended(s *sighting, err error, result string) {
	if s.span.Recording() {
		s.span.End(err, telemetry.String(telemetry.KeyResult, result))
	}
}

// enqueue makes s the newest sighting of its object.
func (o *outbox) enqueue(ctx context.Context, ref pipeline.Ref, l *lane, s *sighting) {
	if l == nil {
		l = &lane{ref: ref}
		l.ref.Namespace, l.ref.Name = strings.Clone(ref.Namespace), strings.Clone(ref.Name)
		o.lanes[l.ref] = l
	}
	p := o.progressOf(ref.GroupResource())
	if former := l.next; former != nil {
		o.begin(ctx, ref, s, former.trace)
		o.free(len(former.body))
		if former.presence == gone && l.loss == nil {
			l.loss = former
		} else {
			ended(former, nil, resultSuperseded)
		}
	} else {
		o.begin(ctx, ref, s)
		l.nextGen = p.gen
		p.pending[p.gen]++
	}
	if len(s.body) > 0 {
		if o.bytes >= o.maxBytes || !l.mayTry(s) {
			s.body = nil // read it again when its turn comes
		} else {
			s.body = bytes.Clone(s.body)
			o.bytes += len(s.body)
		}
	}
	l.next = s
	l.mayTry(s)
	o.schedule(l)
}

// schedule queues a lane that has something to write and nobody working on it.
func (o *outbox) schedule(l *lane) {
	switch {
	case l.busy() || l.next == nil || l.standsAside():
	case l.bodiless():
		if !l.inUnread {
			l.inUnread = true
			o.unread.push(l)
		}
	case !l.inReady:
		l.inReady = true
		o.ready.push(l)
	}
}

// drop forgets the newest sighting of a lane, and the lane if nothing is left of it.
func (o *outbox) drop(l *lane, result string) {
	if l.next != nil {
		o.free(len(l.next.body))
		ended(l.next, nil, result)
		o.progressOf(l.ref.GroupResource()).pending[l.nextGen]--
		l.next = nil
	}
	o.retire(l)
}

// retire removes a lane that has nothing more to do. A queued one is removed when its turn
// comes.
func (o *outbox) retire(l *lane) {
	if l.next != nil || l.busy() || l.inReady || l.inUnread {
		return
	}
	if l.loss != nil {
		ended(l.loss, nil, resultSuperseded)
		l.loss = nil
	}
	o.unblock(l)
	delete(o.lanes, l.ref)
}

// free notes that a body is not held any more, and tells who waits for room.
func (o *outbox) free(size int) {
	if size == 0 {
		return
	}
	o.bytes -= size
	if len(o.unread.queue) > 0 {
		o.unread.wake()
	}
	o.admit()
}

// admit has those who wait for room look again.
func (o *outbox) admit() {
	if o.awaited {
		close(o.room)
		o.room, o.awaited = make(chan struct{}), false
	}
}

// waitForRoom waits until a body would find room, as long as the log takes what it
// is handed.
func (o *outbox) waitForRoom(ctx context.Context) {
	for {
		o.mu.Lock()
		full, room := o.bytes >= o.maxBytes && !o.away, o.room
		o.awaited = o.awaited || full
		o.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-room:
		case <-ctx.Done():
			return
		}
	}
}

// setAway says whether the log can be reached.
func (o *outbox) setAway(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away = away; away {
		o.admit()
	}
}

// waiting returns the number of objects and bytes not durable yet.
func (o *outbox) waiting() (objects, size int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.lanes), o.bytes
}

// size returns the number of entries in the inventory, and how many of them are held.
func (o *outbox) size() (objects, held int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.inv.count, o.inv.held
}
