// Package pipeline is the vocabulary of DR-Syncer and the pump that moves
// events: what an object is called (Ref), what happened to it (Event), where
// that stands in a site's history (Position), how it looks on the wire, what
// an attempt to apply it came to (Outcome), and the contracts between the log,
// the stages and the sink.
//
// It promises order per Ref, that one failing Ref never delays another, and
// that nothing is settled in the log before the sink is done with it. It knows
// neither NATS nor Kubernetes: package natslog implements the log, package
// apply the sink.
package pipeline
