package collect

import (
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// sweep is a complete list of one kind beside what is known, to judge whether
// absence from the list is evidence.
type sweep struct {
	// version is that of the list; recorded is the newest that the kind is known to have
	// reached in this epoch, 0 if it is not known. 0 is also a version that is no number.
	version, recorded uint64
	// older is set if the list shows an object at an older version than it must have had
	// by then.
	older bool
	// apart is set for a kind that may have a storage, and so versions, of its own.
	apart bool
	// source is the incarnation of the source now, recordedSource that of the epoch.
	source, recordedSource string
}

// judgment is what a complete list proves.
type judgment uint8

const (
	// trusted: what is absent is gone.
	trusted judgment = iota + 1
	// reset: the source is another, or was put back to an earlier state. Absence
	// proves nothing, and a new epoch has to begin.
	reset
	// resetKind: the storage of this kind alone may have been put back. Absence proves
	// nothing; what is known of the kind has to be held, and listed anew.
	resetKind
	// undecided: it cannot be told. Absence proves nothing.
	undecided
)

// judge keeps the law of sweeps: absence is evidence only in a list that is complete,
// not older than what was recorded, and from the same source.
func (s sweep) judge() (judgment, string) {
	switch {
	case s.source == "" || s.recordedSource == "":
		return undecided, "the identity of the source is not known"
	case s.source != s.recordedSource:
		return reset, "the source is another cluster than before"
	case s.version == 0:
		return undecided, "the version of the list is not a number"
	case s.version < s.recorded:
		return s.reset(), "the source's version went backwards"
	case s.older:
		return s.reset(), "an object of the source went back to an older version"
	}
	return trusted, ""
}

// reset is how far a reset reaches that the versions tell of.
func (s sweep) reset() judgment {
	if s.apart {
		return resetKind
	}
	return reset
}

// storedApart reports whether a kind may be served by an aggregated API server with a storage of its
// own. The API server's own groups are not; when its storage is reset, they tell.
func storedApart(k pipeline.GroupResource) bool {
	return strings.Contains(k.Group, ".") && !strings.HasSuffix(k.Group, ".k8s.io")
}

// hold marks what is known of a kind as from before a reset, and forgets how far it came.
func (o *outbox) hold(k pipeline.GroupResource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, e := range o.inv.kinds[k] {
		o.inv.held += 1 - count(e.held)
		e.held, e.alien = true, true
		o.inv.kinds[k][key] = e
	}
	p := o.progressOf(k)
	p.seen, p.candidate, p.through, p.floor = "", "", "", 0
}

// listed is an object as a complete list names it.
type listed struct {
	uid     uid
	version uint64
}

// absence is an object that a complete list does not name, and of what its absence is evidence
// if the list is trusted.
type absence struct {
	objectKey
	uid      uid
	evidence pipeline.Evidence
}

// missing says of what the absence from a list at a version is evidence. From before the
// epoch a version proves something only if the list has come as far, and counts the same versions: those of another
// cluster, and of one that was put back, do not.
func (e entry) missing(version uint64) pipeline.Evidence {
	if e.held && (e.alien || e.version == 0 || e.version > version) {
		return pipeline.EvidenceReset
	}
	return pipeline.EvidenceSweep
}

// compare holds a complete list of a kind at a version against what is known. absent
// are the objects that the list does not name, though they were known before it; what was read after the
// list began is left out. If the list names nothing that is collected, that is EvidenceEmptied at most. older is set if the list shows an object at an older version than one it
// must have had by then.
func (o *outbox) compare(k pipeline.GroupResource, list map[objectKey]listed, version uint64) (absent []absence, older bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	named := false // anything at all: what the list shows was observed before it ended
	check := func(ref pipeline.Ref, now latest) {
		if !now.known || now.version > version && !now.held {
			return
		}
		in, there := list[keyOf(ref)]
		named = named || there
		switch {
		case !there:
			absent = append(absent, absence{keyOf(ref), now.uid, entry{version: now.version, held: now.held, alien: now.alien}.missing(version)})
		case now.held: // from before the epoch: what it was then does not matter
		case in.uid == now.uid && in.version < now.version:
			older = true
		}
	}
	for key := range o.inv.kinds[k] {
		ref := pipeline.Ref{Site: o.site, Group: k.Group, Resource: k.Resource, Namespace: key.namespace, Name: key.name}
		check(ref, o.latest(ref, o.lanes[ref]))
	}
	for ref := range o.refused {
		if _, there := list[keyOf(ref)]; !there && ref.GroupResource() == k {
			delete(o.refused, ref)
		}
	}
	for ref, l := range o.lanes {
		if _, counted := o.inv.get(ref); !counted && ref.GroupResource() == k {
			check(ref, o.latest(ref, l))
		}
	}
	for i := range absent {
		if !named && absent[i].evidence == pipeline.EvidenceSweep {
			absent[i].evidence = pipeline.EvidenceEmptied
		}
	}
	return absent, older
}
