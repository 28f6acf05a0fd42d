package pipelinetest

import (
	"fmt"
	"strconv"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Observed is when all events of this package were observed.
var Observed = time.Date(2026, 3, 14, 15, 9, 26, 535897932, time.UTC)

// ConfigMap names a ConfigMap of a site in namespace "default".
func ConfigMap(site, name string) pipeline.Ref {
	return pipeline.Ref{Site: site, Resource: "configmaps", Namespace: "default", Name: name}
}

// Put is the event of an object as of a version; the body tells the version, so
// that any two differ. The UID belongs to the Ref.
func Put(ref pipeline.Ref, version int) pipeline.Event {
	return PutBody(ref, version, fmt.Appendf(nil, `{"kind":"Test","data":{"version":"%d"}}`, version))
}

// PutBody is Put with the given body.
func PutBody(ref pipeline.Ref, version int, body []byte) pipeline.Event {
	e := event(ref, version, pipeline.OpPut)
	e.APIVersion, e.Kind = "v1", "Test"
	e.Body, e.Digest = body, pipeline.DigestOf(body)
	return e
}

// Delete is the tombstone of an object, seen by a watch.
func Delete(ref pipeline.Ref, version int) pipeline.Event {
	e := event(ref, version, pipeline.OpDelete)
	e.Evidence = pipeline.EvidenceWatch
	return e
}

// Release is the event of an object that is no longer collected.
func Release(ref pipeline.Ref, version int) pipeline.Event {
	return event(ref, version, pipeline.OpRelease)
}

// Heartbeat is a heartbeat of a site, n seconds after Observed.
func Heartbeat(site string, n int) pipeline.Event {
	h := pipeline.Heartbeat{
		Time: Observed.Add(time.Duration(n) * time.Second), Incarnation: "incarnation-1",
		Through: map[string]string{"configmaps": strconv.Itoa(n)},
	}
	e, err := h.Event(site)
	if err != nil { // not for any n: JSON takes all that a Heartbeat holds
		return pipeline.Event{}
	}
	return e
}

func event(ref pipeline.Ref, version int, op pipeline.Op) pipeline.Event {
	return pipeline.Event{
		Ref: ref, Op: op, UID: fmt.Sprintf("uid-%x", pipeline.DigestOf([]byte(ref.Subject())).String()[:12]),
		Version: strconv.Itoa(version), Observed: Observed,
	}
}
