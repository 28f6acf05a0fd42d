package pipeline

import "context"

// Sink applies records. Apply must be repeatable: the same record may come
// again at any time. It is called at once for different Refs, never for one
// Ref. An error's Class decides what happens to the record; see Decide.
type Sink interface {
	Apply(ctx context.Context, r Record) (Result, error)
}

// SinkFunc is a function as a Sink.
type SinkFunc func(ctx context.Context, r Record) (Result, error)

// Apply calls f.
func (f SinkFunc) Apply(ctx context.Context, r Record) (Result, error) { return f(ctx, r) }

// Result says what applying a record did.
type Result string

const (
	// ResultUnchanged: the destination already was as wanted; nothing was written.
	ResultUnchanged Result = "unchanged"
	// ResultCreated: the object is new at the destination.
	ResultCreated Result = "created"
	// ResultConfigured: the object was brought to the wanted state.
	ResultConfigured Result = "configured"
	// ResultDeleted: the object was deleted.
	ResultDeleted Result = "deleted"
	// ResultRecreated: the object was deleted and created anew, since a field that
	// cannot change had to.
	ResultRecreated Result = "recreated"
	// ResultSkipped: the record has no effect here: stale, not selected, or the
	// copy is retained.
	ResultSkipped Result = "skipped"
	// ResultHeld: a deletion that somebody has to approve first.
	ResultHeld Result = "held"
)

// Parker takes the records that cannot be applied: the part of DeadLetters that
// the pump needs.
type Parker interface {
	// Park adds or replaces the dead letter of (Owner, Ref), durably.
	Park(ctx context.Context, d DeadLetter) error
	// Remove takes it out. Removing none is no error.
	Remove(ctx context.Context, owner string, ref Ref) error
}

// Observer is told of every record that a pump is done with, for metrics and
// tests: err is nil when it was applied, else why it was parked. It is called
// by many goroutines at once and must not block.
type Observer interface {
	OnResult(r Record, res Result, err error, attempts int)
}

// changes reports whether the destination is not as it was.
func (r Result) changes() bool {
	switch r {
	case ResultCreated, ResultConfigured, ResultDeleted, ResultRecreated:
		return true
	case ResultUnchanged, ResultSkipped, ResultHeld:
	}
	return false
}
