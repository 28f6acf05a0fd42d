package collect

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// model is a source, a log, and the decisions of a collector between them, driven step by
// step: every order in which changes, lists, writes, crashes and resets can happen.
type model struct {
	t *rapid.T

	// the source
	objects     map[pipeline.Ref]thing
	version     uint64
	uids        int
	incarnation string
	deleted     map[string]bool                  // UIDs that were deleted
	lost        map[string]bool                  // UIDs that a restore has undone
	holders     map[pipeline.Ref]map[string]bool // UIDs that a name ever had
	backups     []backup
	changes     map[pipeline.Ref][]changed

	// the log
	epoch   int
	current map[pipeline.Ref]logged
	origins []string // incarnations of the epochs

	// the collector
	outbox   *outbox
	recorded string // incarnation of the epoch
	queue    []func()
	watching bool
	listing  *backup // a list that has begun
	flying   []*lane
	reading  *reading
	told     map[string]bool // UIDs whose end this collector was told by the watch
	through  string          // of the last heartbeat
	// found nothing to do, and wait for a signal
	idleWriter, idleReader bool
}

// reading is an object read, whose answer is on its way.
type reading struct {
	lane   *lane
	wanted *sighting
	object thing
	found  bool
}

// changed is one change of an object at the source.
type changed struct {
	version uint64
	exists  bool
	thing
}

type thing struct {
	uid     string
	version uint64
	value   int
	ignored bool
}

type backup struct {
	objects map[pipeline.Ref]thing
	version uint64
}

type logged struct {
	pipeline.Event
	epoch int
}

var modelKind = pipeline.GroupResource{Resource: "configmaps"}

func refOf(name string) pipeline.Ref {
	return pipeline.Ref{Site: testSite, Resource: modelKind.Resource, Namespace: "n", Name: name}
}

func newModel(t *rapid.T) *model {
	m := &model{
		t: t, objects: map[pipeline.Ref]thing{}, version: 100, incarnation: "one", recorded: "one",
		deleted: map[string]bool{}, lost: map[string]bool{}, origins: []string{"one"}, holders: map[pipeline.Ref]map[string]bool{}, current: map[pipeline.Ref]logged{},
		changes: map[pipeline.Ref][]changed{},
	}
	m.boot()
	return m
}

func (m *model) draw() pipeline.Ref {
	return refOf(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.t, "name"))
}

func (t thing) body() []byte { return []byte(`{"value":` + strconv.Itoa(t.value) + `}`) }

func (t thing) sighting(p presence) *sighting {
	s := &sighting{presence: p, uid: t.uid, version: strconv.FormatUint(t.version, 10), apiVersion: "v1", kind: "ConfigMap"}
	if p == present {
		s.body, s.digest = t.body(), pipeline.DigestOf(t.body())
	}
	return s
}

// see is what the handler does with an object.
func (m *model) see(ref pipeline.Ref, o thing) {
	if o.ignored {
		m.outbox.see(context.Background(), ref, o.sighting(unwanted))
		return
	}
	m.outbox.see(context.Background(), ref, o.sighting(present))
}

func (m *model) change(ref pipeline.Ref, o thing) {
	m.version++
	o.version = m.version
	m.objects[ref] = o
	if m.holders[ref] == nil {
		m.holders[ref] = map[string]bool{}
	}
	m.holders[ref][o.uid] = true
	m.record(ref, changed{m.version, true, o})
}

func (m *model) record(ref pipeline.Ref, c changed) {
	m.changes[ref] = append(m.changes[ref], c)
	if m.watching {
		m.tell(ref, c)
	}
}

// tell puts an event into the watch's stream.
func (m *model) tell(ref pipeline.Ref, c changed) {
	m.queue = append(m.queue, func() {
		if c.exists || c.ignored {
			m.see(ref, c.thing)
		} else {
			m.told[c.uid] = true
			s := c.sighting(gone)
			s.evidence = pipeline.EvidenceWatch
			m.outbox.lose(context.Background(), ref, s)
		}
		m.outbox.onProgress(modelKind, func(p *progress) { p.seen = strconv.FormatUint(c.version, 10) })
	})
}

func (m *model) createOrUpdate(*rapid.T) {
	ref := m.draw()
	o, exists := m.objects[ref]
	if !exists {
		m.uids++
		o = thing{uid: fmt.Sprintf("00000000-0000-4000-8000-%012d", m.uids)}
	}
	o.value = rapid.IntRange(0, 3).Draw(m.t, "value")
	m.change(ref, o)
}

func (m *model) toggleIgnore(*rapid.T) {
	ref := m.draw()
	if o, exists := m.objects[ref]; exists {
		o.ignored = !o.ignored
		m.change(ref, o)
	}
}

func (m *model) remove(*rapid.T) {
	ref := m.draw()
	o, exists := m.objects[ref]
	if !exists {
		return
	}
	m.version++
	delete(m.objects, ref)
	m.deleted[o.uid] = true
	o.version = m.version
	m.record(ref, changed{m.version, false, o})
}

// deliver has the watch tell one change.
func (m *model) deliver(*rapid.T) {
	if len(m.queue) > 0 && m.listing == nil {
		m.queue[0]()
		m.queue = m.queue[1:]
	}
}

func (m *model) disconnect(*rapid.T) { m.queue, m.watching, m.listing = nil, false, nil }

// list reads the kind completely and goes on watching.
func (m *model) list(*rapid.T) {
	m.beginList(nil)
	m.endList(nil)
}

// beginList fixes what a list will show; endList shows it. What changes in between
// is told after it.
func (m *model) beginList(*rapid.T) {
	m.disconnect(nil)
	m.listing, m.watching = &backup{maps.Clone(m.objects), m.version}, true
}

func (m *model) endList(*rapid.T) {
	if b := m.listing; b != nil {
		m.listing = nil
		m.listAt(b.objects, b.version)
	}
}

func (m *model) listAt(objects map[pipeline.Ref]thing, version uint64) {
	list := map[objectKey]listed{}
	for _, ref := range slices.SortedFunc(maps.Keys(objects), pipeline.Ref.Compare) {
		o := objects[ref]
		m.see(ref, o)
		u, _ := packUID(o.uid)
		list[keyOf(ref)] = listed{uid: u, version: o.version}
	}
	absent, older := m.outbox.compare(modelKind, list, version)
	s := sweep{
		version: version, recorded: m.outbox.recorded(modelKind), older: older,
		source: m.incarnation, recordedSource: m.recorded,
	}
	switch verdict, _ := s.judge(); verdict {
	case reset:
		for i := range m.origins {
			m.origins[i] = "reset"
		}
		m.newEpoch()
		m.list(nil)
		return
	case undecided, resetKind:
		m.t.Fatalf("undecided: %+v", s)
	case trusted:
		slices.SortFunc(absent, func(a, b absence) int { return strings.Compare(a.name, b.name) })
		for _, a := range absent {
			m.outbox.lose(context.Background(), refOf(a.name), &sighting{
				presence: gone, version: strconv.FormatUint(version, 10), evidence: a.evidence,
			})
		}
	}
	m.outbox.onProgress(modelKind, func(p *progress) { p.seen, p.listed = strconv.FormatUint(version, 10), true })
}

// tellAfter has the watch tell all changes after a version.
func (m *model) tellAfter(version uint64) {
	type event struct {
		pipeline.Ref
		changed
	}
	var events []event
	for ref, changes := range m.changes {
		for _, c := range changes {
			if c.version > version {
				events = append(events, event{ref, c})
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.changed.version, b.changed.version) })
	for _, e := range events {
		m.tell(e.Ref, e.changed)
	}
}

// take begins a write, land ends it.
func (m *model) take(*rapid.T) {
	if len(m.flying) == 0 && signaled(m.outbox.ready, &m.idleWriter) {
		m.fly(rapid.IntRange(2, 4).Draw(m.t, "events"))
	}
}

// signaled reports whether a worker that found nothing to do would look again.
func signaled(q lanes, idle *bool) bool {
	if !*idle {
		return true
	}
	select {
	case <-q.signal:
		*idle = false
	default:
	}
	return !*idle
}

func (m *model) fly(events int) {
	m.flying = m.outbox.take(events, 1<<20)
	m.idleWriter = len(m.flying) == 0
	for _, l := range m.flying {
		for _, p := range l.flying {
			m.justify(p.Event)
		}
	}
}

// justify checks that the source gave cause for an event.
func (m *model) justify(e pipeline.Event) {
	if e.Op != pipeline.OpDelete {
		return
	}
	if e.Evidence == pipeline.EvidenceReplaced {
		switch {
		case m.current[e.Ref].epoch != m.epoch:
			m.t.Fatalf("%s is from before the epoch: that its name is taken proves nothing", e.UID)
		case m.objects[e.Ref].uid == e.UID:
			m.t.Fatalf("%s was replaced, yet has its name still", e.UID)
		case m.told[e.UID]:
			m.t.Fatalf("the watch told the end of %s, the tombstone does not say so", e.UID)
		case len(m.holders[e.Ref]) < 2:
			m.t.Fatalf("%s was replaced by nothing", e.UID)
		}
		return
	}
	former := m.current[e.Ref]
	switch {
	case e.Evidence == pipeline.EvidenceReset:
		if former.epoch == m.epoch {
			m.t.Fatalf("%s is held for a reset, but is of this epoch", e.UID)
		}
		return
	case m.origins[former.epoch] != m.origins[m.epoch] && !m.deleted[e.UID]: // if it was, it was seen since
		m.t.Fatalf("tombstone (%s) of %s, which is from before a reset", e.Evidence, e.UID)
	}
	if !m.deleted[e.UID] && !m.lost[e.UID] {
		m.t.Fatalf("tombstone (%s) of %s, which was never deleted", e.Evidence, e.UID)
	}
}

func (m *model) land(*rapid.T) {
	for _, l := range m.flying {
		for len(l.flying) > 0 {
			p := l.flying[0]
			m.append(p.Event)
			m.outbox.settle([]flight{{l, p}})
		}
	}
	m.flying = nil
}

// append is the log, and checks what is written into it.
func (m *model) append(e pipeline.Event) {
	former, known := m.current[e.Ref]
	switch e.Op {
	case pipeline.OpDelete:
		if !known || former.Op != pipeline.OpPut || former.UID != e.UID {
			m.t.Fatalf("tombstone of %s after %+v", e.UID, former)
		}
	case pipeline.OpRelease:
		if !known || former.Op != pipeline.OpPut || former.UID != e.UID {
			m.t.Fatalf("release of %s after %+v", e.UID, former)
		}
	case pipeline.OpPut:
		if known && former.Op == pipeline.OpPut && former.UID != e.UID && former.epoch == m.epoch {
			m.t.Fatalf("put of %s over %s without a tombstone", e.UID, former.UID)
		}
		if known && former.Op == pipeline.OpPut && former.Digest == e.Digest && former.epoch == m.epoch {
			m.t.Fatalf("put of what is there: %+v", e)
		}
		if known && former.UID == e.UID && former.epoch == m.epoch && number(former.Version) > number(e.Version) {
			m.t.Fatalf("put of version %s after %s", e.Version, former.Version)
		}
		if len(e.Body) == 0 || pipeline.DigestOf(e.Body) != e.Digest {
			m.t.Fatalf("put without its body: %+v", e)
		}
	case pipeline.OpHeartbeat:
	}
	m.current[e.Ref] = logged{e, m.epoch}
}

// beginRead reads an object whose body found no room; endRead brings the answer.
func (m *model) beginRead(*rapid.T) {
	if m.reading != nil || !signaled(m.outbox.unread, &m.idleReader) {
		return
	}
	l, wanted := m.outbox.takeUnread()
	m.idleReader = l == nil
	if l != nil {
		o, found := m.objects[l.ref]
		m.reading = &reading{l, wanted, o, found}
	}
}

func (m *model) endRead(*rapid.T) {
	r := m.reading
	if r == nil {
		return
	}
	m.reading = nil
	var read *sighting
	switch {
	case r.found && r.object.ignored:
		read = r.object.sighting(unwanted)
	case r.found:
		read = r.object.sighting(present)
	}
	m.outbox.answer(context.Background(), r.lane, r.wanted, read)
}

// heartbeat says through which version everything is in the log, and that is checked.
func (m *model) heartbeat(*rapid.T) {
	m.through = m.outbox.heartbeat(now(), "", nil).Through[modelKind.String()]
	for ref, changes := range m.changes {
		if len(changes) == 0 || changes[len(changes)-1].version > number(m.through) {
			continue
		}
		c, last := changes[len(changes)-1], m.current[ref]
		exists := c.exists && !c.ignored
		there := last.Op == pipeline.OpPut && last.UID == c.uid && last.Digest == pipeline.DigestOf(c.body())
		if exists != there && (exists || last.Op == pipeline.OpPut && last.epoch == m.epoch) {
			m.t.Fatalf("collected through %s, but the log has %+v for %+v", m.through, last, c)
		}
	}
}

// crash ends the collector; what was under way may have got into the log or not.
func (m *model) crash(*rapid.T) {
	if rapid.Bool().Draw(m.t, "written") {
		m.land(nil)
	}
	m.boot()
	m.list(nil)
}

// boot starts a collector from the log.
func (m *model) boot() {
	m.flying, m.reading, m.told = nil, nil, map[string]bool{}
	m.idleWriter, m.idleReader = false, false
	m.disconnect(nil)
	inv := newInventory()
	for ref, r := range m.current {
		if r.Op == pipeline.OpPut {
			inv.put(ref, entry{
				uid: inv.uidOf(r.UID), digest: r.Digest, version: number(r.Version),
				held: r.epoch != m.epoch, alien: m.origins[r.epoch] != m.recorded,
			})
		}
	}
	m.outbox = newOutbox(testSite, 12, inv) // hardly any body finds room
	m.outbox.restore(map[string]string{modelKind.String(): m.through})
}

func (m *model) newEpoch() {
	m.land(nil)
	m.epoch++
	m.recorded = m.incarnation
	m.origins = append(m.origins, m.recorded)
	m.through = "" // recorded in the former epoch
	m.boot()
}

// loseLog has records of the log be lost: a new epoch of the same source.
func (m *model) loseLog(*rapid.T) {
	if m.incarnation == m.recorded {
		m.newEpoch()
		m.list(nil)
	}
}

func (m *model) backup(*rapid.T) {
	m.backups = append(m.backups, backup{maps.Clone(m.objects), m.version})
}

// restore puts the source back to a backup; the lost connection leads to a list.
func (m *model) restore(*rapid.T) {
	if len(m.backups) == 0 {
		return
	}
	b := rapid.SampledFrom(m.backups).Draw(m.t, "backup")
	for ref, o := range m.objects {
		if kept, there := b.objects[ref]; !there || kept.uid != o.uid {
			m.lost[o.uid] = true
		}
	}
	m.objects, m.version = maps.Clone(b.objects), b.version
	for ref, changes := range m.changes {
		m.changes[ref] = slices.DeleteFunc(changes, func(c changed) bool { return c.version > b.version })
	}
	if m.visiblyOlder() && rapid.Bool().Draw(m.t, "caught up") {
		m.version += 1000 // only an object can tell now
	}
	m.list(nil)
	// The versions count on, past those of the lost future.
	m.version += 1000
	m.backups = nil
}

// visiblyOlder reports whether an object of the source is older than the collector knows it.
func (m *model) visiblyOlder() bool {
	for ref, o := range m.objects {
		u, _ := packUID(o.uid)
		if now := m.outbox.latest(ref, m.outbox.lanes[ref]); now.known && !now.held && now.uid == u && now.version > o.version {
			return true
		}
	}
	return false
}

// replaceSource makes another cluster with other objects of it.
func (m *model) replaceSource(*rapid.T) {
	m.incarnation += "+"
	m.objects, m.changes = map[pipeline.Ref]thing{}, map[pipeline.Ref][]changed{}
	m.version += 1000
	m.backups = nil
	m.list(nil)
}

// staleList is a list by a server that lags behind.
func (m *model) staleList(*rapid.T) {
	if len(m.backups) > 0 {
		b := rapid.SampledFrom(m.backups).Draw(m.t, "backup")
		m.disconnect(nil)
		m.watching = true
		epoch := m.epoch
		m.listAt(b.objects, b.version)
		if m.epoch == epoch { // not taken for a reset: the watch goes on from there
			m.tellAfter(b.version)
		}
	}
}

// check is what always holds.
func (m *model) check(t *rapid.T) {
	o := m.outbox
	size, pending := 0, 0
	for ref, l := range o.lanes {
		if l.next != nil {
			size += len(l.next.body)
			pending++
		}
		for _, p := range l.flying[max(0, len(l.flying)-1):] {
			size += len(p.sighting.body)
			pending++
		}
		if l.next != nil && !l.busy() && (l.bodiless() && !l.inUnread || !l.bodiless() && !l.inReady) {
			t.Fatalf("%s waits in no queue", ref)
		}
	}
	if size != o.bytes {
		t.Fatalf("counts %d bytes, holds %d", o.bytes, size)
	}
	if o.bytes > o.maxBytes+16 {
		t.Fatalf("holds %d bytes of %d", o.bytes, o.maxBytes)
	}
	if p := o.progressOf(modelKind); p.pending[0]+p.pending[1] != pending {
		t.Fatalf("counts %v pending, holds %d", p.pending, pending)
	}
	held := 0
	for _, e := range o.inv.kinds[modelKind] {
		held += count(e.held)
	}
	if held != o.inv.held || o.inv.count != len(o.inv.kinds[modelKind]) {
		t.Fatalf("inventory counts %d (%d held), has %d (%d)", o.inv.count, o.inv.held, len(o.inv.kinds[modelKind]), held)
	}
}

// settled lets everything come to rest and checks that the log is as the source is.
func (m *model) settled() {
	m.land(nil)
	m.endRead(nil)
	m.list(nil)
	for range 100 {
		m.beginRead(nil)
		m.endRead(nil)
		if signaled(m.outbox.ready, &m.idleWriter) {
			m.fly(100)
		}
		m.land(nil)
	}
	if n, size := m.outbox.waiting(); n != 0 || size != 0 {
		m.t.Fatalf("%d lanes with %d bytes are left", n, size)
	}
	for _, ref := range slices.Collect(maps.Keys(m.objects)) {
		o, last := m.objects[ref], m.current[ref]
		switch {
		case o.ignored && last.Op == pipeline.OpPut && (last.epoch == m.epoch || last.UID == o.uid):
			m.t.Fatalf("%s is ignored, the log has %+v", ref, last)
		case !o.ignored && (last.Op != pipeline.OpPut || last.UID != o.uid || string(last.Body) != string(o.body()) || last.epoch != m.epoch):
			m.t.Fatalf("%s is %+v, the log has %+v", ref, o, last)
		}
	}
	for ref, last := range m.current {
		if _, exists := m.objects[ref]; !exists && last.Op == pipeline.OpPut {
			m.t.Fatalf("%s is gone, the log has %+v", ref, last)
		}
	}
	if got, want := m.outbox.heartbeat(now(), "", nil).Through[modelKind.String()], strconv.FormatUint(m.version, 10); got != want {
		m.t.Fatalf("collected through %q, want %q", got, want)
	}
}

func now() time.Time { return time.Unix(1_800_000_000, 0) }

// TestModel checks every short history that rapid comes up with.
func TestModel(t *testing.T) {
	// rapid's default is little for what a check costs here.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("20000"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.list(nil)
		t.Repeat(map[string]func(*rapid.T){
			"":              m.check,
			"change":        m.createOrUpdate,
			"changeAgain":   m.createOrUpdate,
			"ignore":        m.toggleIgnore,
			"remove":        m.remove,
			"deliver":       m.deliver,
			"deliverAgain":  m.deliver,
			"disconnect":    m.disconnect,
			"list":          m.list,
			"beginList":     m.beginList,
			"endList":       m.endList,
			"take":          m.take,
			"land":          m.land,
			"beginRead":     m.beginRead,
			"endRead":       m.endRead,
			"heartbeat":     m.heartbeat,
			"crash":         m.crash,
			"backup":        m.backup,
			"restore":       m.restore,
			"replaceSource": m.replaceSource,
			"staleList":     m.staleList,
			"loseLog":       m.loseLog,
		})
		m.settled()
	})
}
