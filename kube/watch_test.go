package kube_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// world is a Handler that keeps the state it is told, as a model of the server.
type world struct {
	mu       sync.Mutex
	objects  map[string]string // key -> data.text
	deleted  map[string]kube.Object
	replaces int
	listed   []string // keys of the last Replace
	version  string
	errs     []error
	healthy  bool
	observed int
	// connected: a server has answered since the test cut the line. blind counts what came before one had.
	connected bool
	blind     int
}

func newWorld() *world {
	return &world{objects: map[string]string{}, deleted: map[string]kube.Object{}}
}

func key(o kube.Object) string { return o.Namespace + "/" + o.Name }

func (w *world) Observe(o kube.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observed++
	w.came()
	w.objects[key(o)] = gjson.GetBytes(o.Raw, "data.text").Str
}

func (w *world) Delete(o kube.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came()
	delete(w.objects, key(o))
	w.deleted[key(o)] = o
}

func (w *world) Replace(present []kube.Object, version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replaces++
	w.version = version
	w.listed = nil
	keep := map[string]bool{}
	for _, o := range present {
		if o.Raw != nil {
			w.errs = append(w.errs, fmt.Errorf("%s has a body in Replace", key(o)))
		}
		w.listed = append(w.listed, key(o))
		keep[key(o)] = true
	}
	for k := range w.objects {
		if !keep[k] {
			delete(w.objects, k)
		}
	}
}

func (w *world) Progress(version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version = version
}

func (w *world) onConnect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected = true
}

func (w *world) blinds() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blind
}

// came notes that something was handed over.
func (w *world) came() {
	if !w.connected {
		w.blind++
	}
}

func (w *world) onError(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.healthy = err == nil
	if err != nil {
		w.errs = append(w.errs, err)
	}
}

func (w *world) text(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects[key]
}

func (w *world) lists() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.replaces
}

// eventually waits until check is true.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !check() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting until %s", what)
		case <-poll.C:
		}
	}
}

// start runs a watch until the test ends.
func start(t *testing.T, c *kube.Client, k kube.Kind, opts kube.WatchOptions) *world {
	t.Helper()
	w := newWorld()
	opts.OnError, opts.OnConnect = w.onError, w.onConnect
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Watch(ctx, k, opts, w)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Watch does not return when its context ends")
		}
		if n := w.blinds(); n > 0 {
			t.Errorf("%d objects were handed over before it was told that a server answers", n)
		}
	})
	return w
}

func connect(t *testing.T, kubeconfig string) *kube.Client {
	t.Helper()
	c, err := kube.Connect(kube.Settings{Kubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func kindOf(t *testing.T, c *kube.Client, group, resource string) kube.Kind {
	t.Helper()
	k, err := c.Kind(t.Context(), pipeline.GroupResource{Group: group, Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// put applies a ConfigMap with a text.
func put(t *testing.T, c *kube.Client, namespace, name, text string) kube.Meta {
	t.Helper()
	m, _, err := c.Apply(t.Context(), kindOf(t, c, "", "configmaps"), namespace, name, note(namespace, name, text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func note(namespace, name, text string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":%q,"name":%q},"data":{"text":%q}}`, namespace, name, text)
}

// namespace makes a namespace of the test's own.
func namespace(t *testing.T, c *kube.Client) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name()))
	name = name[max(0, len(name)-50):] + "-" + fmt.Sprint(time.Now().UnixNano()%1e6)
	name = strings.TrimLeft(name, "-")
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name)
	if _, _, err := c.Apply(t.Context(), kindOf(t, c, "", "namespaces"), "", name, body); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWatchSeesStateAndChanges(t *testing.T) {
	for _, metadataOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("metadata only %v", metadataOnly), func(t *testing.T) {
			c := kubetest.Shared(t).Client()
			ns := namespace(t, c)
			put(t, c, ns, "before", "one")
			k := kindOf(t, c, "", "configmaps")
			w := start(t, c, k, kube.WatchOptions{Namespace: ns, MetadataOnly: metadataOnly})
			eventually(t, "the list is complete", func() bool { return w.lists() == 1 })
			want := func(text string) string {
				if metadataOnly {
					return ""
				}
				return text
			}
			if got := w.text(ns + "/before"); got != want("one") {
				t.Errorf("initial object has text %q, want %q", got, want("one"))
			}
			put(t, c, ns, "after", "two")
			last := put(t, c, ns, "before", "three")
			eventually(t, "all changes are seen", func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.version == last.Version
			})
			if got := w.text(ns + "/before"); got != want("three") {
				t.Errorf("changed object has text %q, want %q", got, want("three"))
			}
			if err := c.Delete(t.Context(), k, ns, "before", last.UID); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the deletion is seen", func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.deleted[ns+"/before"].UID == last.UID
			})
			w.mu.Lock()
			defer w.mu.Unlock()
			o := w.deleted[ns+"/before"]
			if o.Version == last.Version || o.Version == "" {
				t.Errorf("the deletion's version is %q, want one after %q", o.Version, last.Version)
			}
			if o.APIVersion != "v1" || o.Kind != "ConfigMap" {
				t.Errorf("the deleted object is a %s %s", o.APIVersion, o.Kind)
			}
			if got := gjson.GetBytes(o.Raw, "data.text").Str; got != want("three") {
				t.Errorf("the last state's text is %q, want %q", got, want("three"))
			}
			if len(w.errs) > 0 {
				t.Errorf("errors: %v", w.errs)
			}
			if slices.Contains(w.listed, ns+"/after") {
				t.Error("the list holds an object made after it")
			}
		})
	}
}
