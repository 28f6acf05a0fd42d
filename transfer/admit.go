package transfer

import (
	"fmt"
	"maps"
	"sync"
)

// Caps are how many transfers may be under way at once: in all, on one node, into one storage class; 0 is no cap.
type Caps struct {
	Total    int
	PerNode  int
	PerClass int
}

// Place is what a transfer takes up. What is not known yet is empty, and counts as nothing.
type Place struct {
	// Claim is the destination's, "namespace/name": never two transfers of one.
	Claim string
	Node  string
	Class string
}

// Admit reports whether one more transfer may begin beside those that run, and if not, what it waits for.
func (c Caps) Admit(running []Place, p Place) (ok bool, why string) {
	var nodes, classes int
	for _, r := range running {
		switch {
		case r.Claim == p.Claim:
			return false, "another transfer into this claim is under way"
		case r.Node == p.Node && p.Node != "":
			nodes++
		}
		if r.Class == p.Class && p.Class != "" {
			classes++
		}
	}
	switch {
	case c.Total > 0 && len(running) >= c.Total:
		return false, fmt.Sprintf("%d transfers are under way, which is the limit", len(running))
	case c.PerNode > 0 && p.Node != "" && nodes >= c.PerNode:
		return false, fmt.Sprintf("%d transfers are under way on node %s, which is the limit of one", nodes, p.Node)
	case c.PerClass > 0 && p.Class != "" && classes >= c.PerClass:
		return false, fmt.Sprintf("%d transfers are under way into storage class %s, which is the limit of one", classes, p.Class)
	}
	return true, ""
}

// Gate lets transfers in, one decision at a time, so that there is never one more than the caps allow. What is in it
// survives in the states of the transfers: a new Gate is told of those that are Busy before it lets anyone in. Its methods
// are safe for concurrent use.
type Gate struct {
	caps Caps

	mu     sync.Mutex
	inside map[string]Place
}

// NewGate returns a gate with the transfers that are in already, by their keys.
func NewGate(c Caps, inside map[string]Place) *Gate {
	g := &Gate{caps: c, inside: map[string]Place{}}
	maps.Copy(g.inside, inside)
	return g
}

// Enter lets a transfer in, or says what it waits for. One that is in is let in again.
func (g *Gate) Enter(key string, p Place) (ok bool, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, in := g.inside[key]; in {
		return true, ""
	}
	running := make([]Place, 0, len(g.inside))
	for _, r := range g.inside {
		running = append(running, r)
	}
	if ok, why = g.caps.Admit(running, p); ok {
		g.inside[key] = p
	}
	return ok, why
}

// Keep has a transfer that was let in before be in, with what is known of it now. Whatever the caps say: it is at work.
func (g *Gate) Keep(key string, p Place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside[key] = p
}

// Leave gives a place back. It may be repeated.
func (g *Gate) Leave(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.inside, key)
}
