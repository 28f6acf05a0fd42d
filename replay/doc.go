// Package replay decides where in a site's history a run starts, what is read
// again and when, and feeds it to a sink through a pump.
//
// A Continuous run makes the destination be as the history says and keeps it
// so: it reads the current state in waves (definitions and namespaces before
// what lives in them, deletions last and in reverse), then follows the history from
// where it stood before that. It does so at every start: any restart heals, and costs
// no more than reading, since an equal copy is not written. A gap, a new epoch, a
// lost subscription or a widened selection begins it anew. What somebody else changed
// or deleted at the destination is read again on its own.
//
// Past reads a site as it was at any position that the log still reaches: the newest
// snapshot before it, and the history from there. It makes, verifies, exports and
// imports snapshots. Retention makes them in time and lets go of history that no
// promised moment needs, only after what they need was read back whole.
//
// It promises that a record is never submitted after a newer one of its
// Ref, and that nothing foreign in the history holds anything up. It knows neither
// NATS nor Kubernetes.
package replay
