package apply

import (
	"fmt"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// verb is what is to be done with a copy.
type verb uint8

const (
	// doNothing: the record has no effect; the action's result says why.
	doNothing verb = iota
	// doApply: one server-side apply, bound to the action's UID or to there being
	// no such object. Only one that adopts is bound to neither.
	doApply
	// doDelete: one delete with the action's UID as precondition.
	doDelete
	// doWait: a former copy is on its way out; when it is gone, decide again.
	doWait
	// doRefuse: the action's class and reason say why it must not be done.
	doRefuse
)

// action is a decision.
type action struct {
	verb   verb
	uid    string          // of the copy that is meant
	fresh  bool            // there must be no such object
	result pipeline.Result // of doNothing
	leaves bool            // the copy is not kept in step any more
	class  pipeline.Class  // of doRefuse
	reason string
	behind bool // of doRefuse: another source object of the Replication has the copy
}

// policy is what a Replication says about decisions.
type policy struct {
	mark          string
	retain, adopt bool
	// rewind has a copy be brought back to what an older record says.
	rewind bool
	// orphaned reports that a mark belongs to no Replication any more.
	orphaned func(mark string) bool
	// stray: the record wants the copy elsewhere than the Replication's mapping puts it.
	stray bool
	// displaced reports that the copy's source object does no longer belong where the copy is.
	displaced func(e entry) bool
}

// decide says what is to be done about a record, given the digest of what it wants
// (for a put) and what is known of the copy. It reads nothing else: not the body, not
// the clock, not the server.
//
// Its promises: what is no copy is refused unless the policy adopts or the controller made it
// for a copy of ours; a copy of a Replication that exists is never touched by another, and that of one
// that is gone only if the policy adopts or it is a namespace; a record older than the
// copy changes nothing; an equal copy is left alone; the copy of another source object that
// wants it is never taken; a delete needs evidence, a UID, our mark, the same source object
// and a copy older than the tombstone.
func decide(r pipeline.Record, want pipeline.Digest, e entry, p policy) action {
	switch r.Op {
	case pipeline.OpPut:
		return decidePut(r, want, e, p)
	case pipeline.OpDelete:
		return decideDelete(r, e, p)
	case pipeline.OpRelease:
		return skip("the source has released the object; its copy stays as it is")
	case pipeline.OpHeartbeat:
		return skip("not an object")
	}
	return action{verb: doRefuse, class: pipeline.Malformed, reason: fmt.Sprintf("unknown operation %d", r.Op)}
}

func skip(reason string) action {
	return action{verb: doNothing, result: pipeline.ResultSkipped, reason: reason}
}

func decidePut(r pipeline.Record, want pipeline.Digest, e entry, p policy) action {
	switch e.holder {
	case absent:
		return action{verb: doApply, fresh: true}
	case foreign:
		switch {
		case e.raised:
			return action{verb: doApply, uid: e.uid}
		case p.adopt:
			return action{verb: doApply}
		}
		return action{
			verb: doRefuse, class: pipeline.Foreign,
			reason: "an object of this name exists that is not a copy: remove it, or set conflictPolicy: Adopt",
		}
	case marked:
	}
	switch {
	case e.mark != p.mark && isNamespace(r.Ref.GroupResource()) && !p.orphaned(e.mark):
		return skip("another Replication keeps this namespace, and its own objects are all that matters")
	case e.mark != p.mark && (!p.orphaned(e.mark) || !p.adopt && !isNamespace(r.Ref.GroupResource())):
		return action{
			verb: doRefuse, class: pipeline.Foreign,
			reason: fmt.Sprintf("the object is a copy of Replication %q: let only one of the two select it", e.mark),
		}
	case e.deleting:
		return action{verb: doWait, uid: e.uid, reason: "the former copy is still being deleted"}
	case e.mark != p.mark, e.origin.Site != r.Ref.Site:
		return action{verb: doApply, uid: e.uid}
	case !own(r, e) && !e.left && !p.displaced(e):
		return action{verb: doRefuse, class: pipeline.Foreign, behind: true, reason: collision(r, e, p)}
	case own(r, e) && r.Position.Compare(e.watermark()) < 0 && !p.rewind:
		return skip("the copy is newer")
	case own(r, e) && e.digest == want && !e.drifted && e.origin.UID == r.UID && (e.origin.Name != "") == p.stray:
		return action{verb: doNothing, uid: e.uid, result: pipeline.ResultUnchanged}
	}
	return action{verb: doApply, uid: e.uid}
}

func decideDelete(r pipeline.Record, e entry, p policy) action {
	switch {
	case r.Evidence == pipeline.EvidenceNone || r.UID == "":
		return action{verb: doRefuse, class: pipeline.Malformed, reason: "the tombstone has no evidence or no UID"}
	case e.holder == absent:
		return action{verb: doNothing, result: pipeline.ResultUnchanged}
	case e.holder == foreign || e.mark != p.mark:
		return skip("the object is not a copy of this Replication")
	case e.origin.Site != r.Ref.Site || !own(r, e):
		return skip("the copy is of another source object")
	case r.Position.Compare(e.watermark()) <= 0 && !p.rewind:
		return skip("the copy is newer")
	case p.retain:
		return action{verb: doNothing, result: pipeline.ResultSkipped, leaves: true, reason: "deletionPolicy is Retain"}
	case e.deleting:
		return action{verb: doNothing, uid: e.uid, result: pipeline.ResultUnchanged}
	}
	return action{verb: doDelete, uid: e.uid}
}

// decideLeft says what is to be done about a copy that a put does not want any more:
// the rules dropped its object, or put it elsewhere. It is treated like the copy of a deleted
// object, for the record is the evidence; what is not a copy of just this object is left alone.
func decideLeft(r pipeline.Record, e entry, p policy) action {
	switch {
	case e.holder == absent:
		return skip("there is no copy")
	case e.holder == foreign || e.mark != p.mark || e.origin.Site != r.Ref.Site || !own(r, e):
		return skip("the object is not a copy of this one")
	case r.Position.Compare(e.watermark()) < 0 && !p.rewind:
		return skip("the copy is newer")
	case p.retain:
		return action{verb: doNothing, result: pipeline.ResultSkipped, leaves: true, reason: "deletionPolicy is Retain"}
	case e.deleting:
		return action{verb: doNothing, uid: e.uid, result: pipeline.ResultUnchanged}
	}
	return action{verb: doDelete, uid: e.uid}
}

// own reports whether the copy is of the record's object, sites left aside.
func own(r pipeline.Record, e entry) bool {
	return e.origin.Namespace == originOf(r).Namespace && e.source == r.Ref.Name
}

// collision says in what way two source objects want one copy.
func collision(r pipeline.Record, e entry, p policy) string {
	from := originOf(r).Namespace
	if !p.stray && e.origin.Name == "" {
		return fmt.Sprintf("source namespaces %q and %q both have this object and are mapped to one namespace: map them to two", e.origin.Namespace, from)
	}
	other := title(r.Ref.GroupResource(), key{e.origin.Namespace, e.source})
	if isNamespace(r.Ref.GroupResource()) {
		other = title(r.Ref.GroupResource(), key{name: e.source})
	}
	return fmt.Sprintf("the rules give it the name of the copy of %s: have them give each its own", other)
}

// watermark is the newest position known to be in the copy.
func (e entry) watermark() pipeline.Position {
	if e.seen.Compare(e.origin.Position) > 0 {
		return e.seen
	}
	return e.origin.Position
}
