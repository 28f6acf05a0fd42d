// Package control turns Replications into running work and keeps their status
// true: resource in, runs out, status back.
//
// One reconciler owns one run per Replication: it starts, stops and restarts it
// as the spec changes, refuses specs that cannot be carried out and two that
// would write the same objects, and deals with the copies when a Replication is
// deleted. What a Replication's status says is a pure function of its former
// status, its spec and a snapshot of its run; status is written by the
// reconciler alone, at most once a second and only when there is something to say, and
// Kubernetes Events are made of the difference between two statuses.
//
// What a run does is the Engine's business; control knows neither the log nor
// how objects are applied.
package control
