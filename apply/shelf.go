package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// key names an object within its kind at the destination.
type key struct{ namespace, name string }

// holder says whose an object at the destination is.
type holder uint8

const (
	// absent: there is no such object.
	absent holder = iota
	// foreign: it carries no Replication's mark.
	foreign
	// marked: it is a copy of some Replication.
	marked
)

// entry is what is known of one object at the destination.
type entry struct {
	holder holder
	// mark is the value of the mark: which Replication's copy it is.
	mark   string
	uid    string
	origin Origin
	digest pipeline.Digest
	// seen is the newest position that was found to need no write: a watermark beyond the origin's.
	seen pipeline.Position
	// deleting: it is being deleted and will be gone.
	deleting bool
	// drifted: somebody else has changed it, or its marks cannot be read.
	drifted bool
	// unproven, if not empty, is the set of fields that we own, of a copy found when
	// watching began: whether all are still ours is not known yet.
	unproven string
}

// item is an entry as a shelf keeps it.
type item struct {
	entry
	// version is the newest resourceVersion known, 0 if the server's are not numbers.
	version uint64
	// fields and applied are hashes of the fields we own: as last seen, and as our write left them.
	fields, applied string
	// ended: it is we who delete it.
	ended bool
	// synced: it is as the log last said.
	synced bool
	// left is closed when the item is removed, if somebody waits.
	left chan struct{}
}

// shelf is what is known of one kind. It is the Handler of the kind's watch.
type shelf struct {
	kind kube.Kind
	inv  *Inventory

	mu      sync.Mutex
	listed  bool
	err     error
	changed chan struct{} // closed when listed or err changes
	ours    map[key]*item
	// strangers are all other objects; true means that it is not somebody's own
	// making but derived from another object or from the namespace.
	strangers map[key]bool
	// writing are the objects that a write is under way for, with the UID of
	// what was deleted there meanwhile.
	writing map[key]string
	counts  map[string]int64 // synced items by mark
}

var _ kube.Handler = (*shelf)(nil)

func newShelf(k kube.Kind, inv *Inventory) *shelf {
	return &shelf{
		kind: k, inv: inv,
		changed:   make(chan struct{}),
		ours:      map[key]*item{},
		strangers: map[key]bool{},
		writing:   map[key]string{},
		counts:    map[string]int64{},
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
		case err != nil && (pipeline.ClassOf(err) != pipeline.Transient || errors.Is(err, errStopped)):
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
	if s.err != nil && kube.IsNotFound(s.err) {
		return // gone for good
	}
	s.err = err
	s.signal()
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
		return it.entry
	}
	if _, ok := s.strangers[k]; ok {
		return entry{holder: foreign}
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
	s.setSynced(it, false)
	if !newer {
		it.holder, it.uid, it.version = marked, m.UID, version
		it.mark, it.fields = s.inv.intern(mark), m.Fields
		it.deleting = it.deleting || m.Deleting
		it.origin, it.digest = s.share(origin), digest
	}
	it.applied, it.unproven = m.Fields, ""
	it.seen = it.origin.Position
	it.drifted = it.fields != it.applied
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
	if it.unproven != "" {
		it.applied, it.unproven = it.fields, ""
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

// leave waits until the object with the UID is gone, or ctx ends.
func (s *shelf) leave(ctx context.Context, k key, uid string) error {
	s.mu.Lock()
	it := s.ours[k]
	if it == nil || it.uid != uid {
		s.mu.Unlock()
		return nil
	}
	if it.left == nil {
		it.left = make(chan struct{})
	}
	left := it.left
	s.mu.Unlock()
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		it.ended = false // its end is news to whoever gave up waiting
		return ctx.Err()
	}
}

// refresh learns the object as a read has found it; nil means that it is not there.
func (s *shelf) refresh(k key, o *kube.Object) {
	if o != nil {
		s.Observe(*o)
		return
	}
	s.mu.Lock()
	s.remove(k)
	delete(s.strangers, k)
	s.mu.Unlock()
}

// Observe implements kube.Handler.
func (s *shelf) Observe(o kube.Object) {
	k := key{o.Namespace, o.Name}
	if s.old(k, o) {
		return
	}
	mark, ok := labelsOf(o.Raw).Lookup(v1alpha1.LabelReplication)
	if !ok {
		s.observeStranger(k, o)
		return
	}
	m, err := kube.MetaOf(o)
	if err != nil {
		s.inv.log.Warn("cannot read object", telemetry.KeyKind, s.kind.GroupResource.String(),
			telemetry.KeyNamespace, o.Namespace, telemetry.KeyName, o.Name, telemetry.KeyError, err)
		return
	}
	version := number(m.Version)
	s.mu.Lock()
	it := s.ours[k]
	if it != nil && version != 0 && version <= it.version {
		s.mu.Unlock()
		return // older than what is known, or the echo of our own write
	}
	delete(s.strangers, k)
	fresh := it == nil || it.uid != m.UID
	if fresh {
		s.remove(k)
		it = &item{}
		s.ours[s.intern(k)] = it
	}
	synced, was := it.synced, it.drifted || it.deleting
	s.setSynced(it, false)
	it.holder, it.uid, it.version = marked, m.UID, version
	it.mark, it.fields = s.inv.intern(mark), m.Fields
	it.deleting = it.deleting || m.Deleting
	it.drifted = false
	it.readMarks(s, m)
	switch {
	case it.applied == "":
		it.unproven = ourFields(o.Raw)
		it.drifted = it.drifted || it.unproven == ""
	case it.applied != it.fields:
		it.drifted = true
	default:
		it.unproven = ""
	}
	s.setSynced(it, synced && !it.drifted && !it.deleting)
	// While we write, the new state may be our own; the end of the write will tell.
	lost := it.drifted && !was && !it.ended && !s.busy(k) && s.listed && !fresh
	ref := s.refOf(k, it)
	s.mu.Unlock()
	if lost {
		s.inv.drifted(mark, ref)
	}
}

// old reports whether an event tells nothing new: most are echoes of our own writes.
func (s *shelf) old(k key, o kube.Object) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, version := s.ours[k], number(o.Version)
	return it != nil && version != 0 && version <= it.version
}

// readMarks reads origin and digest; what cannot be read is drift.
func (it *item) readMarks(s *shelf, m kube.Meta) {
	origin, err := ParseOrigin(m.Annotations[v1alpha1.AnnotationOrigin])
	if err != nil {
		it.origin, it.drifted = Origin{}, true
	} else {
		it.origin = s.share(origin)
	}
	digest, err := pipeline.ParseDigest(m.Annotations[v1alpha1.AnnotationDigest])
	if err != nil {
		it.drifted = true
	}
	it.digest = digest
}

// observeStranger learns of an object without a mark.
func (s *shelf) observeStranger(k key, o kube.Object) {
	made := derived(s.kind.GroupResource, o)
	version := number(o.Version)
	s.mu.Lock()
	it := s.ours[k]
	if it != nil && version != 0 && version <= it.version {
		s.mu.Unlock()
		return
	}
	var mark string
	var ref pipeline.Ref
	if it != nil {
		mark, ref = it.mark, s.refOf(k, it)
		s.remove(k)
	}
	s.strangers[s.intern(k)] = made
	s.mu.Unlock()
	if mark != "" {
		s.inv.drifted(mark, ref)
	}
}

// Delete implements kube.Handler.
func (s *shelf) Delete(o kube.Object) {
	k := key{o.Namespace, o.Name}
	s.mu.Lock()
	delete(s.strangers, k)
	if s.busy(k) {
		s.writing[k] = o.UID
	}
	it := s.ours[k]
	if it == nil || it.uid != o.UID {
		s.mu.Unlock()
		return
	}
	s.remove(k)
	s.mu.Unlock()
	if !it.ended {
		s.inv.drifted(it.mark, s.refOf(k, it))
	}
}

// Replace implements kube.Handler: what is not present and was not written since is gone.
func (s *shelf) Replace(present []kube.Object, version string) {
	there := make(map[key]struct{}, len(present))
	for _, o := range present {
		there[key{o.Namespace, o.Name}] = struct{}{}
	}
	at := number(version)
	type loss struct {
		mark string
		ref  pipeline.Ref
	}
	var losses []loss
	s.mu.Lock()
	for k, it := range s.ours {
		if _, ok := there[k]; ok || at != 0 && it.version > at || s.busy(k) {
			continue
		}
		s.remove(k)
		if !it.ended {
			losses = append(losses, loss{it.mark, s.refOf(k, it)})
		}
	}
	for k := range s.strangers {
		if _, ok := there[k]; !ok {
			delete(s.strangers, k)
		}
	}
	s.listed = true
	s.err = nil
	s.signal()
	s.mu.Unlock()
	for _, l := range losses {
		s.inv.drifted(l.mark, l.ref)
	}
}

// Progress implements kube.Handler.
func (s *shelf) Progress(string) {}

// remove forgets a copy. The lock is held.
func (s *shelf) remove(k key) {
	it := s.ours[k]
	if it == nil {
		return
	}
	s.setSynced(it, false)
	delete(s.ours, k)
	if it.left != nil {
		close(it.left)
		it.left = nil
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

// outsiders names up to limit objects that are neither derived nor copies with the mark,
// in one namespace or ("") everywhere.
func (s *shelf) outsiders(mark, namespace string, limit int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	add := func(k key) {
		if len(names) < limit && (namespace == "" || namespace == k.namespace) {
			names = append(names, title(s.kind.GroupResource, k))
		}
	}
	for k, made := range s.strangers {
		if !made {
			add(k)
		}
	}
	for k, it := range s.ours {
		if it.mark != mark {
			add(k)
		}
	}
	return names
}

// refOf is the source's Ref of a copy.
func (s *shelf) refOf(k key, it *item) pipeline.Ref {
	ref := pipeline.Ref{
		Site: it.origin.Site, Group: s.kind.Group, Resource: s.kind.Resource,
		Namespace: it.origin.Namespace, Name: k.name,
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
	o.Position.Epoch = s.inv.intern(o.Position.Epoch)
	return o
}

// number reads a resourceVersion. Those of objects of one kind can be compared as
// numbers; a server whose versions are no numbers gives 0, which is never newer.
func number(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func title(gr pipeline.GroupResource, k key) string {
	if k.namespace == "" {
		return fmt.Sprintf("%s %s", gr, k.name)
	}
	return fmt.Sprintf("%s %s/%s", gr, k.namespace, k.name)
}

// derived reports whether an object is not somebody's own making: it has an owner
// and goes with it, or the cluster puts it into every namespace.
func derived(gr pipeline.GroupResource, o kube.Object) bool {
	if gjson.GetBytes(o.Raw, "metadata.ownerReferences.0").Exists() {
		return true
	}
	switch gr.String() {
	case "events", "events.k8s.io/events", "coordination.k8s.io/leases", "discovery.k8s.io/endpointslices":
		return true
	case "configmaps":
		return o.Name == "kube-root-ca.crt" || o.Name == "openshift-service-ca.crt" || o.Name == "istio-ca-root-cert"
	case "serviceaccounts":
		return o.Name == "default" || o.Name == "builder" || o.Name == "deployer"
	case "endpoints":
		return labelsOf(o.Raw).Has("endpoints.kubernetes.io/managed-by")
	case "secrets":
		annotation := gjson.GetBytes(o.Raw, `metadata.annotations.kubernetes\.io/service-account\.name`)
		return annotation.Exists()
	}
	return false
}
