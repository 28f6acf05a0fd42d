package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
)

// board is what a watch of a cluster shows: the last state of every object and
// who waits for which. It is safe for concurrent use.
type board struct {
	mu      sync.Mutex
	states  map[string]int    // different states seen, by key
	present map[string]string // the version of what is there, by key
	waiting map[*expectation]struct{}
	hooks   map[string]func(body []byte) // by kind
	err     error                        // the last failure of a watch, nil while all are healthy
}

func newBoard() *board {
	return &board{states: map[string]int{}, present: map[string]string{}, waiting: map[*expectation]struct{}{}, hooks: map[string]func([]byte){}}
}

// keyOf names an object: "Deployment shop/web", "Namespace shop".
func keyOf(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return kind + " " + name
}

// expectation is a state that an object shall reach.
type expectation struct {
	key string
	met func(body []byte) bool // body is nil when the object is gone
	at  time.Time              // when it was met; read after done
	end chan struct{}
}

// exists is met as soon as the object is there, gone when it is not any more.
func exists(body []byte) bool { return body != nil }
func gone(body []byte) bool   { return body == nil }

// field is met when the object has the value at the (gjson) path.
func field(path, value string) func([]byte) bool {
	return func(body []byte) bool { return body != nil && gjson.GetBytes(body, path).String() == value }
}

// expect waits, from now on, for a state to be seen. A state seen before does not count.
func (b *board) expect(key string, met func([]byte) bool) *expectation {
	e := &expectation{key: key, met: met, end: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[e] = struct{}{}
	return e
}

// wait returns when the expectation was met, or an error when it was not in time.
func (b *board) wait(ctx context.Context, e *expectation, limit time.Duration) (time.Time, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.end:
		return e.at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-timer.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, e)
	if b.err != nil {
		return time.Time{}, fmt.Errorf("%s: not seen after %s: %w", e.key, limit, b.err)
	}
	return time.Time{}, errNotSeen
}

var errNotSeen = errors.New("not seen in time")

// seen takes a state in; body nil means that the object is gone.
func (b *board) seen(key, version string, body []byte) {
	now := time.Now()
	kind, _, _ := strings.Cut(key, " ")
	b.mu.Lock()
	hook := b.hooks[kind]
	b.err = nil
	if body == nil {
		delete(b.present, key)
	} else if b.present[key] != version {
		b.present[key] = version
		b.states[key]++
	}
	for e := range b.waiting {
		if e.key == key && e.met(body) {
			e.at = now
			close(e.end)
			delete(b.waiting, e)
		}
	}
	b.mu.Unlock()
	if hook != nil && body != nil {
		hook(body)
	}
}

// each has f called with every state of objects of the kind.
func (b *board) each(kind string, f func(body []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hooks[kind] = f
}

// count is how many states of the object were seen so far.
func (b *board) count(key string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.states[key]
}

func (b *board) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// watch shows a kind of the cluster on the board until ctx ends.
func (b *board) watch(ctx context.Context, c *kube.Client, k kube.Kind) {
	c.Watch(ctx, k, kube.WatchOptions{OnError: b.failed}, &column{board: b, kind: k.Kind})
}

// column is one kind's part of the board: a kube.Handler.
type column struct {
	board *board
	kind  string
}

func (c *column) key(o kube.Object) string { return keyOf(c.kind, o.Namespace, o.Name) }

// Observe implements kube.Handler.
func (c *column) Observe(o kube.Object) { c.board.seen(c.key(o), o.Version, o.Raw) }

// Delete implements kube.Handler.
func (c *column) Delete(o kube.Object) { c.board.seen(c.key(o), o.Version, nil) }

// Replace implements kube.Handler: what a new list lacks went away unseen.
func (c *column) Replace(present []kube.Object, _ string) {
	there := make(map[string]bool, len(present))
	for _, o := range present {
		there[c.key(o)] = true
	}
	c.board.mu.Lock()
	var lost []string
	for key := range c.board.present {
		if kind, _, _ := strings.Cut(key, " "); kind == c.kind && !there[key] {
			lost = append(lost, key)
		}
	}
	c.board.mu.Unlock()
	for _, key := range lost {
		c.board.seen(key, "", nil)
	}
}

// Progress implements kube.Handler.
func (c *column) Progress(string) {}
