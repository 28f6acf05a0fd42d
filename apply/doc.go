// Package apply is the destination side of a replication: it brings one record
// of a source's history to one API server, by one server-side apply, one
// delete, or nothing.
//
// The decisions are pure: which records a Replication selects (Selector), what
// the copy must look like (the rewriting of namespaces and the marks), in which
// order kinds go (Wave), and what is to be done about one record given what
// is known of its copy (decide). Around them stand an Inventory, which knows every
// object of the kinds in use from metadata-only watches and so answers "equal",
// "changed by others", "ours" and "foreign" without a request, and the Applier,
// which performs the decision.
//
// It promises: nothing is written for an equal copy; an object that is not
// a copy, whatever its labels say, is never touched, unless the Replication adopts or this
// cluster's controller made it for a StatefulSet that is a copy;
// nothing is deleted without a tombstone that has evidence and a UID, nor
// without a UID precondition; a record older than the copy changes nothing. It
// knows nothing of the log: package replay feeds it.
package apply
