package pipeline

import (
	"encoding/json"
	"fmt"
	"time"
)

// Heartbeat is what a collector says of itself every few seconds, so that lag is
// known when nothing changes and a later collector knows how far this one came.
type Heartbeat struct {
	Time time.Time `json:"time"`
	// Incarnation is the source's identity: the UID of its kube-system namespace.
	Incarnation string `json:"incarnation"`
	// Through is, per kind ("group/resource"), the resource version up to which
	// everything was collected; a kind not yet listed completely is missing.
	Through map[string]string `json:"through"`
	// Complete is set once every selected kind was listed since the start.
	Complete bool `json:"complete"`
	// Failing names the kinds that cannot be collected now, with the reason.
	Failing map[string]string `json:"failing,omitempty"`
	// Outbox is how many changes wait to be made durable.
	Outbox int `json:"outbox"`
	// Held is how many objects of the log are from before the epoch and were not seen since, nor missed
	// by a complete list: whether they still exist is not known.
	Held int `json:"held,omitempty"`
	// Former are the epochs before this one that the log still had objects of when the collector
	// started, each with its incarnation. Those from before a reset of the source are left out.
	Former map[string]string `json:"former,omitempty"`
}

// Event makes the heartbeat an Event of the site.
func (h Heartbeat) Event(site string) (Event, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return Event{}, fmt.Errorf("encode heartbeat of site %q: %w", site, err)
	}
	return Event{Ref: Ref{Site: site}, Op: OpHeartbeat, Observed: h.Time, Digest: DigestOf(body), Body: body}, nil
}

// Heartbeat decodes the body of an OpHeartbeat Event.
func (e Event) Heartbeat() (Heartbeat, error) {
	var h Heartbeat
	if e.Op != OpHeartbeat {
		return h, fmt.Errorf("event of %s is not a heartbeat", e.Ref)
	}
	if err := json.Unmarshal(e.Body, &h); err != nil {
		return h, fmt.Errorf("decode heartbeat of site %q: %w", e.Ref.Site, err)
	}
	return h, nil
}
