package control

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/kube"
)

// valuesWatcher is what a rulebook needs of an API server; *kube.Client is one.
type valuesWatcher interface {
	WatchValues(ctx context.Context, k kube.Kind, opts kube.WatchOptions, changed func([]kube.Values))
}

// section is one part of what rules are made of: the ConfigMaps or the Secrets of a namespace.
type section struct {
	namespace string
	secrets   bool
}

// page is what is known of a section.
type page struct {
	stop context.CancelFunc
	// known is false until all of it was read once.
	known bool
	all   map[string]kube.Values // by name
	// revision counts the changes.
	revision int
	err      error
}

// rulebook knows the ConfigMaps, and the Secrets where rules ask for some, of the namespaces
// whose Replications use rules, by watches that last as long as somebody uses them. All
// methods are safe for concurrent use.
type rulebook struct {
	watcher valuesWatcher
	// changed is told the namespace of what has changed. It may wait.
	changed func(ctx context.Context, namespace string)
	begin   chan section // to run
	done    chan struct{}

	mu    sync.Mutex
	pages map[section]*page
	users map[types.NamespacedName][]section
}

func newRulebook(w valuesWatcher, changed func(ctx context.Context, namespace string)) *rulebook {
	return &rulebook{
		watcher: w, changed: changed, begin: make(chan section), done: make(chan struct{}),
		pages: map[section]*page{}, users: map[types.NamespacedName][]section{},
	}
}

// run runs the watches until ctx ends, and returns when all have ended. It is called once.
func (b *rulebook) run(ctx context.Context) {
	var watches sync.WaitGroup
	defer watches.Wait()
	defer close(b.done)
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-b.begin:
			b.mu.Lock()
			p := b.pages[s]
			if p == nil || p.stop != nil { // nobody uses it any more, or it was begun
				b.mu.Unlock()
				continue
			}
			watch, stop := context.WithCancel(ctx)
			p.stop = stop
			b.mu.Unlock()
			watches.Go(func() {
				defer stop()
				b.watch(watch, s, p)
			})
		}
	}
}

func (b *rulebook) watch(ctx context.Context, s section, p *page) {
	kind := kube.ConfigMaps
	if s.secrets {
		kind = kube.Secrets
	}
	opts := kube.WatchOptions{Namespace: s.namespace, OnError: func(err error) {
		b.mu.Lock()
		news := !p.known && (p.err == nil) != (err == nil)
		p.err = err
		b.mu.Unlock()
		if news {
			b.changed(ctx, s.namespace)
		}
	}}
	b.watcher.WatchValues(ctx, kind, opts, func(all []kube.Values) {
		byName := make(map[string]kube.Values, len(all))
		for _, v := range all {
			byName[v.Name] = v
		}
		b.mu.Lock()
		p.known, p.all, p.err = true, byName, nil
		p.revision++
		b.mu.Unlock()
		b.changed(ctx, s.namespace)
	})
}

// use says which sections a Replication uses from now on; none ends its use.
func (b *rulebook) use(ctx context.Context, owner types.NamespacedName, sections ...section) {
	b.mu.Lock()
	if len(sections) == 0 {
		delete(b.users, owner)
	} else {
		b.users[owner] = sections
	}
	for s, p := range b.pages {
		if !b.used(s) {
			if p.stop != nil {
				p.stop()
			}
			delete(b.pages, s)
		}
	}
	var fresh []section
	for _, s := range sections {
		if b.pages[s] == nil {
			b.pages[s] = &page{}
			fresh = append(fresh, s)
		}
	}
	b.mu.Unlock()
	for _, s := range fresh {
		select {
		case b.begin <- s:
		case <-b.done:
		case <-ctx.Done():
			b.forget(s)
		}
	}
}

// forget has a section begun anew when it is next used.
func (b *rulebook) forget(s section) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[s]; p != nil && p.stop == nil {
		delete(b.pages, s)
	}
}

// used is called with the lock held.
func (b *rulebook) used(s section) bool {
	for _, sections := range b.users {
		if slices.Contains(sections, s) {
			return true
		}
	}
	return false
}

// usersOf returns who uses something of a namespace.
func (b *rulebook) usersOf(namespace string) []types.NamespacedName {
	b.mu.Lock()
	defer b.mu.Unlock()
	var owners []types.NamespacedName
	for owner, sections := range b.users {
		if slices.ContainsFunc(sections, func(s section) bool { return s.namespace == namespace }) {
			owners = append(owners, owner)
		}
	}
	return owners
}

// read returns what is known of a section. It is not to be written to.
func (b *rulebook) read(s section) (all map[string]kube.Values, revision int, known bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[s]
	if p == nil {
		return nil, 0, false, nil
	}
	return p.all, p.revision, p.known, p.err
}
