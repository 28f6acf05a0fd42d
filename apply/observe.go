package apply

import (
	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Observe implements kube.Handler.
func (s *shelf) Observe(o kube.Object) {
	if s.listed { // the versions in a first list may be anything
		s.highest = max(s.highest, number(o.Version))
	}
	s.learn(o)
}

// learn takes in an object as a watch or a read has shown it.
func (s *shelf) learn(o kube.Object) {
	k := key{o.Namespace, o.Name}
	if s.old(k, o) {
		return
	}
	mark, origin, ok := marksOf(o.Raw)
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
	synced, was, before := it.synced, it.drifted || it.deleting, it.stamp
	ref := s.refOf(k, it)
	s.setSynced(it, false)
	it.holder, it.uid, it.version = marked, m.UID, version
	it.mark = s.inv.intern(mark)
	it.stamp = stampOf(m.Fields, m.Annotations[v1alpha1.AnnotationOrigin], m.Annotations[v1alpha1.AnnotationDigest])
	it.deleting = it.deleting || m.Deleting
	s.setOrigin(k, it, origin)
	it.digest, err = pipeline.ParseDigest(m.Annotations[v1alpha1.AnnotationDigest])
	it.drifted = err != nil // nobody but us writes it
	switch {
	case it.applied == stamp{}:
		it.unproven = ourFields(o.Raw)
	case it.applied != it.stamp:
		it.drifted = true
	default:
		it.unproven = ""
	}
	s.setSynced(it, synced && !it.drifted && !it.deleting)
	if fresh {
		ref = s.refOf(k, it)
	}
	news := fresh || !was && (it.drifted || it.applied == stamp{} && it.stamp != before)
	// While we write, the new state may be our own; the end of the write will tell. What
	// the first list shows, the first copy looks at. Any other copy that we do not know to have written
	// is a write of ours that was given up, and it may have come too late.
	lost := news && !it.ended && !s.busy(k) && s.listed
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

// observeStranger learns of an object that is no copy.
func (s *shelf) observeStranger(k key, o kube.Object) {
	found := stranger{derived: derived(s.kind.GroupResource, o), raised: raised(s.kind.GroupResource, o)}
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
	s.strangers[s.intern(k)] = found
	free := s.free(k)
	s.mu.Unlock()
	if mark != "" {
		s.inv.drifted(mark, ref)
	}
	s.tell(free)
}

// Delete implements kube.Handler.
func (s *shelf) Delete(o kube.Object) {
	s.highest = max(s.highest, number(o.Version))
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
	free := s.free(k)
	s.mu.Unlock()
	if !it.ended {
		s.inv.drifted(it.mark, s.refOf(k, it))
	}
	s.tell(free)
}

// Replace implements kube.Handler: what is not present and was not written since is
// gone. A list that is older than what is known comes from a server that was restored:
// then nothing that we know is true, and positions that we have seen in copies may be in none.
func (s *shelf) Replace(present []kube.Object, version string) {
	at := number(version)
	if s.restored(present, at) {
		s.inv.log.Warn("the server was restored from an older state", telemetry.KeyKind, s.kind.GroupResource.String())
		s.failed(errRestored)
		s.inv.discard(s)
		return
	}
	s.highest = at
	there := make(map[key]struct{}, len(present))
	for _, o := range present {
		there[key{o.Namespace, o.Name}] = struct{}{}
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
		losses = append(losses, s.free(k)...)
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
	s.tell(losses)
}

// restored reports that a complete list is of an older state than what is known: as
// a whole, or, when the server has counted on since, in an object.
func (s *shelf) restored(present []kube.Object, at uint64) bool {
	if at == 0 || at < s.highest {
		return at != 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range present {
		it, version := s.ours[key{o.Namespace, o.Name}], number(o.Version)
		if it != nil && version != 0 && version < it.version && it.version <= at {
			return true
		}
	}
	return false
}

// Progress implements kube.Handler.
func (s *shelf) Progress(version string) { s.highest = max(s.highest, number(version)) }

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
