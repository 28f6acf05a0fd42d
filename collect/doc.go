// Package collect is the source side: it watches every selected kind of one
// cluster, decides which objects belong into the log, takes out of them what
// belongs to that cluster only, and makes each change durable, in order per
// object, with as little writing as possible.
//
// A Collector promises that the last event of an object in the log is the
// object's state in the cluster (once the outbox is empty), that a deletion is
// only ever reported on evidence, and that a restart writes nothing if nothing
// has changed. It holds no lock, finalizer or status on any object of the
// source: a dead collector hurts nobody.
//
// The decisions are pure functions (Selector, Cleaner, plan, judge); Collector
// and its parts are the shell that feeds them.
package collect
