package collect

import (
	"maps"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// progress is how far one kind was collected. Changes are counted in two
// generations, so that it is known when everything seen before a point in time is
// durable, though later changes keep coming.
type progress struct {
	// gen is the generation of new changes; pending counts those not durable yet.
	gen     uint8
	pending [2]int
	// seen is the version through which everything was handed to the outbox, candidate
	// the one through which the other generation reaches, through the one through which
	// everything is durable.
	seen, candidate, through string
	// floor is the newest version that the log showed at the start.
	floor uint64
	// watched: its watch runs. listed: since it does, a complete list has ended.
	watched, listed bool
	// failing says why the kind cannot be collected now.
	failing string
}

// advance moves through as far as what is durable allows.
func (p *progress) advance() {
	if p.pending[0]+p.pending[1] == 0 {
		p.through, p.candidate = p.seen, p.seen
		return
	}
	if other := 1 - p.gen; p.pending[other] == 0 {
		p.through, p.candidate, p.gen = p.candidate, p.seen, other
	}
}

// progressOf returns the progress of a kind. o.mu is held.
func (o *outbox) progressOf(k pipeline.GroupResource) *progress {
	p := o.kinds[k]
	if p == nil {
		p = &progress{}
		o.kinds[k] = p
	}
	return p
}

// onProgress changes the progress of a kind.
func (o *outbox) onProgress(k pipeline.GroupResource, change func(p *progress)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o.progressOf(k))
}

// restore sets what a former collector has recorded in this epoch.
func (o *outbox) restore(through map[string]string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range o.inv.kinds {
		o.progressOf(k).floor = o.inv.newest(k)
	}
	for name, version := range through {
		p, err := parseKindPattern(name)
		if err != nil || !p.exact() {
			continue // of a newer version of us
		}
		k := o.progressOf(pipeline.GroupResource{Group: p.group, Resource: p.resource})
		k.seen, k.candidate, k.through = version, version, version
	}
}

// recorded returns the newest version that a kind is known to have reached.
func (o *outbox) recorded(k pipeline.GroupResource) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.progressOf(k)
	return max(number(p.seen), number(p.through), p.floor)
}

// heartbeat says how the collector is.
func (o *outbox) heartbeat(now time.Time, incarnation string, problems map[string]string) pipeline.Heartbeat {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := pipeline.Heartbeat{
		Time: now, Incarnation: incarnation, Through: map[string]string{}, Complete: true,
		Failing: map[string]string{}, Outbox: len(o.lanes), Held: o.inv.held,
	}
	watched := 0
	for k, p := range o.kinds {
		p.advance()
		if p.through != "" {
			h.Through[k.String()] = p.through
		}
		if !p.watched {
			continue
		}
		watched++
		h.Complete = h.Complete && p.listed
		if p.failing != "" {
			h.Failing[k.String()] = p.failing
		}
	}
	h.Complete = h.Complete && watched > 0
	for ref, r := range o.refused {
		kind := ref.GroupResource().String()
		if h.Failing[kind] == "" {
			h.Failing[kind] = r.reason
		}
	}
	for ref, l := range o.blocked {
		kind := ref.GroupResource().String()
		if h.Failing[kind] == "" {
			h.Failing[kind] = "the log cannot take " + objectName(ref) + " now: " + l.block.reason
		}
	}
	maps.Copy(h.Failing, problems)
	return h
}

// objectName is an object's name for people.
func objectName(ref pipeline.Ref) string {
	if ref.Namespace == "" {
		return ref.Name
	}
	return ref.Namespace + "/" + ref.Name
}
