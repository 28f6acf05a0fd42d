package pipeline

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// Moment is a place in a site's history together with its time: that at which
// the log took the record there. Times are for people and are resolved once;
// everything after goes by position.
type Moment struct {
	Position Position  `json:"position"`
	Time     time.Time `json:"time"`
}

// String is "time (epoch/sequence)".
func (m Moment) String() string {
	return fmt.Sprintf("%s (%s)", m.Time.UTC().Format(time.RFC3339), m.Position)
}

// TooOldError reports a moment that the log no longer reaches: retention has
// passed over it. It is an ErrGap.
type TooOldError struct {
	// Oldest is the oldest moment that can be read.
	Oldest Moment
}

// Error names the oldest moment.
func (e *TooOldError) Error() string {
	return fmt.Sprintf("the history reaches back to %s only", e.Oldest)
}

// Is reports whether target is ErrGap.
func (e *TooOldError) Is(target error) bool { return target == ErrGap }

// Archive is what the log still holds of a site's history, over all its epochs.
// All methods are safe for concurrent use.
type Archive interface {
	// Extent says what there is. A site without history is ErrNoHistory.
	Extent(ctx context.Context) (Extent, error)
	// Locate returns the last record that was stored at t or before, or the end of the
	// former epoch if the next has none yet. It is found by the log's clock, which may
	// have been set back: ask once, keep the position. A time before the first record
	// there is gives that record's predecessor, with the time t.
	Locate(ctx context.Context, t time.Time) (Moment, error)
	// Between yields the records after one position up to and including another, in
	// order and over epochs. A range of which something is gone is ErrGap before the first
	// record. The sequence ends after the first error, but for a record that is not in
	// our wire form: it is yielded with an error that wraps ErrForeign, with its position,
	// and its Ref if it stands on an object's subject, and the sequence goes on.
	Between(ctx context.Context, after, through Position, q Range) iter.Seq2[Record, error]
	// Trim lets go of the records before a position, at best all of them: the log may
	// keep some more, and an epoch's last record. It may be repeated.
	Trim(ctx context.Context, before Position) error
}

// Range narrows what Archive.Between yields.
type Range struct {
	// Ref, if not nil, yields the records of that object only. Of the zero Ref with a
	// site, those are its heartbeats.
	Ref *Ref
	// Kind, if not nil, yields the records of objects of that kind only. It does not go
	// with Ref.
	Kind *GroupResource
	// Newest yields the newest record of each Ref only, which costs the decoding of no
	// other. It is the range folded, held in memory.
	Newest bool
	// HeadersOnly leaves Body nil.
	HeadersOnly bool
}

// Extent is what the log holds of a site's history.
type Extent struct {
	// Epochs, the oldest first. There is at least one.
	Epochs []EpochExtent
	// Current is what the current state occupies. At its limit it takes up nothing
	// more, and nothing is dropped.
	Current Room
}

// Room is what something in the log occupies, in bytes, and what it may; a Limit of 0 is none.
type Room struct {
	Bytes, Limit uint64
}

// Share is the part of the limit that is used, 0 without a limit.
func (r Room) Share() float64 {
	if r.Limit == 0 {
		return 0
	}
	return float64(r.Bytes) / float64(r.Limit)
}

// EpochExtent is what the log holds of one epoch.
type EpochExtent struct {
	Epoch string
	// After is where the epoch before had ended; it is zero for the first epoch
	// that the site ever had.
	After Position
	// First and Last are the sequences of the oldest and newest record there is.
	// Without records First is Last+1.
	First, Last uint64
	// FirstTime and LastTime are when those were stored; zero without records.
	FirstTime, LastTime time.Time
	// Bytes is what the records occupy, Limit what they may, 0 if there is none: then
	// the oldest go.
	Bytes, Limit uint64
}

// Last is where the history ends.
func (x Extent) Last() Position {
	if len(x.Epochs) == 0 {
		return Position{}
	}
	newest := x.Epochs[len(x.Epochs)-1]
	return Position{Epoch: newest.Epoch, Seq: newest.Last}
}

// Holds reports whether every record after a position, up to and including
// another, is there. The zero position is before the site's first record.
func (x Extent) Holds(after, through Position) bool {
	if through.Compare(after) <= 0 {
		return true
	}
	reached, begun := after, false
	for _, e := range x.Epochs {
		if e.Epoch < after.Epoch {
			continue
		}
		if e.Epoch > through.Epoch {
			break
		}
		first := uint64(1)
		if e.Epoch == after.Epoch {
			first = after.Seq + 1
		} else if reached.Compare(e.After) < 0 {
			return false // something between the epochs is gone
		}
		last := e.Last
		if e.Epoch == through.Epoch {
			if through.Seq > e.Last {
				return false
			}
			last = through.Seq
		}
		if first <= last && e.First > first {
			return false
		}
		reached, begun = Position{Epoch: e.Epoch, Seq: e.Last}, true
	}
	return begun && reached.Compare(through) >= 0
}

// Snapshots keeps the snapshot files of one site; see SnapshotWriter for what is in
// them. All methods are safe for concurrent use.
type Snapshots interface {
	// Put stores a file under its manifest's name, durably and all or nothing, in place
	// of one that has the name. What the reader yields is stored as it is.
	Put(ctx context.Context, m Manifest, file io.Reader) error
	// List returns the manifests, by position.
	List(ctx context.Context) ([]Manifest, error)
	// Open reads a file. One that is not there is ErrNoSnapshot. Close it.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// Delete removes a file. Removing none is no error.
	Delete(ctx context.Context, name string) error
}
