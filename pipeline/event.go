package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Op says what an Event reports.
type Op uint8

const (
	// OpPut reports that the object exists with the Event's body.
	OpPut Op = iota + 1
	// OpDelete is a tombstone: the object with the Event's UID is gone, and
	// Evidence says how that is known. It has no body.
	OpDelete
	// OpRelease reports that the object is no longer collected (ignored by
	// label, or no longer selected), though it may well exist: copies are kept
	// as they are and its absence from later lists proves nothing. It has no body.
	OpRelease
	// OpHeartbeat is a Heartbeat of the site, not of an object.
	OpHeartbeat
)

// opNames are the operations as the wire and users see them.
var opNames = [...]string{OpPut: "put", OpDelete: "delete", OpRelease: "release", OpHeartbeat: "heartbeat"}

// String is the operation's name.
func (o Op) String() string {
	if o < OpPut || o > OpHeartbeat {
		return fmt.Sprintf("Op(%d)", uint8(o))
	}
	return opNames[o]
}

// MarshalText writes the operation by its name; the zero Op, of a message that
// could not be read, is empty.
func (o Op) MarshalText() ([]byte, error) {
	if o == 0 {
		return nil, nil
	}
	return []byte(o.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (o *Op) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*o = 0
		return nil
	}
	op, err := parseOp(string(text))
	if err != nil {
		return err
	}
	*o = op
	return nil
}

func parseOp(s string) (Op, error) {
	for op := OpPut; op <= OpHeartbeat; op++ {
		if opNames[op] == s {
			return op, nil
		}
	}
	return 0, fmt.Errorf("unknown operation %q", s)
}

// Evidence says how a tombstone's deletion is known. There is no other way to
// know it: a missing object alone is never a deletion.
type Evidence uint8

const (
	// EvidenceNone is the evidence of everything that is not a tombstone.
	EvidenceNone Evidence = iota
	// EvidenceWatch is a DELETED event of a watch.
	EvidenceWatch
	// EvidenceReplaced is an object of the same name with another UID: the
	// former one must be gone.
	EvidenceReplaced
	// EvidenceSweep is a complete list of the kind without the object, at a
	// version not before the last recorded one, from the same source.
	EvidenceSweep
	// EvidenceReset is such a list of a source that is not what it was when the object was
	// seen: it was put back to an earlier state, or is another cluster under the same name.
	// Whether its copies are to go as well, somebody has to say.
	EvidenceReset
	// EvidenceEmptied is such a list that names nothing of the kind any more, or the object's
	// namespace is not there either, or the object is itself a Namespace or a definition. A source that cannot see
	// them shows the same, so somebody has to say.
	EvidenceEmptied
)

// evidenceNames are the kinds of evidence as the wire and users see them.
var evidenceNames = [...]string{EvidenceNone: "", EvidenceWatch: "watch", EvidenceReplaced: "replaced", EvidenceSweep: "sweep", EvidenceReset: "reset", EvidenceEmptied: "emptied"}

// String is the evidence's name, empty for none.
func (v Evidence) String() string {
	if v > EvidenceEmptied {
		return fmt.Sprintf("Evidence(%d)", uint8(v))
	}
	return evidenceNames[v]
}

func parseEvidence(s string) (Evidence, error) {
	for v := EvidenceNone; v <= EvidenceEmptied; v++ {
		if evidenceNames[v] == s {
			return v, nil
		}
	}
	return EvidenceNone, fmt.Errorf("unknown evidence %q", s)
}

// Digest is a hash of an object's cleaned body; two bodies with one digest are
// taken to be equal. It is a truncated SHA-256: 128 bits, no collisions by
// accident or by intent.
type Digest [16]byte

// DigestOf hashes body.
func DigestOf(body []byte) Digest {
	sum := sha256.Sum256(body)
	return Digest(sum[:16])
}

// String is the digest in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest is the inverse of Digest.String.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return d, fmt.Errorf("digest %q has the wrong length", s)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("digest %q: %w", s, err)
	}
	if d.String() != s {
		return d, fmt.Errorf("digest %q is not lower-case hex", s)
	}
	return d, nil
}

// Event is one observed change of one Ref. It is a value: whoever is handed an
// Event may keep it but must not write to Body.
type Event struct {
	Ref      Ref
	Op       Op
	Evidence Evidence
	// UID is the object's metadata.uid at the source.
	UID string
	// Version is the object's metadata.resourceVersion at the source, for a
	// sweep that of the list.
	Version string
	// APIVersion and Kind are those of Body, for a tombstone those of the object.
	APIVersion string
	Kind       string
	// Observed is when the collector learned of the change, by its clock.
	Observed time.Time
	// Manager is the field manager that changed the object last, if known.
	Manager string
	// Digest is DigestOf(Body) for a put and a heartbeat, else zero.
	Digest Digest
	// Body is the cleaned object as JSON. It is nil unless Op is OpPut or
	// OpHeartbeat, and where only headers were asked for.
	Body []byte
	// Trace is the span that observed the change.
	Trace telemetry.TraceContext
}

// Position is a place in a site's history. The zero value is before everything.
type Position struct {
	// Epoch names one unbroken history: a ULID, so that later epochs compare greater.
	Epoch string `json:"epoch,omitempty"`
	// Seq counts the records of the epoch from 1, without gaps.
	Seq uint64 `json:"seq,omitempty"`
}

// Compare orders positions by epoch, then by sequence.
func (p Position) Compare(o Position) int {
	return cmp.Or(strings.Compare(p.Epoch, o.Epoch), cmp.Compare(p.Seq, o.Seq))
}

// IsZero reports whether p is before everything.
func (p Position) IsZero() bool { return p == Position{} }

// String is "epoch/sequence".
func (p Position) String() string { return fmt.Sprintf("%s/%d", p.Epoch, p.Seq) }

// Record is an Event as it stands in the log.
type Record struct {
	Event
	Position Position
	// Stored is when the log took the Event, by the log's clock.
	Stored time.Time
}
