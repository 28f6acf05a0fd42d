package collect

import (
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// presence is what became of an object.
type presence uint8

const (
	// present: it exists and is collected.
	present presence = iota + 1
	// gone: it does not exist.
	gone
	// unwanted: it exists, and is not collected any more.
	unwanted
)

// sighting is the newest that is known of an object.
type sighting struct {
	presence presence
	// uid is the object's. The outbox fills it in for a deletion of whatever was
	// known under the name.
	uid     string
	version string
	// evidence says how it is known that the object is gone.
	evidence pipeline.Evidence
	observed time.Time

	// Of an object that is present:
	apiVersion, kind string
	manager          string
	digest           pipeline.Digest
	body             []byte // cleaned and redacted; nil if it has to be read again
	// redaction are the rules that body went through.
	redaction *transform.Set

	trace telemetry.TraceContext
	span  telemetry.Span
}

// plan returns the events that bring the log from what it holds of an object
// (base, if known) to the sighting s: none, one, or the tombstone of the former
// object and the put of the one that took its name. loss, if not nil, is the sighted end
// of a former object. That its name is taken does not end an object that is held, as its absence
// may not: the source may be another. Which sighting an event stems from stands beside it.
func plan(ref pipeline.Ref, base entry, known bool, uidText func(uid) string, loss, s *sighting) []planned {
	var events []planned
	same := false
	if known {
		former := uidText(base.uid)
		same = former == s.uid
		switch {
		case same:
		case loss != nil && loss.uid == former:
			events = append(events, planned{sighting: loss, Event: tombstone(ref, former, loss.evidence, loss)})
		case !base.held:
			events = append(events, planned{sighting: s, Event: tombstone(ref, former, pipeline.EvidenceReplaced, s)})
		case s.presence != present: // nothing else comes under the name
			return []planned{{sighting: s, Event: tombstone(ref, former, base.missing(number(s.version)), s)}}
		}
		switch {
		case same && s.presence == gone:
			return []planned{{sighting: s, Event: tombstone(ref, former, s.evidence, s)}}
		case same && s.presence == unwanted:
			return []planned{{sighting: s, Event: pipeline.Event{
				Ref: ref, Op: pipeline.OpRelease, UID: former, Version: s.version,
				APIVersion: s.apiVersion, Kind: s.kind, Observed: s.observed, Trace: s.trace,
			}}}
		}
	}
	if s.presence != present || same && base.digest == s.digest && !base.held {
		return events
	}
	return append(events, planned{sighting: s, Event: pipeline.Event{
		Ref: ref, Op: pipeline.OpPut, UID: s.uid, Version: s.version, APIVersion: s.apiVersion, Kind: s.kind,
		Observed: s.observed, Manager: s.manager, Digest: s.digest, Body: s.body, Trace: s.trace,
	}})
}

// planned is an event and the sighting it stems from.
type planned struct {
	pipeline.Event
	sighting *sighting
}

func tombstone(ref pipeline.Ref, former string, evidence pipeline.Evidence, s *sighting) pipeline.Event {
	return pipeline.Event{
		Ref: ref, Op: pipeline.OpDelete, Evidence: evidence, UID: former, Version: s.version,
		APIVersion: s.apiVersion, Kind: s.kind, Observed: s.observed, Trace: s.trace,
	}
}
