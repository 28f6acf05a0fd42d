package apply

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// shelf is what is known of one kind. It is the Handler of the kind's watch.
type shelf struct {
	kind kube.Kind
	inv  *Inventory

	mu        sync.Mutex
	listed    bool
	err       error
	changed   chan struct{} // closed when listed or err changes
	ours      map[key]*item
	strangers map[key]stranger // all other objects
	// writing are the objects that a write is under way for, with the UID of
	// what was deleted there meanwhile.
	writing map[key]string
	counts  map[string]int64 // synced items by mark
	// strays are the copies that rules have put elsewhere, by their source.
	strays map[pipeline.Ref][]key
	// waiting are the copies that other source objects of a Replication would like to have.
	waiting map[key][]loss

	// highest is the newest version that the watch has shown, and stop ends it. Only the watch uses them.
	highest uint64
	stop    context.CancelFunc
}

var _ kube.Handler = (*shelf)(nil)

func newShelf(k kube.Kind, inv *Inventory) *shelf {
	return &shelf{
		kind: k, inv: inv,
		changed:   make(chan struct{}),
		ours:      map[key]*item{},
		strangers: map[key]stranger{},
		writing:   map[key]string{},
		counts:    map[string]int64{},
		strays:    map[pipeline.Ref][]key{},
		waiting:   map[key][]loss{},
		stop:      func() {},
	}
}

// wait waits for the first complete list. It gives up at once when the kind is
// gone or may not be read.
func (s *shelf) wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		listed, err, changed := s.listed, s.err, s.changed
		s.mu.Unlock()
		switch {
		case err != nil && (pipeline.ClassOf(err) != pipeline.Transient || errors.Is(err, errStopped) || errors.Is(err, errRestored)):
			return err
		case listed:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return ctx.Err()
		}
	}
}

// failed learns how the watch fares; nil means that it is well.
func (s *shelf) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && (kube.IsNotFound(s.err) || errors.Is(s.err, errRestored)) {
		return // discarded
	}
	s.err = err
	s.signal()
}

// broken reports that the watch does not work at present, so that what is known may be old.
func (s *shelf) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

func (s *shelf) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return kube.IsNotFound(s.err)
}

func (s *shelf) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// look returns what is known of an object.
func (s *shelf) look(k key) entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it := s.ours[k]; it != nil {
		e := it.entry
		e.source = s.refOf(k, it).Name
		return e
	}
	if o, ok := s.strangers[k]; ok {
		return entry{holder: foreign, uid: o.raised, raised: o.raised != ""}
	}
	return entry{}
}

// begin claims an object for writing, so that no two Replications create it at
// once and a watch that is faster than the answer to our write is not taken for drift.
func (s *shelf) begin(k key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy(k) {
		return false
	}
	s.writing[k] = ""
	if it := s.ours[k]; it != nil {
		s.setSynced(it, false)
	}
	return true
}

func (s *shelf) busy(k key) bool {
	_, ok := s.writing[k]
	return ok
}

// abort ends a write that failed, or whose outcome is not known.
func (s *shelf) abort(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, k)
}

// wrote ends a write: the server answered with m.
func (s *shelf) wrote(k key, m kube.Meta, origin Origin, digest pipeline.Digest, mark string) {
	s.mu.Lock()
	lost := s.take(k, m, origin, digest, mark)
	ref := s.refOf(k, &item{entry: entry{origin: origin}})
	s.mu.Unlock()
	if lost {
		s.inv.drifted(mark, ref)
	}
}

// take makes the item of a write. It reports whether the watch has already shown
// that somebody else has changed or deleted it since. The lock is held.
func (s *shelf) take(k key, m kube.Meta, origin Origin, digest pipeline.Digest, mark string) (lost bool) {
	deleted := s.writing[k]
	delete(s.writing, k)
	if deleted == m.UID {
		return true
	}
	it, version := s.ours[k], number(m.Version)
	if it != nil && it.uid != m.UID && it.version > version {
		return true
	}
	delete(s.strangers, k)
	if it == nil || it.uid != m.UID {
		s.remove(k)
		it = &item{}
		s.ours[s.intern(k)] = it
	}
	newer := it.version > version
	ours := stampOf(m.Fields, origin.String(), digest.String())
	s.setSynced(it, false)
	if !newer {
		it.holder, it.uid, it.version = marked, m.UID, version
		it.mark, it.stamp = s.inv.intern(mark), ours
		it.deleting = it.deleting || m.Deleting
		it.digest = digest
		s.setOrigin(k, it, origin)
	}
	it.applied, it.unproven, it.left = ours, "", false
	it.seen = s.share(origin).Position
	it.drifted = it.stamp != it.applied
	s.setSynced(it, !it.drifted && !it.deleting)
	return it.drifted
}

// proven learns that a copy is as the record at p wants it, without a write.
func (s *shelf) proven(k key, p pipeline.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.ours[k]
	if it == nil || it.drifted {
		return
	}
	it.left = false
	if it.unproven != "" {
		it.applied, it.unproven = it.stamp, ""
	}
	if it.seen.Compare(p) < 0 {
		it.seen = pipeline.Position{Epoch: s.inv.intern(p.Epoch), Seq: p.Seq}
	}
	s.setSynced(it, !it.deleting)
}

// ending learns that we are about to delete the object with the UID, so that its
// end is not taken for somebody else's doing; spared that we could not.
func (s *shelf) ending(k key, uid string) { s.end(k, uid, true, false) }
func (s *shelf) spared(k key, uid string) { s.end(k, uid, false, false) }

// deleted learns that the server has accepted our delete.
func (s *shelf) deleted(k key, uid string) { s.end(k, uid, true, true) }

func (s *shelf) end(k key, uid string, ended, deleting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.ours[k]
	if it == nil || it.uid != uid {
		return
	}
	it.ended, it.deleting = ended, it.deleting || deleting
	if it.deleting {
		s.setSynced(it, false)
	}
}

// lingers reports whether the object with the UID is still there as far as is known.
// If so, its end is told as drift, for whoever needs its name.
func (s *shelf) lingers(k key, uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.ours[k]
	if it == nil || it.uid != uid {
		return false
	}
	it.ended = false
	return true
}

// refresh learns the object as a read has found it; nil means that it is not there.
func (s *shelf) refresh(k key, o *kube.Object) {
	if o != nil {
		s.learn(*o)
		return
	}
	s.mu.Lock()
	s.remove(k)
	delete(s.strangers, k)
	free := s.free(k)
	s.mu.Unlock()
	s.tell(free)
}

// remove forgets a copy. The lock is held.
func (s *shelf) remove(k key) {
	it := s.ours[k]
	if it == nil {
		return
	}
	s.setSynced(it, false)
	s.unstray(k, it)
	delete(s.ours, k)
}

// clear forgets all copies and returns those that it was not us who deleted.
func (s *shelf) clear() []loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	var losses []loss
	for k, it := range s.ours {
		s.remove(k)
		if !it.ended {
			losses = append(losses, loss{it.mark, s.refOf(k, it)})
		}
	}
	for k := range s.waiting {
		losses = append(losses, s.free(k)...)
	}
	return losses
}

// release learns that the copy of a record's object is not kept in step any more, or
// cannot be. left says that the object does not want it: another may have it.
func (s *shelf) release(k key, mark string, r pipeline.Record, left bool) {
	s.mu.Lock()
	it := s.ours[k]
	if it == nil || it.mark != mark || s.refOf(k, it) != r.Ref || r.Position.Compare(it.watermark()) < 0 {
		s.mu.Unlock()
		return
	}
	s.setSynced(it, false)
	it.left = it.left || left
	var free []loss
	if left {
		free = s.free(k)
	}
	s.mu.Unlock()
	s.tell(free)
}

// recount forgets which copies with the mark are as the log last said, and who waits for one.
func (s *shelf) recount(mark string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.ours {
		if it.mark == mark {
			s.setSynced(it, false)
			it.left = false
		}
	}
	for k, all := range s.waiting {
		if s.waiting[k] = slices.DeleteFunc(all, func(l loss) bool { return l.mark == mark }); len(s.waiting[k]) == 0 {
			delete(s.waiting, k)
		}
	}
}

// setSynced keeps the counts. The lock is held.
func (s *shelf) setSynced(it *item, synced bool) {
	if it.synced == synced {
		return
	}
	it.synced = synced
	if synced {
		s.counts[it.mark]++
	} else {
		s.counts[it.mark]--
	}
}

func (s *shelf) synced(mark string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[mark]
}

func (s *shelf) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ours)
}

// outsiders finds those in one namespace or ("") everywhere.
func (s *shelf) outsiders(mark, namespace string) outsiders {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out outsiders
	add := func(names []string, k key) []string {
		if len(names) < maxNamed && (namespace == "" || namespace == k.namespace) {
			names = append(names, title(s.kind.GroupResource, k))
		}
		return names
	}
	for k, o := range s.strangers {
		if !o.derived {
			out.strangers = add(out.strangers, k)
		}
	}
	for k, it := range s.ours {
		if it.mark != mark {
			out.copies = add(out.copies, k)
		}
	}
	return out
}

// refOf is the source's Ref of a copy.
func (s *shelf) refOf(k key, it *item) pipeline.Ref {
	ref := pipeline.Ref{
		Site: it.origin.Site, Group: s.kind.Group, Resource: s.kind.Resource,
		Namespace: it.origin.Namespace, Name: k.name,
	}
	if it.origin.Name != "" {
		ref.Name = it.origin.Name
	}
	if isNamespace(s.kind.GroupResource) {
		ref.Namespace, ref.Name = "", it.origin.Namespace
	}
	return ref
}

func (s *shelf) intern(k key) key {
	return key{namespace: s.inv.intern(k.namespace), name: k.name}
}

// share lets origins share what is the same in many.
func (s *shelf) share(o Origin) Origin {
	o.Site, o.Namespace = s.inv.intern(o.Site), s.inv.intern(o.Namespace)
	o.Name = strings.Clone(o.Name)
	o.Position.Epoch = s.inv.intern(o.Position.Epoch)
	return o
}
