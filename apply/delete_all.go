package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Deletion wires DeleteCopies.
type Deletion struct {
	// Namespace and Name are the Replication's.
	Namespace, Name string
	Client          Client
	Inventory       *Inventory
	// Workers is how many deletes go at once; 0 means 16.
	Workers int
	Log     *slog.Logger
}

// Deleted says what DeleteCopies has done.
type Deleted struct {
	// Deleted counts the copies whose deletion the server has accepted.
	Deleted int
	// Kept names namespaces and definitions that stay because others have objects in them.
	Kept []string
}

// DeleteCopies deletes every copy of a Replication and nothing else, not even what
// has its label from a copy: by UID, in the reverse order of the first copy, namespaces and
// definitions only when nothing else would go with them. The Replication's run must
// have ended. It goes as far as it can; a nil error means that no copy is left
// but the Kept and those whose finalizers take time. It may be repeated.
func DeleteCopies(ctx context.Context, d Deletion) (Deleted, error) {
	if d.Workers <= 0 {
		d.Workers = 16
	}
	kinds, err := d.Inventory.watcher.Kinds(ctx)
	var partial *kube.PartialError
	if err != nil && !errors.As(err, &partial) {
		return Deleted{}, fmt.Errorf("delete copies of %s/%s: %w", d.Namespace, d.Name, err)
	}
	slices.SortStableFunc(kinds, func(a, b kube.Kind) int { return Wave(b.GroupResource) - Wave(a.GroupResource) })
	e := eraser{Deletion: d, mark: Mark(d.Namespace, d.Name), errs: []error{err}}
	for len(kinds) > 0 {
		n := 1
		for n < len(kinds) && Wave(kinds[n].GroupResource) == Wave(kinds[0].GroupResource) {
			n++
		}
		e.wave(ctx, kinds[:n])
		kinds = kinds[n:]
	}
	slices.Sort(e.done.Kept)
	if err := errors.Join(e.errs...); err != nil {
		return e.done, fmt.Errorf("delete copies of %s/%s: %w", d.Namespace, d.Name, err)
	}
	return e.done, nil
}

// eraser is one DeleteCopies under way.
type eraser struct {
	Deletion
	mark string

	mu   sync.Mutex
	done Deleted
	errs []error
}

// wave deletes the copies of kinds that do not depend on one another.
func (e *eraser) wave(ctx context.Context, kinds []kube.Kind) {
	var g errgroup.Group
	g.SetLimit(e.Workers)
	for _, kind := range kinds {
		if !kind.Can("list", "watch", "delete") {
			continue
		}
		copies, err := e.find(ctx, kind)
		if err != nil {
			e.fail(err)
			continue
		}
		for k, uid := range copies {
			g.Go(func() error {
				e.erase(ctx, kind, k, uid)
				return nil
			})
		}
	}
	_ = g.Wait() // the errors are in e
}

func (e *eraser) find(ctx context.Context, kind kube.Kind) (map[key]string, error) {
	copies := map[key]string{}
	opts := kube.WatchOptions{LabelSelector: v1alpha1.LabelReplication + "=" + e.mark}
	err := survey(ctx, e.Inventory.watcher, kind, opts, func(o kube.Object) {
		if _, _, ok := marksOf(o.Raw); ok {
			copies[key{o.Namespace, o.Name}] = o.UID
		}
	})
	return copies, err
}

func (e *eraser) erase(ctx context.Context, kind kube.Kind, k key, uid string) {
	if gr := kind.GroupResource; isNamespace(gr) || gr == crds {
		others, err := e.Inventory.outsiders(ctx, gr, k.name, e.mark)
		if err != nil {
			e.fail(err)
			return
		}
		if names := others.named(); len(names) > 0 {
			e.keep(gr, k, names)
			return
		}
	}
	err := e.Client.Delete(ctx, kind, k.namespace, k.name, uid)
	if err != nil && !kube.IsConflict(err) { // another UID: somebody else has replaced the copy
		e.fail(err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Deleted++
}

func (e *eraser) keep(gr pipeline.GroupResource, k key, others []string) {
	e.Log.Info("kept because others have objects in it", telemetry.KeyReplication, e.Namespace+"/"+e.Name,
		telemetry.KeyKind, gr.String(), telemetry.KeyName, k.name, telemetry.KeyReason, strings.Join(others, ", "))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Kept = append(e.done.Kept, title(gr, k))
}

func (e *eraser) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs = append(e.errs, err)
}
