package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

// scripted is a Source whose watches tell what a test has them tell.
type scripted struct {
	identity atomic.Pointer[string]
	// script is called once for every watch that begins.
	script func(k kube.Kind, h kube.Handler)
	served func() []kube.Kind
	// get, if not nil, answers who asks for an object by name; else there is none.
	get func(k kube.Kind, namespace, name string) (kube.Object, error)
}

func newScripted(identity string, script func(k kube.Kind, h kube.Handler), kinds ...kube.Kind) *scripted {
	s := &scripted{script: script, served: func() []kube.Kind { return kinds }}
	s.identity.Store(&identity)
	return s
}

func (s *scripted) Kinds(context.Context) ([]kube.Kind, error) { return s.served(), nil }

func (s *scripted) Watch(ctx context.Context, k kube.Kind, opts kube.WatchOptions, h kube.Handler) {
	opts.OnConnect()
	s.script(k, line{h, opts.OnConnect})
	<-ctx.Done()
}

// line is a scripted watch's handler, with what tells that the watch goes on over another connection.
type line struct {
	kube.Handler
	reconnect func()
}

func (s *scripted) Get(_ context.Context, k kube.Kind, namespace, name string) (kube.Object, error) {
	if s.get == nil {
		return kube.Object{}, apierrors.NewNotFound(schema.GroupResource{Group: k.Group, Resource: k.Resource}, name)
	}
	return s.get(k, namespace, name)
}

func (s *scripted) ClusterUID(context.Context) (string, error) {
	if now := s.identity.Load(); *now != "" {
		return *now, nil
	}
	return "", errors.New("cannot tell")
}

// scriptedObject is an object of the namespace "shop" (or of the cluster) as a watch shows it.
func scriptedObject(k kube.Kind, name, uid, version string) kube.Object {
	o := kube.Object{UID: uid, Version: version, Name: name, APIVersion: k.APIVersion(), Kind: k.Kind}
	if k.Namespaced {
		o.Namespace = "shop"
	}
	o.Raw = fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,"metadata":{"namespace":%q,"name":%q,"uid":%q,"resourceVersion":%q}}`,
		o.APIVersion, o.Kind, o.Namespace, name, uid, version)
	return o
}

// list tells a handler of a complete list.
func list(h kube.Handler, version string, objects ...kube.Object) {
	for i := range objects {
		h.Observe(objects[i])
		objects[i].Raw = nil
	}
	h.Replace(objects, version)
}

const (
	uidOne = "00000000-0000-0000-0000-000000000001"
	uidTwo = "00000000-0000-0000-0000-000000000002"
)

// scriptedWorld is a world without a cluster.
func scriptedWorld(t *testing.T) *world {
	t.Helper()
	cfg := Default()
	cfg.Heartbeat, cfg.Discovery = Duration(100*time.Millisecond), Duration(time.Second)
	return &world{t: t, log: memlog.New(), config: cfg}
}

// written collects what is appended to the log of a world, as "op evidence name", across epochs.
func (w *world) written() func() []string {
	var mu sync.Mutex
	var all []string
	w.log.SetFault(func(_ string, events []pipeline.Event) memlog.Fault {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.Op != pipeline.OpHeartbeat {
				all = append(all, strings.Join(strings.Fields(e.Op.String()+" "+e.Evidence.String()+" "+e.Ref.Name), " "))
			}
		}
		return memlog.Fault{}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// writes waits until exactly this was written.
func (w *world) writes(written func() []string, want ...string) {
	w.t.Helper()
	w.eventually("written", func() string { return cmp.Diff(want, written()) })
}

// incarnation waits for a complete heartbeat of a source.
func (w *world) incarnation(want string) {
	w.t.Helper()
	w.eventually("collected from "+want, func() string {
		if h := w.heartbeat(); h.Incarnation != want || !h.Complete {
			return fmt.Sprintf("%+v", h)
		}
		return ""
	})
}

func TestAnotherClusterReplacesNothing(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	w.source = newScripted("first", func(k kube.Kind, h kube.Handler) {
		list(h, "20", scriptedObject(k, "same", uidOne, "10"))
	}, configMaps)
	w.start()
	w.incarnation("first")
	w.stop()
	w.source = newScripted("second", func(k kube.Kind, h kube.Handler) {
		list(h, "7", scriptedObject(k, "same", uidTwo, "5"))
	}, configMaps)
	w.start()
	w.incarnation("second")
	w.writes(written, "put same", "put same")
}

func TestAnotherClusterBehindTheAddress(t *testing.T) {
	cases := map[string]struct {
		reason  string
		tell    func(h line)
		waiting int
	}{
		"takes a name": {
			reason:  "an object of another UID may be another cluster's",
			tell:    func(h line) { h.Observe(scriptedObject(configMaps, "same", uidTwo, "25")) },
			waiting: 1,
		},
		"has a new name": {
			reason: "who answers a new stream may be another cluster",
			tell: func(h line) {
				h.reconnect()
				h.Observe(scriptedObject(configMaps, "theirs", uidTwo, "25"))
			},
			waiting: 1,
		},
		"was restored from the first's backup": {
			reason: "its objects have the UIDs of the first's",
			tell: func(h line) {
				h.reconnect()
				h.Observe(scriptedObject(configMaps, "same", uidOne, "25"))
			},
			waiting: 1,
		},
		"deletes": {
			reason: "a deletion there is none here",
			tell: func(h line) {
				h.reconnect()
				h.Delete(scriptedObject(configMaps, "same", uidOne, "25"))
			},
			waiting: 1,
		},
		"is idle": {
			reason: "a heartbeat does not tell how far another cluster was seen",
			tell:   func(h line) { h.reconnect() },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := scriptedWorld(t)
			written := w.written()
			tell := make(chan struct{}, 1)
			source := newScripted("first", nil, configMaps)
			source.script = func(k kube.Kind, h kube.Handler) {
				if *source.identity.Load() == "second" {
					list(h, "30", scriptedObject(k, "same", uidTwo, "25"))
					return
				}
				list(h, "20", edited(scriptedObject(k, "same", uidOne, "10")))
				<-tell
				if on, ok := h.(line); ok {
					tc.tell(on)
				}
			}
			w.source = source
			w.start()
			w.incarnation("first")
			before := w.position()

			// The watch goes on at the other cluster, which has not said yet that it is another.
			unknown, second := "", "second"
			source.identity.Store(&unknown)
			tell <- struct{}{}
			w.eventually("it waits", func() string {
				if h := w.heartbeat(); h.Outbox != tc.waiting {
					return fmt.Sprintf("%+v", h)
				}
				return ""
			})
			at := w.heartbeat().Time
			w.eventually("heartbeats go on", func() string {
				if h := w.heartbeat(); !h.Time.After(at) {
					return fmt.Sprintf("%+v", h)
				}
				return ""
			})
			w.writes(written, "put same")
			source.identity.Store(&second)
			w.incarnation("second")
			w.writes(written, "put same", "put same")
			if w.position().Epoch == before.Epoch {
				t.Errorf("no new epoch: %s", tc.reason)
			}
		})
	}
}

// edited is an object with another body.
func edited(o kube.Object) kube.Object {
	o.Raw = bytes.Replace(o.Raw, []byte(`{"apiVersion"`), []byte(`{"data":{"a":"b"},"apiVersion"`), 1)
	return o
}

func TestReplacedIsConfirmed(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	w.source = newScripted("one", func(k kube.Kind, h kube.Handler) {
		list(h, "20", scriptedObject(k, "same", uidOne, "10"))
		h.Observe(scriptedObject(k, "other", uidOne, "21"))
	}, configMaps)
	w.start()
	w.writes(written, "put same", "put other")
	w.stop()
	w.source = newScripted("one", func(k kube.Kind, h kube.Handler) {
		list(h, "40", scriptedObject(k, "same", uidTwo, "30"), scriptedObject(k, "other", uidOne, "21"))
	}, configMaps)
	w.start()
	w.writes(written, "put same", "put other", "delete replaced same", "put same")
}

func TestObjectWithoutIdentityHoldsUpNobody(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	heal := make(chan struct{})
	w.source = newScripted("one", func(k kube.Kind, h kube.Handler) {
		list(h, "20", scriptedObject(k, "bad", "", "5"), scriptedObject(k, "worse", uidTwo, ""), scriptedObject(k, "good", uidOne, "6"))
		<-heal
		h.Observe(scriptedObject(k, "bad", uidTwo, "21"))
		h.Delete(scriptedObject(k, "worse", uidTwo, ""))
	}, configMaps)
	w.start()
	w.writes(written, "put good")
	w.eventually("the bad is named", func() string {
		if h := w.heartbeat(); !strings.HasPrefix(h.Failing["configmaps"], "cannot read shop/") {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
	close(heal)
	w.writes(written, "put good", "put bad")
	w.eventually("nothing fails", func() string {
		if h := w.heartbeat(); len(h.Failing) != 0 {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
}

// What the log cannot encode must not keep its neighbors out either.
func TestUnwritableEventIsIsolated(t *testing.T) {
	term := newTerm(t, writerOf(t))
	for name, uid := range map[string]string{"a": uidOne, "b": "", "c": uidTwo} {
		s := &sighting{presence: present, uid: uid, version: "5", apiVersion: "v1", kind: "ConfigMap", body: []byte("{}"), digest: pipeline.DigestOf([]byte("{}"))}
		term.outbox.see(t.Context(), pipeline.Ref{Site: testSite, Resource: "configmaps", Namespace: "shop", Name: name}, s)
	}
	if err := term.writeBatch(t.Context(), term.outbox.take(100, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if n, held := term.outbox.size(); n != 2 || held != 0 || len(term.outbox.refused) != 1 {
		t.Errorf("%d objects in the log, refused: %v", n, term.outbox.refused)
	}
}

func writerOf(t *testing.T) pipeline.Writer {
	t.Helper()
	w, err := memlog.New().Writer(t.Context(), testSite)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestSourceThatFlapsMakesFewEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scriptedWorld(t)
		var asked atomic.Int64
		source := newScripted("", func(k kube.Kind, h kube.Handler) {
			asked.Add(1)
			list(h, "20", scriptedObject(k, "a", uidOne, "20"))
			list(h, "10", scriptedObject(k, "a", uidOne, "10"))
		}, configMaps)
		steady := "one"
		source.identity.Store(&steady)
		w.source = source
		w.start()
		<-time.After(10 * time.Minute)
		w.stop()
		if n := asked.Load(); n < 5 || n > 50 {
			t.Errorf("%d terms in ten minutes", n)
		}
	})
}

func TestFailingEndsWithAJudgedList(t *testing.T) {
	w := scriptedWorld(t)
	unknown, one := "", "one"
	source := newScripted(one, nil, configMaps)
	broken := make(chan struct{})
	source.script = func(k kube.Kind, h kube.Handler) {
		list(h, "20", scriptedObject(k, "a", uidOne, "10"))
		<-broken
		h.Replace(nil, "30")
	}
	w.source = source
	w.start()
	w.incarnation(one)
	source.identity.Store(&unknown)
	close(broken)
	w.eventually("it fails", func() string {
		if h := w.heartbeat(); !strings.Contains(h.Failing["configmaps"], "identity") {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
	source.identity.Store(&one)
	w.eventually("it does not fail", func() string {
		if h := w.heartbeat(); len(h.Failing) != 0 {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
}

func TestReload(t *testing.T) {
	w := scriptedWorld(t)
	var away atomic.Bool
	var published atomic.Int64
	away.Store(true)
	w.log.SetFault(func(_ string, events []pipeline.Event) memlog.Fault {
		for _, e := range events {
			if e.Op == pipeline.OpHeartbeat {
				continue
			}
			if away.Load() {
				return memlog.Fault{Err: errors.New("the log is away")}
			}
			published.Add(1)
		}
		return memlog.Fault{}
	})
	w.source = newScripted("one", func(k kube.Kind, h kube.Handler) {
		list(h, "20", scriptedObject(k, "a", uidOne, "10"))
		h.Observe(scriptedObject(k, "b", uidTwo, "21")) // waits behind the other
	}, configMaps)
	c := w.start()
	waiting := func(want int) {
		t.Helper()
		w.eventually("waiting", func() string {
			if term := c.ready.Load(); term != nil {
				n, _ := term.outbox.waiting()
				return cmp.Diff(want, n)
			}
			return "not begun"
		})
	}
	waiting(2)
	next := w.config
	next.Kinds.Exclude = []string{"configmaps"}
	next.Outbox.MaxBytes = 3 << 20
	if err := c.Configure(next); err != nil {
		t.Fatal(err)
	}
	outbox := c.ready.Load().outbox
	w.eventually("the bound is applied", func() string {
		outbox.mu.Lock()
		defer outbox.mu.Unlock()
		return cmp.Diff(3<<20, outbox.maxBytes)
	})
	away.Store(false)
	waiting(0)
	for ref, r := range w.current() {
		if r.Op == pipeline.OpPut {
			t.Errorf("%s is in the log, though its kind is excluded", ref)
		}
	}
}

func TestRunningWatchLearnsOfNewKinds(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	gadgets := kube.Kind{GroupResource: pipeline.GroupResource{Group: "example.com", Resource: "gadgets"}, Version: "v1", Kind: "Gadget", Namespaced: true}
	watched, tell := make(chan struct{}), make(chan struct{})
	kinds := atomic.Pointer[[]kube.Kind]{}
	kinds.Store(&[]kube.Kind{configMaps})
	source := newScripted("one", func(k kube.Kind, h kube.Handler) {
		list(h, "20")
		if k.GroupResource == gadgets.GroupResource {
			close(watched)
			return
		}
		<-tell
		owned := scriptedObject(k, "child", uidOne, "30")
		owned.Raw = []byte(strings.Replace(string(owned.Raw), `"uid"`,
			`"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Gadget","name":"g","uid":"u","controller":true}],"uid"`, 1))
		h.Observe(owned)
		h.Observe(scriptedObject(k, "own", uidTwo, "31"))
	})
	source.served = func() []kube.Kind { return *kinds.Load() }
	w.source = source
	w.start()
	w.incarnation("one")
	kinds.Store(&[]kube.Kind{configMaps, gadgets})
	<-watched
	close(tell)
	w.writes(written, "put own")
}

func TestAggregatedServerResetConcernsItsKindOnly(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	apart := kube.Kind{GroupResource: pipeline.GroupResource{Group: "example.com", Resource: "gadgets"}, Version: "v1", Kind: "Gadget", Namespaced: true}
	restarted := make(chan struct{})
	w.source = newScripted("one", func(k kube.Kind, h kube.Handler) {
		select {
		case <-restarted:
		default:
			list(h, "50", scriptedObject(k, "stays", uidOne, "40"), scriptedObject(k, "lost", uidTwo, "50"))
			<-restarted
		}
		list(h, "9", scriptedObject(k, "stays", uidOne, "7"))
		h.Delete(scriptedObject(k, "stays", uidOne, "10"))
	}, apart)
	w.start()
	w.incarnation("one")
	before := w.position()
	w.writes(written, "put stays", "put lost")
	close(restarted)
	w.eventually("it goes on", func() string {
		if got := written(); len(got) == 0 || got[len(got)-1] != "delete watch stays" {
			return fmt.Sprint(got)
		}
		return ""
	})
	if got := w.tombstones(); len(got) != 1 || w.position().Epoch != before.Epoch {
		t.Errorf("deleted: %v; epoch %s after %s", got, w.position().Epoch, before.Epoch)
	}
}
