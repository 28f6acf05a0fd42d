package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Errors of a log that callers act on. Everything else a log returns may be
// tried again.
var (
	// ErrFenced reports that somebody else has written to the history since this
	// writer last did. Nothing was written. The writer is of no more use: open a
	// new one and read Current again.
	ErrFenced = errors.New("another writer has appended to the history")
	// ErrNoHistory reports that the log holds no history of the site yet.
	ErrNoHistory = errors.New("the log holds no history of this site")
	// ErrGap reports that records after the wanted position are no longer (or not)
	// there: retention has passed over them, or the log lost them.
	ErrGap = errors.New("the history has a gap")
	// ErrEpochEnded reports that a newer epoch has begun: read Current again.
	ErrEpochEnded = errors.New("a newer epoch of the history has begun")
	// ErrTooLarge reports an event that the log can never take.
	ErrTooLarge = errors.New("the event is larger than the log accepts")
)

// BlockedError reports events of an Append that the log cannot take now, for a reason that does not
// concern the others: there is no room for large bodies, say. Nothing was written. Without
// those events the Append may be made at once, with them later.
type BlockedError struct {
	// Events are their indexes, in ascending order.
	Events []int
	Err    error
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%d events have to wait: %v", len(e.Events), e.Err)
}

// Unwrap returns the reason.
func (e *BlockedError) Unwrap() error { return e.Err }

// Writer appends to the history of one site. There is one writer at a time: see
// ErrFenced. Its methods are not safe for concurrent use.
type Writer interface {
	// Append makes the events durable, in order, all or none, and returns the
	// position of the last one. On ErrFenced, ErrTooLarge, a BlockedError and a nil error the
	// outcome is certain. After any other error the events may or may not be in
	// the log; calling Append again with the same events is safe: the writer
	// finds out and appends them at most once. At most MaxBatch events, all of the
	// writer's site; none is no error.
	Append(ctx context.Context, events []Event) (Position, error)
	// NewEpoch ends the epoch and begins another; what Current returns stays.
	NewEpoch(ctx context.Context) (Position, error)
}

// MaxBatch is the most events one Append takes. It is the server's limit for
// one atomic batch.
const MaxBatch = 1000

// Query narrows what a reader returns.
type Query struct {
	// Kind, if not nil, returns the objects of that kind only, no heartbeats.
	Kind *GroupResource
	// Heartbeat returns the last heartbeat only. It does not go with Kind.
	Heartbeat bool
	// HeadersOnly leaves Body nil.
	HeadersOnly bool
}

// History reads what is known of one site. All methods are safe for concurrent use.
type History interface {
	// State returns the extent of the history now.
	State(ctx context.Context) (State, error)
	// Current yields the last record of every Ref (tombstones and releases
	// included, and the last heartbeat), at least as new as the history was at
	// the call, in the order of their positions. A Ref may be yielded again if it
	// changes meanwhile; of each Ref the last one yielded, they are the state as of
	// the last position yielded. The sequence ends after the first error. A record
	// that is not in our wire form is yielded as an error that wraps ErrForeign, with
	// its position, and its Ref if it stands on an object's subject, and the sequence
	// goes on. The history is the one of this log: if that is a copy, what its original
	// has beyond it comes later, by Follow or another Current, and a copy that lacks
	// records is ErrGap. If the log itself has lost records of the current epoch, what it has is yielded
	// and then, last, ErrGap: what the records say is true, and nothing follows from
	// absence. A new epoch ends both, in which all that exists is put anew.
	Current(ctx context.Context, q Query) iter.Seq2[Record, error]
	// Follow delivers every record after the given position, in order. name
	// identifies the consumer to operators; following under a name again ends
	// the former subscription. The zero position, and sequence 0, are before the
	// first record of the current epoch. A position of an older epoch is
	// ErrEpochEnded; one that retention has passed over, or that the log has not
	// (or no longer) reached, is ErrGap.
	Follow(ctx context.Context, name string, after Position) (Subscription, error)
}

// State is the extent of a site's history.
type State struct {
	// First and Last are the oldest and newest records of the current epoch. Last.Seq
	// is 0 when the epoch is empty.
	First, Last Position
	// LastTime is when the newest record was stored.
	LastTime time.Time
	// Bytes is what the epoch occupies.
	Bytes uint64
	// Missing counts the epoch's records that Current should know and the log has lost; see there.
	Missing uint64
	// Origin is what is known of the original if the log holds a copy of the history,
	// else zero.
	Origin Origin
}

// Origin is what a copy of a history knows of its original. The original may be
// gone: the copy is read all the same.
type Origin struct {
	// Last is where the original ended when it was last heard of.
	Last Position
	// Heard is when that was; zero if it was not since this process began.
	Heard time.Time
}

// Subscription is a running Follow. Next is called by one goroutine; Close may
// be called by any, and again.
type Subscription interface {
	// Next waits for the next record. It returns ctx's error, ErrEpochEnded,
	// ErrGap, or an error that tells that the subscription is lost (follow again). A
	// message that is not in our wire form comes as a Delivery whose Invalid is set.
	Next(ctx context.Context) (Delivery, error)
	// Close ends the subscription and gives up what was not settled.
	Close() error
}

// Delivery is one record to be settled. Settling means that the log need not
// deliver it to this subscription again; correctness never rests on it.
type Delivery struct {
	Record
	// Invalid, if not nil, says why the message is not a record of ours; it wraps
	// ErrForeign. Only Position and Stored are set then, and Ref if the message
	// stands on the subject of an object.
	Invalid error
	// Settler acknowledges. It may be nil: then there is nothing to settle.
	Settler Settler
}

// Settler settles one delivery. Calls after the first that settles do nothing.
type Settler interface {
	// Ack settles: applied, superseded or of no interest.
	Ack() error
	// Extend says that the delivery is still being worked on.
	Extend() error
	// Term settles a delivery that was parked, with the reason for operators.
	Term(reason string) error
}

// DeadLetter is a parked Event: where it stands, why it was parked and what was
// tried. It holds no body: a retry reads the newest one.
type DeadLetter struct {
	Ref      Ref      `json:"-"`
	Position Position `json:"position"`
	Op       Op       `json:"op"`
	UID      string   `json:"uid,omitempty"`
	// Owner is the Replication (namespace/name) that could not apply it.
	Owner string `json:"owner"`
	// Class and Message say why; Message never holds object content.
	Class    Class     `json:"class"`
	Message  string    `json:"message"`
	Attempts int       `json:"attempts"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	// TraceParent finds the trace of the attempts.
	TraceParent string `json:"traceParent,omitempty"`
}

// DeadLetters keeps the parked events of one destination: at most one per owner
// and Ref, the newest. All methods are safe for concurrent use.
type DeadLetters interface {
	// Park adds or replaces the dead letter of (Owner, Ref), durably.
	Park(ctx context.Context, d DeadLetter) error
	// Remove takes it out, after it was healed or dropped. Removing none is no error.
	Remove(ctx context.Context, owner string, ref Ref) error
	// List yields those of one owner, or of all for "".
	List(ctx context.Context, owner string) iter.Seq2[DeadLetter, error]
}
