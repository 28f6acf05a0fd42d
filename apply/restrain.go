package apply

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// censusAge is how old the numbers may be that percentages are taken of.
const censusAge = time.Second

// restrain asks the guard about a deletion that is about to be made.
func (a *Applier) restrain(t target) verdict {
	if a.guard == nil {
		return pass
	}
	v := a.guard.ask(t.record)
	if v != pass && a.preview == nil {
		t.shelf.release(t.key, a.policy.mark, t.record, false)
	}
	return v
}

// Foresee learns of the tombstones that are about to be applied, in any order, so that the
// guard judges each knowing of the others. It waits until their kinds are known here.
func (a *Applier) Foresee(ctx context.Context, tombstones []pipeline.Record) {
	if a.guard == nil {
		return
	}
	tombstones = slices.SortedFunc(slices.Values(tombstones), func(x, y pipeline.Record) int {
		return cmp.Or(x.Stored.Compare(y.Stored), x.Position.Compare(y.Position))
	})
	shelves := map[pipeline.GroupResource]*shelf{}
	for _, r := range tombstones {
		gr := r.Ref.GroupResource()
		if _, asked := shelves[gr]; asked || !a.selector.Kind(gr) {
			continue
		}
		s, err := a.inventory.shelf(ctx, gr)
		if err != nil {
			s = nil // applying the tombstones will tell
		}
		shelves[gr] = s
	}
	a.guard.foresee(tombstones, func(r pipeline.Record) bool {
		s := shelves[r.Ref.GroupResource()]
		if s == nil {
			return false
		}
		return slices.ContainsFunc(a.places(r.Ref, s.straysOf(r.Ref)), func(k key) bool {
			return decideDelete(r, s.look(k), a.policy).verb == doDelete
		})
	})
}

// Approve lets the deletions pass that the guard holds: their Refs are told as drift, so that their
// newest records are applied again.
func (a *Applier) Approve() { a.again(a.guard.Approve()) }

// Discard has the copies kept whose deletion the guard holds.
func (a *Applier) Discard() { a.again(a.guard.Discard()) }

func (a *Applier) again(refs []pipeline.Ref) {
	for _, ref := range refs {
		a.inventory.drifted(a.policy.mark, ref)
	}
}

// census counts the copies of a scope, by numbers that are at most censusAge old.
func (a *Applier) census() func(scope) int {
	var mu sync.Mutex
	var taken time.Time
	counts := map[scope]int{}
	return func(s scope) int {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(taken) > censusAge {
			clear(counts)
			for _, shelf := range a.inventory.all() {
				shelf.census(a.policy.mark, counts)
			}
			taken = time.Now()
		}
		return counts[s]
	}
}

// census adds the copies with the mark to the counts of their scopes. A Namespace does not count
// in itself.
func (s *shelf) census(mark string, counts map[scope]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.ours {
		if it.mark != mark {
			continue
		}
		counts[scope{kind: s.kind.GroupResource}]++
		if it.origin.Namespace != "" && !isNamespace(s.kind.GroupResource) {
			counts[scope{namespace: it.origin.Namespace}]++
		}
	}
}

// Extra returns a tombstone, as of a position, for each copy whose object does not exist there by
// what the caller says of a complete state: the copies that a run up to the position has to delete.
func (a *Applier) Extra(ctx context.Context, as pipeline.Position, site string, exists func(pipeline.Ref) bool) ([]pipeline.Record, error) {
	kinds, err := a.inventory.watcher.Kinds(ctx)
	if err != nil {
		return nil, fmt.Errorf("find copies to prune: %w", err)
	}
	var out []pipeline.Record
	for _, kind := range kinds {
		if !kind.Can("list", "watch", "delete") || !a.selector.Kind(kind.GroupResource) {
			continue
		}
		copies, err := a.copies(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("find copies to prune: %w", err)
		}
		for ref, origin := range copies {
			if origin.Site != site || exists(ref) {
				continue
			}
			out = append(out, pipeline.Record{Event: pipeline.Event{
				Ref: ref, Op: pipeline.OpDelete, Evidence: pipeline.EvidenceSweep, UID: origin.UID,
			}, Position: as})
		}
	}
	return out, nil
}

// copies finds those of one kind with our mark: a kind that is not watched is listed once.
func (a *Applier) copies(ctx context.Context, kind kube.Kind) (map[pipeline.Ref]Origin, error) {
	found := map[pipeline.Ref]Origin{}
	if s := a.inventory.known(kind.GroupResource); s != nil && !s.broken() {
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, it := range s.ours {
			if it.mark == a.policy.mark && !it.deleting {
				found[s.refOf(k, it)] = it.origin
			}
		}
		return found, nil
	}
	passing := newShelf(kind, a.inventory)
	opts := kube.WatchOptions{LabelSelector: v1alpha1.LabelReplication + "=" + a.policy.mark}
	err := survey(ctx, a.inventory.watcher, kind, opts, func(o kube.Object) {
		if _, origin, ok := marksOf(o.Raw); ok {
			found[passing.refOf(key{o.Namespace, o.Name}, &item{entry: entry{origin: origin}})] = origin
		}
	})
	return found, err
}
