package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// surveyor is a Handler that ends its watch after the first complete list.
type surveyor struct {
	visit func(kube.Object)
	end   context.CancelFunc
	whole bool
}

func (s *surveyor) Observe(o kube.Object)         { s.visit(o) }
func (s *surveyor) Delete(kube.Object)            {}
func (s *surveyor) Progress(string)               {}
func (s *surveyor) Replace([]kube.Object, string) { s.whole = true; s.end() }

// survey lists a kind once, metadata only. visit may see an object twice.
func survey(ctx context.Context, w Watcher, k kube.Kind, opts kube.WatchOptions, visit func(kube.Object)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var last error
	opts.MetadataOnly = true
	opts.OnError = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		last = err
		if err != nil && pipeline.ClassOf(err) != pipeline.Transient {
			cancel()
		}
	}
	s := &surveyor{visit: visit, end: cancel}
	w.Watch(ctx, k, opts, s)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case s.whole:
		return nil
	case kube.IsNotFound(last):
		return nil // the kind has gone since it was discovered
	case last != nil:
		return fmt.Errorf("list %s: %w", k.GroupResource, last)
	}
	return fmt.Errorf("list %s: %w", k.GroupResource, ctx.Err())
}

// The server deletes everything in a namespace with it, and all objects of a kind
// with its definition. So neither is deleted while there is anything in it that is
// not a copy of the same Replication: that somebody else made an object there
// outweighs the source's deletion of its namespace. Derived objects do not
// count: what has an owner goes with it, and its owner was looked at.

// maxNamed is how many objects a refusal names.
const maxNamed = 3

// outsiders are what is in a namespace or of a definition beside a Replication's copies and
// what is derived: up to maxNamed of each sort, by title.
type outsiders struct {
	strangers []string
	copies    []string // of other Replications
}

func (o *outsiders) add(other outsiders) {
	o.strangers = append(o.strangers, other.strangers...)
	o.copies = append(o.copies, other.copies...)
}

// named is a selection for people.
func (o outsiders) named() []string {
	slices.Sort(o.strangers)
	slices.Sort(o.copies)
	names := slices.Concat(o.strangers, o.copies)
	return names[:min(len(names), maxNamed)]
}

// surveyors is how many kinds are listed at a time.
const surveyors = 8

// outsiders finds objects that deleting the copy of a namespace or a definition
// would destroy though they are not copies with the mark. Kinds that are watched are
// looked up, the others, and those whose watch is interrupted, listed; an error means that it cannot be known.
func (i *Inventory) outsiders(ctx context.Context, gr pipeline.GroupResource, name, mark string) (outsiders, error) {
	if gr == crds {
		resource, group, _ := strings.Cut(name, ".")
		s, err := i.shelf(ctx, pipeline.GroupResource{Group: group, Resource: resource})
		if pipeline.ClassOf(err) == pipeline.Dependency {
			return outsiders{}, nil // not served, so there are none
		}
		if err != nil {
			return outsiders{}, err
		}
		return i.outsidersOf(ctx, s.kind, "", mark)
	}
	kinds, err := i.watcher.Kinds(ctx)
	if err != nil {
		return outsiders{}, fmt.Errorf("find what namespace %q holds: %w", name, err)
	}
	var (
		mu  sync.Mutex
		all outsiders
	)
	var g errgroup.Group
	g.SetLimit(surveyors)
	for _, kind := range kinds {
		if !kind.Namespaced || !kind.Can("list", "watch") {
			continue
		}
		g.Go(func() error {
			found, err := i.outsidersOf(ctx, kind, name, mark)
			mu.Lock()
			defer mu.Unlock()
			all.add(found)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return outsiders{}, fmt.Errorf("find what namespace %q holds: %w", name, err)
	}
	return all, nil
}

// outsidersOf finds those of one kind in one namespace, or ("") everywhere.
func (i *Inventory) outsidersOf(ctx context.Context, kind kube.Kind, namespace, mark string) (outsiders, error) {
	if s := i.known(kind.GroupResource); s != nil && !s.broken() {
		if err := s.wait(ctx); err != nil {
			return outsiders{}, err
		}
		return s.outsiders(mark, namespace), nil
	}
	strangers, copies := map[string]bool{}, map[string]bool{} // the survey may show an object twice
	err := survey(ctx, i.watcher, kind, kube.WatchOptions{Namespace: namespace}, func(o kube.Object) {
		to := strangers
		switch m, _, ok := marksOf(o.Raw); {
		case ok && m == mark, !ok && derived(kind.GroupResource, o):
			return
		case ok:
			to = copies
		}
		if len(to) < maxNamed {
			to[title(kind.GroupResource, key{o.Namespace, o.Name})] = true
		}
	})
	if err != nil {
		return outsiders{}, err
	}
	return outsiders{strangers: slices.Collect(maps.Keys(strangers)), copies: slices.Collect(maps.Keys(copies))}, nil
}
