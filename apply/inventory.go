package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Watcher is what an Inventory needs of an API server; *kube.Client is one.
type Watcher interface {
	// Kind finds a kind; one that is not served is an error of class Dependency.
	Kind(ctx context.Context, gr pipeline.GroupResource) (kube.Kind, error)
	// Kinds returns every kind that can be watched.
	Kinds(ctx context.Context) ([]kube.Kind, error)
	// Watch tells h of all objects of a kind until ctx ends.
	Watch(ctx context.Context, k kube.Kind, opts kube.WatchOptions, h kube.Handler)
	// ForgetKinds has the next Kind ask the server.
	ForgetKinds()
}

// Inventory knows the objects of a destination: every copy that carries a
// Replication's mark with its origin, digest and whether others have changed it,
// of all other objects that they exist. It learns from metadata-only watches
// of whole kinds, started when a kind is first asked for and shared by all
// Replications of the process, and at once from our own writes. All methods are safe for
// concurrent use.
type Inventory struct {
	watcher Watcher
	log     *slog.Logger

	mu      sync.Mutex
	shelves map[pipeline.GroupResource]*shelf
	start   chan *shelf // to Run
	done    chan struct{}
	drift   map[string]map[int]func(pipeline.Ref) // by mark
	nextID  int
	strings map[string]string
}

var (
	// errStopped reports use of an Inventory that does not run any more.
	errStopped = errors.New("the inventory has stopped")
	// errRestored reports that what was known of a kind is not true any more.
	errRestored = errors.New("the server was restored from an older state")
)

// NewInventory returns an Inventory of the API server behind w. It answers once Run runs.
func NewInventory(w Watcher, log *slog.Logger) *Inventory {
	return &Inventory{
		watcher: w,
		log:     log,
		shelves: map[pipeline.GroupResource]*shelf{},
		start:   make(chan *shelf),
		done:    make(chan struct{}),
		drift:   map[string]map[int]func(pipeline.Ref){},
		strings: map[string]string{},
	}
}

// Run runs the watches until ctx ends and returns when all have ended. It is
// called once.
func (i *Inventory) Run(ctx context.Context) error {
	defer telemetry.Gauge(telemetry.MetricInventoryObjects, i.samples)()
	var watches sync.WaitGroup
	defer watches.Wait()
	defer close(i.done)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-i.start:
			watches.Go(func() { i.watch(ctx, s) })
		}
	}
}

// watch runs the watch of one kind until what it knows is discarded.
func (i *Inventory) watch(ctx context.Context, s *shelf) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.stop = cancel
	i.watcher.Watch(ctx, s.kind, kube.WatchOptions{
		MetadataOnly: true,
		OnError: func(err error) {
			s.failed(err)
			if !kube.IsNotFound(err) {
				return
			}
			// What was known of a kind that is gone may be wrong when it comes back.
			i.log.Info("kind is no longer served", telemetry.KeyKind, s.kind.GroupResource.String())
			i.discard(s)
		},
	}, s)
	if ctx.Err() != nil {
		s.failed(errStopped)
	}
	// Off the path of OnError, which must not wait for a request.
	if s.gone() {
		i.watcher.ForgetKinds()
	}
}

// discard gives up what is known of a kind, and its watch: it may be wrong. When the
// kind is next needed, a new watch begins; that all its copies are looked at sees to that.
func (i *Inventory) discard(s *shelf) {
	i.mu.Lock()
	if i.shelves[s.kind.GroupResource] == s {
		delete(i.shelves, s.kind.GroupResource)
	}
	i.mu.Unlock()
	s.stop()
	for _, l := range s.clear() {
		i.drifted(l.mark, l.ref)
	}
}

// shelf returns what is known of a kind, as soon as its first list is complete.
// A kind that is not served, or may not be listed, is an error at once.
func (i *Inventory) shelf(ctx context.Context, gr pipeline.GroupResource) (*shelf, error) {
	s := i.known(gr)
	if s == nil {
		kind, err := i.watcher.Kind(ctx, gr)
		if err != nil {
			return nil, err
		}
		if s, err = i.open(ctx, kind); err != nil {
			return nil, err
		}
	}
	if err := s.wait(ctx); err != nil {
		return nil, fmt.Errorf("list copies of %s: %w", gr, err)
	}
	return s, nil
}

// expect begins to watch kinds. One that is not served, or not yet, is left for when it is needed.
func (i *Inventory) expect(ctx context.Context, kinds []pipeline.GroupResource) {
	for _, gr := range kinds {
		if i.known(gr) != nil {
			continue
		}
		kind, err := i.watcher.Kind(ctx, gr)
		if err == nil {
			_, err = i.open(ctx, kind)
		}
		if err != nil {
			i.log.Debug("kind not watched yet", telemetry.KeyKind, gr.String(), telemetry.KeyError, err)
		}
	}
}

func (i *Inventory) known(gr pipeline.GroupResource) *shelf {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.shelves[gr]
}

// open begins to watch a kind unless somebody else just has.
func (i *Inventory) open(ctx context.Context, kind kube.Kind) (*shelf, error) {
	i.mu.Lock()
	if s := i.shelves[kind.GroupResource]; s != nil {
		i.mu.Unlock()
		return s, nil
	}
	s := newShelf(kind, i)
	i.shelves[kind.GroupResource] = s
	i.mu.Unlock()
	select {
	case i.start <- s:
		return s, nil
	case <-i.done:
		return nil, fmt.Errorf("list copies of %s: %w", kind.GroupResource, errStopped)
	case <-ctx.Done():
		i.mu.Lock()
		delete(i.shelves, kind.GroupResource)
		i.mu.Unlock()
		s.failed(errStopped)
		return nil, fmt.Errorf("list copies of %s: %w", kind.GroupResource, ctx.Err())
	}
}

// OnDrift has fn called with the source's Ref of each copy with the mark that may not
// be as the log says any more, until cancel is called. fn must not block.
func (i *Inventory) OnDrift(mark string, fn func(pipeline.Ref)) (cancel func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id := i.nextID
	i.nextID++
	if i.drift[mark] == nil {
		i.drift[mark] = map[int]func(pipeline.Ref){}
	}
	i.drift[mark][id] = fn
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.drift[mark], id)
		if len(i.drift[mark]) == 0 {
			delete(i.drift, mark)
		}
	}
}

// drifted tells whom it concerns. It is called without a shelf's lock.
func (i *Inventory) drifted(mark string, ref pipeline.Ref) {
	i.mu.Lock()
	fns := slices.Collect(maps.Values(i.drift[mark]))
	i.mu.Unlock()
	for _, fn := range fns {
		fn(ref)
	}
}

// Synced counts, per kind, the copies with the mark that are as the log last said.
// Only copies that the mark's present Applier has looked at and keeps in step count.
func (i *Inventory) Synced(mark string) map[pipeline.GroupResource]int64 {
	out := map[pipeline.GroupResource]int64{}
	for _, s := range i.all() {
		if n := s.synced(mark); n > 0 {
			out[s.kind.GroupResource] = n
		}
	}
	return out
}

// recount forgets which copies with the mark are as the log last said.
func (i *Inventory) recount(mark string) {
	for _, s := range i.all() {
		s.recount(mark)
	}
}

func (i *Inventory) all() []*shelf {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Collect(maps.Values(i.shelves))
}

func (i *Inventory) samples() []telemetry.Sample {
	var out []telemetry.Sample
	for _, s := range i.all() {
		out = append(out, telemetry.Sample{
			Value: float64(s.size()),
			Attrs: []telemetry.Attr{telemetry.String(telemetry.KeyKind, s.kind.GroupResource.String())},
		})
	}
	return out
}

// maxShared bounds the strings that are shared. Past it sharing begins anew; the
// strings live as long as whoever has them.
const maxShared = 10_000

// intern returns one copy of a string that many objects share.
func (i *Inventory) intern(s string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known, ok := i.strings[s]; ok {
		return known
	}
	if len(i.strings) >= maxShared {
		clear(i.strings)
	}
	i.strings[s] = s
	return s
}
