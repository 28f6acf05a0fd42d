package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

var configMaps = pipeline.GroupResource{Resource: "configmaps"}

// script is a Watcher whose watches a test plays.
type script struct {
	mu      sync.Mutex
	watches []*play
	forgets int
	kinds   []kube.Kind
}

// play is one watch under way.
type play struct {
	kind    kube.Kind
	opts    kube.WatchOptions
	handler kube.Handler
	ended   bool
}

func (s *script) Kind(_ context.Context, gr pipeline.GroupResource) (kube.Kind, error) {
	return kube.Kind{GroupResource: gr, Version: "v1", Kind: "Thing", Namespaced: true, Verbs: []string{"list", "watch"}}, nil
}

func (s *script) Kinds(context.Context) ([]kube.Kind, error) { return s.kinds, nil }

func (s *script) ForgetKinds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgets++
}

func (s *script) Watch(ctx context.Context, k kube.Kind, opts kube.WatchOptions, h kube.Handler) {
	p := &play{kind: k, opts: opts, handler: h}
	s.mu.Lock()
	s.watches = append(s.watches, p)
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	p.ended = true
	s.mu.Unlock()
}

// last is the newest watch.
func (s *script) last() *play {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[len(s.watches)-1]
}

// inventory starts an Inventory over the script, in a bubble of fake time.
func (s *script) inventory(t *testing.T) *Inventory {
	inv := NewInventory(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = inv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		synctest.Wait()
	})
	return inv
}

// seen is the metadata of shop/a as a watch shows it.
func seen(uid string, version int, fields string, marks ...string) kube.Object {
	mark, origin := "dr.all", Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"}.String()
	if len(marks) > 0 {
		mark = marks[0]
	}
	if len(marks) > 1 {
		origin = marks[1]
	}
	labels := fmt.Sprintf(`{%q:%q}`, v1alpha1.LabelReplication, mark)
	if mark == "" {
		labels = `{}`
	}
	return kube.Object{
		Namespace: "shop", Name: "a", UID: uid, Version: fmt.Sprint(version),
		Raw: fmt.Appendf(nil, `{"metadata":{"namespace":"shop","name":"a","uid":%q,"resourceVersion":"%d","labels":%s,"annotations":{%q:%q,%q:%q},`+
			`"managedFields":[{"manager":%q,"operation":"Apply","fieldsV1":%s}]}}`,
			uid, version, labels, v1alpha1.AnnotationOrigin, origin, v1alpha1.AnnotationDigest, digestA, v1alpha1.FieldManager, fields),
	}
}

// originAt is seen's origin at another position.
func originAt(seq uint64) string {
	return Origin{Site: "prod", Position: position(seq), UID: "u1", Namespace: "shop"}.String()
}

const (
	fieldsMark = `"f:metadata":{"f:labels":{"f:dr-syncer.io/replication":{}}}`
	fieldsA    = `{"f:data":{},` + fieldsMark + `}`
	fieldsB    = `{"f:data":{"f:x":{}},` + fieldsMark + `}`
)

// metaOf is what the server answers for that object.
func metaOf(t *testing.T, o kube.Object) kube.Meta {
	t.Helper()
	m, err := kube.MetaOf(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// filled is a shelf with a complete list of nothing, and what it reported as drift.
func filled(t *testing.T) (*shelf, func() []string) {
	t.Helper()
	inv := NewInventory(nil, slog.New(slog.DiscardHandler))
	s := newShelf(kube.Kind{GroupResource: configMaps, Namespaced: true}, inv)
	s.Replace(nil, "1")
	var drift []string
	inv.OnDrift("dr.all", func(ref pipeline.Ref) { drift = append(drift, ref.Name) })
	return s, func() []string {
		d := drift
		drift = nil
		return d
	}
}

// write goes through a write of shop/a that the server answers with m.
func write(t *testing.T, s *shelf, m kube.Meta) {
	t.Helper()
	k := key{"shop", "a"}
	if !s.begin(k) {
		t.Fatal("somebody else is writing")
	}
	s.wrote(k, m, Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"}, digestA, "dr.all")
}

func TestShelf(t *testing.T) {
	a := key{"shop", "a"}
	ours := seen("c1", 10, fieldsA)
	cases := map[string]struct {
		play   func(t *testing.T, s *shelf)
		want   holder
		drift  []string
		synced int64
		check  func(e entry) bool
		reason string
	}{
		"our write": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)) },
			want: marked, synced: 1, check: func(e entry) bool { return !e.drifted && e.uid == "c1" && e.digest == digestA },
		},
		"its echo": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)); s.Observe(ours) },
			want: marked, synced: 1, check: func(e entry) bool { return !e.drifted },
		},
		"an echo before the answer": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.begin(a)
				next := seen("c1", 12, fieldsB)
				s.Observe(next)
				s.wrote(a, metaOf(t, next), Origin{Site: "prod", Position: position(5), UID: "u1", Namespace: "shop"}, digestB, "dr.all")
			},
			want: marked, synced: 1, check: func(e entry) bool { return !e.drifted && e.digest == digestB && e.watermark() == position(5) },
			reason: "the watch may be faster than the answer to our write",
		},
		"a late event from before our write": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c0", 3, fieldsB, "other"))
				s.Observe(seen("c0", 4, fieldsB, ""))
				s.Delete(seen("c0", 5, fieldsB))
			},
			want: marked, synced: 1, check: func(e entry) bool { return e.uid == "c1" && e.mark == "dr.all" },
		},
		"somebody takes a field": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)); s.Observe(seen("c1", 11, fieldsB)) },
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted },
		},
		"and gives it back": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 11, fieldsB))
				s.Observe(seen("c1", 12, fieldsA))
				s.proven(a, position(4))
			},
			want: marked, drift: []string{"a"}, synced: 1, check: func(e entry) bool { return !e.drifted },
		},
		"somebody takes a field before the answer": {
			play: func(t *testing.T, s *shelf) {
				s.begin(a)
				s.Observe(ours)
				s.Observe(seen("c1", 11, fieldsB))
				s.wrote(a, metaOf(t, ours), Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"}, digestA, "dr.all")
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted },
		},
		"somebody deletes it before the answer": {
			play: func(t *testing.T, s *shelf) {
				s.begin(a)
				s.Observe(ours)
				s.Delete(seen("c1", 12, fieldsA))
				s.wrote(a, metaOf(t, ours), Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"}, digestA, "dr.all")
			},
			want: absent, drift: []string{"a", "a"},
		},
		"a failed write": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.begin(a)
				s.abort(a)
			},
			want: marked, check: func(e entry) bool { return !e.drifted }, reason: "it is not as the log last said",
		},
		"a failed write that was made": {
			play: func(_ *testing.T, s *shelf) {
				s.begin(a)
				s.abort(a)
				s.Observe(ours)
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.unproven == fieldsA }, reason: "it must be proven like a copy found",
		},
		"somebody deletes it": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)); s.Delete(seen("c1", 12, fieldsA)) },
			want: absent, drift: []string{"a"},
		},
		"we delete it": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.ending(a, "c1")
				s.Delete(seen("c1", 12, fieldsA))
				s.deleted(a, "c1")
			},
			want: absent,
		},
		"we delete it and it stays a while": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.ending(a, "c1")
				s.deleted(a, "c1")
				s.Observe(seen("c1", 12, fieldsA))
			},
			want: marked, check: func(e entry) bool { return e.deleting },
		},
		"we may not delete it": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.ending(a, "c1")
				s.spared(a, "c1")
				s.Delete(seen("c1", 12, fieldsA))
			},
			want: absent, drift: []string{"a"}, reason: "somebody else did",
		},
		"the mark is removed": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 11, fieldsB, ""))
			},
			want: foreign, drift: []string{"a"},
		},
		"replaced by a stranger": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Delete(seen("c1", 11, fieldsA))
				s.Observe(seen("c2", 12, fieldsA, ""))
			},
			want: foreign, drift: []string{"a"},
		},
		"a stranger goes": {
			play: func(_ *testing.T, s *shelf) {
				s.Observe(seen("c2", 12, fieldsA, ""))
				s.Delete(seen("c2", 13, fieldsA, ""))
			},
			want: absent,
		},
		"missing from a list": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)); s.Replace(nil, "11") },
			want: absent, drift: []string{"a"},
		},
		"missing from an older list": {
			play: func(t *testing.T, s *shelf) { write(t, s, metaOf(t, ours)); s.Replace(nil, "9") },
			want: marked, synced: 1,
		},
		"missing from a list of a restored server": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Progress("20")
				s.Replace(nil, "19")
			},
			want: absent, drift: []string{"a"},
		},
		"on a list of a restored server": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 12, fieldsA))
				s.Observe(seen("c1", 5, fieldsA, "dr.all", originAt(2)))
				s.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "9")
			},
			want: absent, drift: []string{"a"}, reason: "a new watch must show it",
		},
		"on a list of a restored server that has counted on": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Replace([]kube.Object{{Namespace: "shop", Name: "a", Version: "5"}}, "30")
			},
			want: absent, drift: []string{"a"},
		},
		"on a list from before our write": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Replace([]kube.Object{{Namespace: "shop", Name: "a", Version: "5"}}, "9")
			},
			want: marked, synced: 1,
		},
		"the versions of our own writes are no measure": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				o := seen("c1", 11, fieldsA)
				s.refresh(a, &o)
				s.Replace(nil, "9")
			},
			want: marked, synced: 1,
		},
		"not kept in step any more": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.release(a, "dr.all", recordOf("prod", "shop", 5), false)
				s.Observe(seen("c1", 11, fieldsA))
			},
			want: marked,
		},
		"left by what does not concern it": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.release(a, "dr.all", recordOf("prod", "shop", 3), false)
				s.release(a, "dr.all", recordOf("prod", "twin", 5), false)
				s.release(a, "dr.all", recordOf("old", "shop", 5), false)
				s.release(a, "dr.other", recordOf("prod", "shop", 5), false)
				s.recount("dr.other")
			},
			want: marked, synced: 1,
		},
		"counted anew": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.recount("dr.all")
			},
			want: marked,
		},
		"unreadable marks": {
			play: func(_ *testing.T, s *shelf) { s.Observe(seen("c1", 10, fieldsA, "dr.all", "nonsense")) },
			want: foreign, reason: "an origin is part of a copy",
		},
		"a label that somebody copied": {
			play: func(_ *testing.T, s *shelf) { s.Observe(seen("c1", 10, `{"f:data":{}}`)) },
			want: foreign, reason: "we have not applied it",
		},
		"the origin is removed": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 11, fieldsA, "dr.all", ""))
			},
			want: foreign, drift: []string{"a"},
		},
		"the mark is changed": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 11, `{"f:data":{}}`, "dr.other"))
			},
			want: foreign, drift: []string{"a"}, reason: "its label is somebody else's now",
		},
		"a copy found": {
			play: func(_ *testing.T, s *shelf) { s.Observe(ours); s.proven(a, position(7)) },
			want: marked, drift: []string{"a"}, synced: 1, check: func(e entry) bool { return e.unproven == "" && e.watermark() == position(7) },
			reason: "it was not on the first list, and nobody here wrote it",
		},
		"an earlier write of ours comes late": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.Observe(seen("c1", 11, fieldsA, "dr.all", originAt(3)))
				s.Observe(seen("c1", 12, fieldsA, "dr.all", originAt(3)))
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted && e.watermark() == position(4) },
			reason: "the fields have the same names",
		},
		"an earlier write of ours comes late, before the answer": {
			play: func(t *testing.T, s *shelf) {
				s.begin(a)
				s.Observe(ours)
				s.Observe(seen("c1", 11, fieldsA, "dr.all", originAt(3)))
				s.wrote(a, metaOf(t, ours), Origin{Site: "prod", Position: position(4), UID: "u1", Namespace: "shop"}, digestA, "dr.all")
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted && e.watermark() == position(4) },
		},
		"an earlier write of ours comes late, after a proof": {
			play: func(t *testing.T, s *shelf) {
				write(t, s, metaOf(t, ours))
				s.proven(a, position(6))
				s.Observe(seen("c1", 11, fieldsA, "dr.all", originAt(5)))
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted && e.watermark() == position(6) },
		},
		"a create of ours comes after we found nothing": {
			play: func(_ *testing.T, s *shelf) {
				s.begin(a)
				s.abort(a)
				s.Delete(seen("c0", 9, fieldsA))
				s.Observe(ours)
				s.Observe(ours)
			},
			want: marked, drift: []string{"a"},
		},
		"versions that are no numbers": {
			play: func(t *testing.T, s *shelf) {
				m := metaOf(t, ours)
				m.Version = "abc"
				write(t, s, m)
				o := seen("c1", 11, fieldsB)
				o.Version = "abd"
				s.Observe(o)
			},
			want: marked, drift: []string{"a"}, check: func(e entry) bool { return e.drifted },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, drift := filled(t)
			c.play(t, s)
			e := s.look(a)
			if e.holder != c.want || c.check != nil && !c.check(e) {
				t.Errorf("the entry is %+v; %s", e, c.reason)
			}
			if diff := cmp.Diff(c.drift, drift()); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			if got := s.synced("dr.all"); got != c.synced {
				t.Errorf("synced is %d, want %d; %s", got, c.synced, c.reason)
			}
		})
	}
}

func TestOneWriterAtATime(t *testing.T) {
	s, _ := filled(t)
	a := key{"shop", "a"}
	if !s.begin(a) || s.begin(a) {
		t.Error("two writers were let in")
	}
	s.abort(a)
	if !s.begin(a) {
		t.Error("nobody is let in after the first has left")
	}
}

func TestLingers(t *testing.T) {
	s, drift := filled(t)
	a := key{"shop", "a"}
	if s.lingers(a, "c1") {
		t.Error("what is not there lingers")
	}
	write(t, s, metaOf(t, seen("c1", 10, fieldsA)))
	s.ending(a, "c1")
	s.deleted(a, "c1")
	if s.lingers(a, "c0") {
		t.Error("another object lingers")
	}
	if !s.lingers(a, "c1") {
		t.Error("what is being deleted does not linger")
	}
	s.Delete(seen("c1", 11, fieldsA))
	if diff := cmp.Diff([]string{"a"}, drift()); diff != "" {
		t.Errorf("drift at its end (-want +got):\n%s", diff)
	}
}

func TestSharedStringsAreBounded(t *testing.T) {
	inv := NewInventory(nil, slog.New(slog.DiscardHandler))
	for i := range 3 * maxShared {
		if s := fmt.Sprint(i); inv.intern(s) != s {
			t.Fatalf("intern(%q) is another string", s)
		}
	}
	if n := len(inv.strings); n > maxShared {
		t.Errorf("%d strings are kept, want at most %d", n, maxShared)
	}
}

func TestOutsidersAreListedWhileTheWatchIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		go func() {
			synctest.Wait()
			sc.last().handler.Replace(nil, "11")
		}()
		if _, err := inv.shelf(t.Context(), configMaps); err != nil {
			t.Fatal(err)
		}
		kind, _ := sc.Kind(t.Context(), configMaps)
		find := func() []string {
			found, err := inv.outsidersOf(t.Context(), kind, "shop", "dr.all")
			if err != nil {
				t.Fatal(err)
			}
			return found.named()
		}
		if got := find(); len(got) != 0 {
			t.Errorf("outsiders are %v, want none", got)
		}
		sc.last().opts.OnError(errors.New("connection lost"))
		go func() {
			synctest.Wait()
			sc.last().handler.Observe(seen("c2", 12, fieldsA, ""))
			sc.last().handler.Observe(seen("c2", 12, fieldsA, "dr.all"))
			sc.last().handler.Replace(nil, "13")
		}()
		if diff := cmp.Diff([]string{"configmaps shop/a"}, find()); diff != "" {
			t.Errorf("outsiders (-want +got):\n%s", diff)
		}
	})
}

func status(code int32, reason metav1.StatusReason) error {
	return pipeline.WithClass(map[metav1.StatusReason]pipeline.Class{
		metav1.StatusReasonForbidden: pipeline.Forbidden, metav1.StatusReasonNotFound: pipeline.Dependency,
	}[reason], &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: reason, Message: string(reason)}})
}

func TestInventoryWaitsForTheWholeList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		answered := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := inv.shelf(t.Context(), configMaps)
				answered <- err
			}()
		}
		synctest.Wait()
		sc.last().handler.Observe(seen("c1", 10, fieldsA))
		sc.last().opts.OnError(errors.New("connection lost"))
		synctest.Wait()
		if len(answered) != 0 {
			t.Fatalf("answered before the list was complete: %v", <-answered)
		}
		sc.last().handler.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "11")
		for range 2 {
			if err := <-answered; err != nil {
				t.Errorf("shelf: %v", err)
			}
		}
		if len(sc.watches) != 1 {
			t.Errorf("%d watches for one kind, want 1", len(sc.watches))
		}
		sc.last().opts.OnError(errors.New("connection lost"))
		if _, err := inv.shelf(t.Context(), configMaps); err != nil {
			t.Errorf("a watch that reconnects: %v, want an answer", err)
		}
	})
}

func TestExpectedKindsAreListedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		secrets := pipeline.GroupResource{Resource: "secrets"}
		inv.expect(t.Context(), []pipeline.GroupResource{configMaps, secrets})
		inv.expect(t.Context(), []pipeline.GroupResource{secrets})
		synctest.Wait()
		var kinds []pipeline.GroupResource
		for _, w := range sc.watches {
			kinds = append(kinds, w.kind.GroupResource)
		}
		slices.SortFunc(kinds, func(a, b pipeline.GroupResource) int { return strings.Compare(a.Resource, b.Resource) })
		if diff := cmp.Diff([]pipeline.GroupResource{configMaps, secrets}, kinds); diff != "" {
			t.Errorf("watched (-want +got):\n%s", diff)
		}
	})
}

func TestInventoryTellsWhatItCannotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := inv.shelf(ctx, configMaps); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a list that does not come: %v, want a timeout", err)
		}
		sc.last().opts.OnError(status(http.StatusForbidden, metav1.StatusReasonForbidden))
		if _, err := inv.shelf(t.Context(), configMaps); pipeline.ClassOf(err) != pipeline.Forbidden {
			t.Errorf("a kind that may not be listed: %v, want Forbidden", err)
		}
		sc.last().opts.OnError(nil)
		sc.last().handler.Replace(nil, "1")
		if _, err := inv.shelf(t.Context(), configMaps); err != nil {
			t.Errorf("after the permission was given: %v", err)
		}
	})
}

func TestInventoryForgetsAKindThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		go func() {
			synctest.Wait()
			sc.last().handler.Observe(seen("c1", 10, fieldsA))
			sc.last().handler.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "11")
		}()
		if _, err := inv.shelf(t.Context(), configMaps); err != nil {
			t.Fatal(err)
		}
		var drift []string
		inv.OnDrift("dr.all", func(ref pipeline.Ref) { drift = append(drift, ref.Name) })
		first := sc.last()
		first.opts.OnError(status(http.StatusNotFound, metav1.StatusReasonNotFound))
		synctest.Wait()
		if !first.ended || sc.forgets != 1 {
			t.Errorf("ended is %t, kinds were forgotten %d times; want true and 1", first.ended, sc.forgets)
		}
		if diff := cmp.Diff([]string{"a"}, drift); diff != "" {
			t.Errorf("drift (-want +got):\n%s", diff)
		}
		go func() {
			synctest.Wait()
			sc.last().handler.Replace(nil, "20")
		}()
		s, err := inv.shelf(t.Context(), configMaps)
		if err != nil {
			t.Fatal(err)
		}
		if e := s.look(key{"shop", "a"}); e.holder != absent {
			t.Errorf("the new watch knows %+v from the old one", e)
		}
	})
}

func TestInventoryListsARestoredServerAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := sc.inventory(t)
		go func() {
			synctest.Wait()
			sc.last().handler.Observe(seen("c1", 10, fieldsA))
			sc.last().handler.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "11")
		}()
		old, err := inv.shelf(t.Context(), configMaps)
		if err != nil {
			t.Fatal(err)
		}
		first := sc.last()
		first.handler.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "10")
		synctest.Wait()
		if !first.ended {
			t.Error("the former watch goes on")
		}
		if err := old.wait(t.Context()); !errors.Is(err, errRestored) {
			t.Errorf("who has the former shelf is told %v, want that the server was restored", err)
		}
		go func() {
			synctest.Wait()
			sc.last().handler.Observe(seen("c1", 8, fieldsA, "dr.all", originAt(3)))
			sc.last().handler.Replace([]kube.Object{{Namespace: "shop", Name: "a"}}, "10")
		}()
		s, err := inv.shelf(t.Context(), configMaps)
		if err != nil {
			t.Fatal(err)
		}
		if e := s.look(key{"shop", "a"}); e.holder != marked || e.watermark() != position(3) {
			t.Errorf("the new watch knows %+v, want the copy at position 3", e)
		}
	})
}

func TestInventoryStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &script{}
		inv := NewInventory(sc, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			_ = inv.Run(ctx)
			close(ended)
		}()
		waiting := make(chan error, 1)
		go func() {
			_, err := inv.shelf(t.Context(), configMaps)
			waiting <- err
		}()
		synctest.Wait()
		cancel()
		<-ended
		if err := <-waiting; !errors.Is(err, errStopped) {
			t.Errorf("a waiting call ends with %v, want that the inventory has stopped", err)
		}
		if _, err := inv.shelf(t.Context(), pipeline.GroupResource{Resource: "secrets"}); !errors.Is(err, errStopped) {
			t.Errorf("a later call ends with %v, want that the inventory has stopped", err)
		}
	})
}

func TestSurveyNeedsTheWholeList(t *testing.T) {
	kind := kube.Kind{GroupResource: configMaps, Version: "v1", Kind: "ConfigMap", Namespaced: true}
	cases := map[string]struct {
		play func(p *play)
		want func(err error) bool
	}{
		"complete":  {func(p *play) { p.handler.Replace(nil, "1") }, func(err error) bool { return err == nil }},
		"kind gone": {func(p *play) { p.opts.OnError(status(http.StatusNotFound, metav1.StatusReasonNotFound)) }, func(err error) bool { return err == nil }},
		"forbidden": {
			func(p *play) { p.opts.OnError(status(http.StatusForbidden, metav1.StatusReasonForbidden)) },
			func(err error) bool { return pipeline.ClassOf(err) == pipeline.Forbidden },
		},
		"a lost connection, then complete": {
			func(p *play) {
				p.opts.OnError(errors.New("lost"))
				p.handler.Replace(nil, "1")
			},
			func(err error) bool { return err == nil },
		},
		"never": {func(p *play) { p.opts.OnError(errors.New("lost")) }, func(err error) bool { return err != nil }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := &script{}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				go func() {
					synctest.Wait()
					p := sc.last()
					p.handler.Observe(seen("c1", 10, fieldsA))
					c.play(p)
				}()
				var names []string
				err := survey(ctx, sc, kind, kube.WatchOptions{}, func(o kube.Object) { names = append(names, o.Name) })
				if !c.want(err) {
					t.Errorf("survey: %v", err)
				}
				if !slices.Contains(names, "a") {
					t.Errorf("visited are %v, want a", names)
				}
			})
		})
	}
}

// recordOf is a record of the ConfigMap a.
func recordOf(site, namespace string, seq uint64) pipeline.Record {
	return pipeline.Record{
		Event:    pipeline.Event{Ref: pipeline.Ref{Site: site, Resource: "configmaps", Namespace: namespace, Name: "a"}, Op: pipeline.OpPut},
		Position: position(seq),
	}
}
