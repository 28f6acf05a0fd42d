package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/transform"
)

const testSite = "prod"

// patience is how long a test waits for what has to come.
const patience = 60 * time.Second

// world is a cluster, a log, and at times a collector between them.
type world struct {
	t       *testing.T
	cluster *kubetest.Cluster
	source  Source
	log     *memlog.Log
	config  Config
	tidy    func(context.Context) (int, error)
	rules   *transform.Set
	running *collecting
}

// collecting is a collector that runs.
type collecting struct {
	*Collector
	stop func() error
	done chan struct{}
}

// ended reports whether Run has returned.
func (c *collecting) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func newWorld(t *testing.T, c *kubetest.Cluster) *world {
	t.Helper()
	cfg := Default()
	cfg.Heartbeat = Duration(200 * time.Millisecond)
	return &world{t: t, cluster: c, source: c.Client(), log: memlog.New(), config: cfg}
}

// start starts a collector.
func (w *world) start() *collecting {
	w.t.Helper()
	c, err := New(Settings{
		Site: testSite, OwnNamespace: "dr-syncer", Source: w.source,
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) { return w.log.Writer(ctx, testSite) },
		History:    w.log.History(testSite), Config: w.config, Rules: w.rules, Tidy: w.tidy, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	})
	if err != nil {
		w.t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var ended error
	r := &collecting{Collector: c, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		ended = c.Run(ctx)
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		<-r.done
		return ended
	})
	w.t.Cleanup(func() { _ = r.stop() })
	w.running = r
	return r
}

// stop stops the collector.
func (w *world) stop() {
	w.t.Helper()
	if err := w.running.stop(); err != nil {
		w.t.Fatalf("Run: %v", err)
	}
	w.running = nil
}

// eventually waits until check returns "".
func (w *world) eventually(what string, check func() string) {
	w.t.Helper()
	waitUntil(w.t, what, check)
}

func waitUntil(t testing.TB, what string, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, patience, missing)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// caughtUp waits until the log's state is the cluster's.
func (w *world) caughtUp() {
	w.t.Helper()
	w.eventually("log equals cluster", func() string {
		if w.running != nil && !w.running.Complete() {
			return "not complete yet"
		}
		return cmp.Diff(w.inCluster(), w.inLog())
	})
}

// inCluster returns what ought to be in the log, read from the API server by other means
// than a collector: name to cleaned body.
func (w *world) inCluster() map[string]string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	client := w.cluster.Client()
	kinds, err := client.Kinds(ctx)
	var partial *kube.PartialError
	if err != nil && !errors.As(err, &partial) {
		return map[string]string{"error": err.Error()}
	}
	selector, err := NewSelector(w.config, "dr-syncer")
	if err != nil {
		w.t.Fatal(err)
	}
	cleaner, err := NewCleaner(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	selector = selector.WithKinds(kinds)
	objects := map[string]string{}
	for _, k := range kinds {
		if selector.Kind(k.GroupResource).Action != Collect {
			continue
		}
		for _, o := range listAll(ctx, client, k) {
			verdict, err := selector.Decide(k, o.Raw)
			if err != nil {
				w.t.Fatal(err)
			}
			if verdict.Action != Collect {
				continue
			}
			body, err := cleaner.Clean(k, o.Raw)
			if err != nil {
				w.t.Fatal(err)
			}
			objects[k.GroupResource.String()+" "+o.Namespace+"/"+o.Name] = o.UID + " " + string(body)
		}
	}
	return objects
}

// lister takes one complete list.
type lister struct {
	objects map[objectKey]kube.Object
	stop    context.CancelFunc
}

func (l *lister) Observe(o kube.Object)         { l.objects[objectKey{o.Namespace, o.Name}] = o }
func (l *lister) Delete(o kube.Object)          { delete(l.objects, objectKey{o.Namespace, o.Name}) }
func (l *lister) Replace([]kube.Object, string) { l.stop() }
func (l *lister) Progress(string)               {}

func listAll(ctx context.Context, c *kube.Client, k kube.Kind) map[objectKey]kube.Object {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	l := &lister{objects: map[objectKey]kube.Object{}, stop: cancel}
	c.Watch(ctx, k, kube.WatchOptions{}, l)
	return l.objects
}

// inLog returns what the log says exists: name to UID and body.
func (w *world) inLog() map[string]string {
	w.t.Helper()
	objects := map[string]string{}
	for ref, r := range w.current() {
		if r.Op == pipeline.OpPut {
			objects[ref.GroupResource().String()+" "+ref.Namespace+"/"+ref.Name] = r.UID + " " + string(r.Body)
		}
	}
	return objects
}

// current returns the last record of every object.
func (w *world) current() map[pipeline.Ref]pipeline.Record {
	w.t.Helper()
	records := map[pipeline.Ref]pipeline.Record{}
	for r, err := range w.log.History(testSite).Current(w.t.Context(), pipeline.Query{}) {
		if errors.Is(err, pipeline.ErrNoHistory) {
			return records
		}
		if err != nil {
			w.t.Fatalf("Current: %v", err)
		}
		if r.Op != pipeline.OpHeartbeat {
			records[r.Ref] = r
		}
	}
	return records
}

// heartbeat returns the last heartbeat.
func (w *world) heartbeat() pipeline.Heartbeat {
	w.t.Helper()
	for r, err := range w.log.History(testSite).Current(w.t.Context(), pipeline.Query{}) {
		if err == nil && r.Op == pipeline.OpHeartbeat {
			h, err := r.Heartbeat()
			if err != nil {
				w.t.Fatal(err)
			}
			return h
		}
	}
	return pipeline.Heartbeat{}
}

// position returns where the history ends.
func (w *world) position() pipeline.Position {
	w.t.Helper()
	s, err := w.log.History(testSite).State(w.t.Context())
	if err != nil {
		w.t.Fatalf("State: %v", err)
	}
	return s.Last
}

// eventsAfter returns the events of objects after a position of the current epoch, in order.
func (w *world) eventsAfter(p pipeline.Position) []pipeline.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	end := w.position()
	sub, err := w.log.History(testSite).Follow(ctx, "test", p)
	if err != nil {
		w.t.Fatalf("Follow: %v", err)
	}
	defer func() { _ = sub.Close() }()
	var events []pipeline.Event
	for at := p; at.Compare(end) < 0; {
		d, err := sub.Next(ctx)
		if err != nil {
			w.t.Fatalf("Next: %v", err)
		}
		at = d.Position
		if d.Op != pipeline.OpHeartbeat {
			events = append(events, d.Event)
		}
	}
	return events
}

// of keeps the events of one object's name, as "op evidence".
func of(events []pipeline.Event, name string) []string {
	var ops []string
	for _, e := range events {
		if e.Ref.Name == name {
			text := e.Op.String()
			if e.Op == pipeline.OpDelete {
				text += " " + e.Evidence.String()
			}
			ops = append(ops, text)
		}
	}
	return ops
}

// apply creates or changes objects.
func (w *world) apply(yaml string) {
	w.t.Helper()
	if err := w.cluster.Apply(yaml); err != nil {
		w.t.Fatal(err)
	}
}

// kubectl runs kubectl.
func (w *world) kubectl(args ...string) string {
	w.t.Helper()
	out, err := w.cluster.Kubectl(args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// configMap is YAML of a ConfigMap.
func configMap(namespace, name, value string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {value: %q}\n", name, namespace, value)
}

func namespaceYAML(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name)
}

// beginning is the position before the first record of the epoch.
func beginning(w *world) pipeline.Position {
	w.t.Helper()
	p := w.position()
	p.Seq = 0
	return p
}
