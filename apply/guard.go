package apply

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// The limits of a deletion guard that says nothing else.
const (
	defaultMaxDeletions  = 1000
	defaultMaxPercent    = 50
	defaultMinDeletions  = 10
	defaultDeletionsSpan = 10 * time.Minute
)

// Guard holds back deletions of one owner's copies that are too many at once, of one kind or
// in one source namespace, until somebody decides about them. All methods are safe for
// concurrent use.
//
// It counts by the time at which the log took each tombstone, so that the same deletions make
// the same burst whenever they are read: after a restart what was held is held again. Once a
// kind or a namespace has too many, all its further deletions are held too until the decision.
// An object that exists again is neither counted nor held.
//
// What is only known to be gone from a source that was reset (pipeline.EvidenceReset) is held
// whatever the limits are, and with it the namespace or the definition that it would go with.
// What only a list tells of that has nothing any more of its kind or namespace
// (pipeline.EvidenceEmptied) is held whatever the limits are, unless they are disabled.
type Guard struct {
	limits limits
	// whole counts all deletions together, whenever they were.
	whole bool
	// copies counts the copies of a scope that are here.
	copies func(scope) int

	mu      sync.Mutex
	scopes  map[scope]*tally
	held    map[pipeline.Ref]cause
	decided Decisions
	newest  pipeline.Position // of all deletions asked about
	// reminded had too many when the former process ended; that counts for one window from born.
	reminded map[scope]bool
	born     time.Time
}

// Decisions are those that were made about deletions that were held.
type Decisions struct {
	// ApprovedThrough and DiscardedThrough are positions: deletions up to there pass, or are not to
	// be made any more.
	ApprovedThrough, DiscardedThrough pipeline.Position
}

// HeldDeletions is what a guard holds back.
type HeldDeletions struct {
	Decisions
	Held int
	// AfterReset is how many of them are held for a reset of the source, Emptied for a list of it that has nothing of
	// their kind or namespace: these are held however few they are.
	AfterReset, Emptied int
	// Scopes are the kinds and namespaces with too many, those with the most first.
	Scopes []v1alpha1.HeldScope
}

// limits are those of a v1alpha1.DeletionGuard.
type limits struct {
	disabled         bool
	most, percent, a int // a: below it the percentage says nothing
	span             time.Duration
}

// scope is what deletions are counted by: a kind, or a namespace of the source.
type scope struct {
	kind      pipeline.GroupResource
	namespace string
}

// tally counts the deletions of one scope.
type tally struct {
	// recent are the deletions within the window.
	recent map[pipeline.Ref]deletion
	// newest is the time of the newest of them.
	newest  time.Time
	tripped bool
	// held is how many are held, by their causes.
	held [causes]int
}

// cause is why a deletion is held.
type cause uint8

const (
	excess  cause = iota // the scope has too many
	reset                // by its evidence: the source was reset
	emptied              // by its evidence: a list has nothing of its kind or namespace
	causes
)

// causeOf is the cause that lies in a deletion's evidence.
func causeOf(v pipeline.Evidence) cause {
	if v == pipeline.EvidenceReset {
		return reset
	}
	if v == pipeline.EvidenceEmptied {
		return emptied
	}
	return excess
}

// all counts the deletions that are held.
func (t *tally) all() int { return t.held[excess] + t.held[reset] + t.held[emptied] }

// deletion is one that was let pass or is to come.
type deletion struct {
	at   time.Time
	done bool
}

// NewGuard returns the guard that spec asks for, nil being the defaults. former is what stands in
// the status of its owner, nil if nothing does. One that counts whole is for a single run.
func NewGuard(spec *v1alpha1.DeletionGuard, former *v1alpha1.DeletionsStatus, whole bool) *Guard {
	g := &Guard{
		limits: limitsOf(spec), whole: whole, copies: func(scope) int { return 0 },
		scopes: map[scope]*tally{}, held: map[pipeline.Ref]cause{}, reminded: map[scope]bool{}, born: time.Now(),
	}
	if former == nil {
		return g
	}
	g.decided = Decisions{positionOf(former.ApprovedThrough), positionOf(former.DiscardedThrough)}
	for _, s := range former.Scopes {
		if s.Held == s.AfterReset+s.Emptied {
			continue
		}
		g.reminded[scope{kind: parseScopeKind(s.Kind), namespace: s.Namespace}] = true
	}
	return g
}

func limitsOf(spec *v1alpha1.DeletionGuard) limits {
	l := limits{most: defaultMaxDeletions, percent: defaultMaxPercent, a: defaultMinDeletions, span: defaultDeletionsSpan}
	if spec == nil {
		return l
	}
	l.disabled = spec.Disabled
	for to, from := range map[*int]*int32{&l.most: spec.MaxCount, &l.percent: spec.MaxPercent, &l.a: spec.MinCount} {
		if from != nil {
			*to = int(*from)
		}
	}
	if spec.Window != nil {
		l.span = spec.Window.Duration
	}
	return l
}

func positionOf(p *v1alpha1.Position) pipeline.Position {
	if p == nil || p.Sequence < 0 {
		return pipeline.Position{}
	}
	return pipeline.Position{Epoch: p.Epoch, Seq: uint64(p.Sequence)}
}

func parseScopeKind(text string) pipeline.GroupResource {
	group, resource, ok := strings.Cut(text, "/")
	if !ok {
		group, resource = "", text
	}
	return pipeline.GroupResource{Group: group, Resource: resource}
}

// exceeds reports whether so many deletions are too many, of so many copies that there were.
func (l limits) exceeds(deletions, copies int) bool {
	return !l.disabled && (deletions > l.most || deletions > l.a && deletions*100 > l.percent*copies)
}

// verdict is what is to be done with a deletion.
type verdict uint8

const (
	pass verdict = iota
	hold
	discard
)

// scopesOf are those that a deletion counts in, and those that go with it: the objects
// in a namespace, or of a definition.
func scopesOf(ref pipeline.Ref) (own []scope, goesToo scope) {
	own = []scope{{kind: ref.GroupResource()}}
	switch gr := ref.GroupResource(); {
	case isNamespace(gr):
		return own, scope{namespace: ref.Name}
	case gr == crds:
		resource, group, _ := strings.Cut(ref.Name, ".")
		return own, scope{kind: pipeline.GroupResource{Group: group, Resource: resource}}
	case ref.Namespace != "":
		own = append(own, scope{namespace: ref.Namespace})
	}
	return own, goesToo
}

// ask decides about the deletion of a copy that is about to be made.
func (g *Guard) ask(r pipeline.Record) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.judge(r, time.Now())
}

// judge is ask with mu held. What no tombstone asks for, but a rule, counts by the time now.
func (g *Guard) judge(r pipeline.Record, now time.Time) verdict {
	at := r.Stored
	if r.Op != pipeline.OpDelete || at.IsZero() {
		at = now
	}
	if r.Position.Compare(g.newest) > 0 {
		g.newest = r.Position
	}
	own, goesToo := scopesOf(r.Ref)
	why := g.why(r, goesToo)
	switch {
	case g.limits.disabled && why != reset:
		return pass
	case r.Position.Compare(g.decided.DiscardedThrough) <= 0:
		return discard
	case r.Position.Compare(g.decided.ApprovedThrough) <= 0:
		g.release(r.Ref)
		return pass
	case why != excess:
		g.keep(r.Ref, why)
		return hold
	}
	tripped := false
	for _, s := range own {
		t := g.add(s, r.Ref, at, false)
		tripped = g.check(s, t) || tripped
	}
	if goesToo != (scope{}) {
		t := g.tally(goesToo)
		left := g.copies(goesToo)
		if left > 0 && (t.tripped || g.limits.exceeds(len(t.recent)+left, left+t.gone())) {
			t.tripped, tripped = true, true
		}
	}
	if tripped {
		g.keep(r.Ref, excess)
		return hold
	}
	for _, s := range own {
		g.add(s, r.Ref, at, true)
	}
	return pass
}

// why is the cause for which a deletion is held however few there are, excess if there is none. A reset
// of the source counts also if it is that of something which would go with it. That a kind or a namespace was
// listed empty does not: when the end of the Namespace or definition was seen, that was the truth.
func (g *Guard) why(r pipeline.Record, goesToo scope) cause {
	if t := g.scopes[goesToo]; t != nil && t.held[reset] > count(g.held[r.Ref] == reset) {
		return reset
	}
	return causeOf(r.Evidence)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// foresee learns of deletions that are about to be asked for, oldest first, so that each
// is judged knowing of the others. there reports whether a deletion's copy is there at all.
func (g *Guard) foresee(tombstones []pipeline.Record, there func(pipeline.Record) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range tombstones {
		if r.Position.Compare(g.decided.ApprovedThrough) <= 0 || r.Position.Compare(g.decided.DiscardedThrough) <= 0 {
			continue
		}
		present, why := there(r), causeOf(r.Evidence)
		switch byItself := why == reset || why == emptied && !g.limits.disabled; {
		case byItself && present:
			g.keep(r.Ref, why)
			continue
		case byItself, g.limits.disabled, !present && g.whole:
			continue
		}
		own, _ := scopesOf(r.Ref)
		for _, s := range own {
			t := g.add(s, r.Ref, r.Stored, !present)
			if present {
				g.check(s, t)
			}
		}
	}
}

// tally returns that of a scope.
func (g *Guard) tally(s scope) *tally {
	t := g.scopes[s]
	if t == nil {
		t = &tally{recent: map[pipeline.Ref]deletion{}, tripped: g.reminded[s] && time.Since(g.born) < g.limits.span}
		g.scopes[s] = t
	}
	return t
}

// add counts a deletion, once.
func (g *Guard) add(s scope, ref pipeline.Ref, at time.Time, done bool) *tally {
	t := g.tally(s)
	if at.After(t.newest) {
		t.newest = at
	}
	if former, ok := t.recent[ref]; ok {
		done = done || former.done
	}
	t.recent[ref] = deletion{at: at, done: done}
	return t
}

// check reports whether a scope has too many deletions.
func (g *Guard) check(s scope, t *tally) bool {
	if t.tripped {
		return true
	}
	if len(t.recent) <= min(g.limits.a, g.limits.most) {
		return false
	}
	if !g.whole {
		maps.DeleteFunc(t.recent, func(_ pipeline.Ref, d deletion) bool { return t.newest.Sub(d.at) > g.limits.span })
	}
	if len(t.recent) <= min(g.limits.a, g.limits.most) {
		return false
	}
	// What stays after a reset is no part of what the source has.
	t.tripped = g.limits.exceeds(len(t.recent), g.copies(s)-t.held[reset]+t.gone())
	return t.tripped
}

// gone counts the deletions that were made.
func (t *tally) gone() int {
	n := 0
	for _, d := range t.recent {
		if d.done {
			n++
		}
	}
	return n
}

// keep holds a deletion back.
func (g *Guard) keep(ref pipeline.Ref, why cause) {
	former, held := g.held[ref]
	for _, s := range within(ref) {
		t := g.tally(s)
		t.held[former] -= count(held)
		t.held[why]++
	}
	g.held[ref] = why
}

// within are the scopes that a deletion is held in.
func within(ref pipeline.Ref) []scope {
	own, goesToo := scopesOf(ref)
	if goesToo != (scope{}) {
		own = append(own, goesToo)
	}
	return own
}

// release lets go of a deletion that was held. A scope that holds nothing for being too many has not too many.
func (g *Guard) release(ref pipeline.Ref) {
	why, ok := g.held[ref]
	if !ok {
		return
	}
	delete(g.held, ref)
	for _, s := range within(ref) {
		t := g.tally(s)
		t.held[why]--
		if t.tripped && t.held[excess] == 0 {
			t.tripped = false
			clear(t.recent)
			delete(g.reminded, s)
		}
	}
}

// settled learns that nothing is to be deleted any more: the object exists again, or its copy is gone.
func (g *Guard) settled(ref pipeline.Ref, exists bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(ref)
	if !exists {
		return
	}
	own, _ := scopesOf(ref)
	for _, s := range own {
		if t := g.scopes[s]; t != nil {
			delete(t.recent, ref)
		}
	}
}

// Approve lets everything pass that is held now, and returns it: it has to be applied again.
func (g *Guard) Approve() []pipeline.Ref {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decided.ApprovedThrough = g.newest
	return g.decide()
}

// Discard has the copies kept whose deletion is held now, and returns them.
func (g *Guard) Discard() []pipeline.Ref {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decided.DiscardedThrough = g.newest
	return g.decide()
}

// decide begins anew after a decision.
func (g *Guard) decide() []pipeline.Ref {
	refs := slices.SortedFunc(maps.Keys(g.held), pipeline.Ref.Compare)
	clear(g.scopes)
	clear(g.held)
	clear(g.reminded)
	return refs
}

// maxScopes is how many kinds and namespaces are named.
const maxScopes = 20

// Held says what is held back now.
func (g *Guard) Held() HeldDeletions {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := HeldDeletions{Decisions: g.decided, Held: len(g.held)}
	for _, why := range g.held {
		out.AfterReset += count(why == reset)
		out.Emptied += count(why == emptied)
	}
	for s, t := range g.scopes {
		if t.all() == 0 || !t.tripped && t.all() == t.held[excess] {
			continue
		}
		named := v1alpha1.HeldScope{
			Namespace: s.namespace, Held: int64(t.all()), AfterReset: int64(t.held[reset]), Emptied: int64(t.held[emptied]),
		}
		if s.namespace == "" {
			named.Kind = s.kind.String()
		}
		out.Scopes = append(out.Scopes, named)
	}
	slices.SortFunc(out.Scopes, func(a, b v1alpha1.HeldScope) int {
		return cmp.Or(cmp.Compare(b.Held, a.Held), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace))
	})
	out.Scopes = out.Scopes[:min(len(out.Scopes), maxScopes)]
	return out
}
