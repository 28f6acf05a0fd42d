// Package kube talks to one Kubernetes API server: it connects, finds out which
// kinds are served, watches them thinly, reads, applies and deletes objects, and
// says what its errors mean.
//
// Objects stay JSON bytes: identity is read out of them, nothing is decoded. A
// watch keeps no body and no object beyond the time of a list; what is not there
// is only ever reported by a complete list or a DELETED event, so no failure of
// the server, the network or a permission looks like a deletion.
//
// It is the home of client-go. It keeps no state of objects and knows nothing of
// the log, of Replications or of what should be copied.
package kube
