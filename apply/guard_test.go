package apply

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// ward is a Guard and the copies that it guards.
type ward struct {
	guard  *Guard
	copies map[pipeline.Ref]bool
	seq    uint64
	now    time.Time
}

func newWard(spec *v1alpha1.DeletionGuard, former *v1alpha1.DeletionsStatus) *ward {
	w := &ward{guard: NewGuard(spec, former, false), copies: map[pipeline.Ref]bool{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.guard.copies = w.count
	return w
}

func (w *ward) count(s scope) int {
	n := 0
	for ref := range w.copies {
		if s.namespace != "" && ref.Namespace == s.namespace || s.namespace == "" && ref.GroupResource() == s.kind {
			n++
		}
	}
	return n
}

func cm(namespace string, i int) pipeline.Ref {
	return pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: namespace, Name: fmt.Sprint("c", i)}
}

func (w *ward) fill(namespace string, n int) {
	for i := range n {
		w.copies[cm(namespace, i)] = true
	}
	w.copies[pipeline.Ref{Site: "prod", Resource: "namespaces", Name: namespace}] = true
}

// tombstone of an object, now.
func (w *ward) tombstone(ref pipeline.Ref) pipeline.Record {
	w.seq++
	return pipeline.Record{
		Event:    pipeline.Event{Ref: ref, Op: pipeline.OpDelete, Evidence: pipeline.EvidenceWatch, UID: "u"},
		Position: pipeline.Position{Epoch: "E", Seq: w.seq}, Stored: w.now,
	}
}

// apply asks, and deletes the copy if that is let pass.
func (w *ward) apply(r pipeline.Record) verdict {
	if !w.copies[r.Ref] {
		w.guard.settled(r.Ref, false)
		return pass
	}
	v := w.guard.ask(r)
	if v == pass {
		delete(w.copies, r.Ref)
	}
	return v
}

// remove deletes objects of a namespace one by one, and returns how many passed.
func (w *ward) remove(namespace string, from, to int) (passed int) {
	for i := from; i < to; i++ {
		if w.apply(w.tombstone(cm(namespace, i))) == pass {
			passed++
		}
	}
	return passed
}

func TestGuard(t *testing.T) {
	small := &v1alpha1.DeletionGuard{MaxCount: new(int32(20)), MaxPercent: new(int32(50)), MinCount: new(int32(5)), Window: &metav1.Duration{Duration: time.Minute}}
	t.Run("few pass", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		if n := w.remove("a", 0, 20); n != 20 || w.guard.Held().Held != 0 {
			t.Errorf("%d passed, %d are held", n, w.guard.Held().Held)
		}
	})
	t.Run("too many are held, and nothing else", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		w.fill("b", 100)
		secret := pipeline.Ref{Site: "prod", Resource: "secrets", Namespace: "b", Name: "s"}
		w.copies[secret] = true
		if n := w.remove("a", 0, 40); n != 20 {
			t.Errorf("%d passed, want 20", n)
		}
		if v := w.apply(w.tombstone(secret)); v != pass {
			t.Error("another kind in another namespace is held")
		}
		held := w.guard.Held()
		want := []v1alpha1.HeldScope{{Namespace: "a", Held: 20}, {Kind: "configmaps", Held: 20}}
		if diff := cmp.Diff(want, held.Scopes); diff != "" || held.Held != 20 {
			t.Errorf("%d are held, scopes (-want +got)\n%s", held.Held, diff)
		}
	})
	t.Run("a small namespace by percent", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 8)
		w.fill("b", 100)
		if n := w.remove("a", 0, 8); n != 5 {
			t.Errorf("%d of 8 passed, want the 5 that always do", n)
		}
		if v := w.apply(w.tombstone(pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "a"})); v != hold {
			t.Error("the Namespace itself would take the others with it")
		}
	})
	t.Run("an old burst is past", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		passed := 0
		for i := range 4 {
			passed += w.remove("a", 10*i, 10*i+10)
			w.now = w.now.Add(time.Minute)
		}
		if passed != 40 {
			t.Errorf("%d of 40 slow ones passed", passed)
		}
	})
	t.Run("a definition goes with its objects", func(t *testing.T) {
		w := newWard(small, nil)
		widget := func(i int) pipeline.Ref {
			return pipeline.Ref{Site: "prod", Group: "example.com", Resource: "widgets", Namespace: "a", Name: fmt.Sprint(i)}
		}
		for i := range 10 {
			w.copies[widget(i)] = true
		}
		crd := pipeline.Ref{Site: "prod", Group: crds.Group, Resource: crds.Resource, Name: "widgets.example.com"}
		w.copies[crd] = true
		if v := w.apply(w.tombstone(crd)); v != hold {
			t.Error("a definition with ten objects is deleted")
		}
		if v := w.apply(w.tombstone(widget(1))); v != hold {
			t.Error("and then an object of it")
		}
	})
	t.Run("what exists again is not held", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		w.remove("a", 0, 40)
		for i := range 40 {
			w.guard.settled(cm("a", i), true)
		}
		if n := w.guard.Held().Held; n != 0 {
			t.Errorf("%d are held", n)
		}
		w.fill("a", 100)
		if n := w.remove("a", 50, 60); n != 10 {
			t.Errorf("%d of 10 passed", n)
		}
	})
	t.Run("approved", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		w.remove("a", 0, 40)
		refs := w.guard.Approve()
		if len(refs) != 20 {
			t.Fatalf("%d are to be applied again", len(refs))
		}
		w.seq = 20
		for i := 20; i < 40; i++ { // the records are those of before
			if v := w.apply(w.tombstone(cm("a", i))); v != pass {
				t.Fatal("an approved one is held")
			}
		}
		if n := w.remove("a", 40, 80); n != 20 {
			t.Errorf("%d of the next 40 passed, want 20: approving is not for ever", n)
		}
	})
	t.Run("discarded", func(t *testing.T) {
		w := newWard(small, nil)
		w.fill("a", 100)
		w.remove("a", 0, 40)
		w.guard.Discard()
		w.seq = 20
		for i := 20; i < 40; i++ {
			if v := w.apply(w.tombstone(cm("a", i))); v != discard {
				t.Fatalf("%v, want it never to be made", v)
			}
		}
		if n := w.guard.Held().Held; n != 0 || len(w.copies) != 81 {
			t.Errorf("%d are held, %d copies are there", n, len(w.copies))
		}
	})
	t.Run("disabled", func(t *testing.T) {
		w := newWard(&v1alpha1.DeletionGuard{Disabled: true}, nil)
		w.fill("a", 5000)
		if n := w.remove("a", 0, 5000); n != 5000 {
			t.Errorf("%d passed", n)
		}
	})
	t.Run("defaults", func(t *testing.T) {
		w := newWard(nil, nil)
		w.fill("a", 30)
		w.fill("b", 9)
		if n := w.remove("b", 0, 9); n != 9 {
			t.Errorf("%d of a namespace of 9 passed", n)
		}
		w = newWard(nil, nil)
		w.fill("a", 30)
		if n := w.remove("a", 0, 30); n != 15 {
			t.Errorf("%d of 30 passed, want half", n)
		}
	})
}

// TestGuardAfterRestart holds again what was held, by the tombstones in the log alone.
func TestGuardAfterRestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := &v1alpha1.DeletionGuard{
			MaxCount: new(int32(rapid.IntRange(3, 30).Draw(t, "most"))), MaxPercent: new(int32(rapid.IntRange(20, 80).Draw(t, "percent"))),
			MinCount: new(int32(rapid.IntRange(0, 10).Draw(t, "least"))),
		}
		w := newWard(spec, nil)
		w.fill("a", 60)
		w.fill("b", 20)
		var log []pipeline.Record
		for i := range rapid.IntRange(1, 60).Draw(t, "deletions") {
			if rapid.IntRange(0, 9).Draw(t, "pause") == 0 {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "minutes")) * time.Minute)
			}
			r := w.tombstone(cm("a", i))
			log = append(log, r)
			w.apply(r)
		}
		held := w.guard.Held().Held
		for restarts := range 3 {
			var former *v1alpha1.DeletionsStatus
			if rapid.Bool().Draw(t, "status written") && held > 0 {
				former = &v1alpha1.DeletionsStatus{Held: int64(held), Scopes: w.guard.Held().Scopes}
			}
			before := len(w.copies)
			w.guard = NewGuard(spec, former, false)
			w.guard.copies = w.count
			w.guard.foresee(log, func(r pipeline.Record) bool { return w.copies[r.Ref] })
			for _, i := range rapid.Permutation(seqTo(len(log))).Draw(t, "order") {
				w.apply(log[i])
			}
			if got := w.guard.Held().Held; got != held || len(w.copies) != before {
				t.Fatalf("restart %d: %d are held, were %d; %d copies are gone", restarts, got, held, before-len(w.copies))
			}
		}
		w.guard.Approve()
		for _, r := range log {
			if w.apply(r) != pass {
				t.Fatal("held after it was approved")
			}
		}
		if len(w.copies) != 82-len(log) {
			t.Fatalf("%d copies are left after %d deletions", len(w.copies), len(log))
		}
	})
}

func seqTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func TestGuardRemindedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former := &v1alpha1.DeletionsStatus{Held: 3, Scopes: []v1alpha1.HeldScope{{Namespace: "a", Held: 3}}}
		w := newWard(nil, former)
		w.fill("a", 100)
		if v := w.apply(w.tombstone(cm("a", 1))); v != hold {
			t.Error("right after the start what was held is not")
		}
		w = newWard(nil, former)
		w.fill("a", 100)
		<-time.After(defaultDeletionsSpan)
		if v := w.apply(w.tombstone(cm("a", 1))); v != pass {
			t.Error("it holds for ever, though nothing was held")
		}
	})
}

func TestDiff(t *testing.T) {
	before := `{"kind":"Secret","metadata":{"name":"a","uid":"1","annotations":{"dr-syncer.io/origin":"x","note":"old"}},"data":{"k":"c2VjcmV0"},"list":[1,{"a.b":2}],"empty":{}}`
	after := `{"kind":"Secret","metadata":{"name":"a","uid":"2","annotations":{"dr-syncer.io/origin":"y","note":"new"}},"data":{"k":"b3RoZXI="},"list":[1,{"a.b":3},4]}`
	want := []string{
		`-data.k: "c2VjcmV0"`, `+data.k: "b3RoZXI="`, `-empty: {}`, `-list[1]["a.b"]: 2`, `+list[1]["a.b"]: 3`, `+list[2]: 4`,
		`-metadata.annotations.note: "old"`, `+metadata.annotations.note: "new"`,
	}
	if diff := cmp.Diff(want, Diff([]byte(before), []byte(after), false)); diff != "" {
		t.Errorf("diff (-want +got)\n%s", diff)
	}
	hidden := strings.Join(Diff([]byte(before), []byte(after), true), "\n")
	for _, secret := range []string{"c2VjcmV0", "b3RoZXI=", "old", "new"} {
		if strings.Contains(hidden, secret) {
			t.Errorf("%q is shown:\n%s", secret, hidden)
		}
	}
	if got := Diff([]byte(before), []byte(before), false); len(got) != 0 {
		t.Errorf("equal ones differ: %v", got)
	}
	if !slices.Contains(Diff([]byte(`{"a":"`+strings.Repeat("é", 500)+`"}`), []byte(`{}`), false), `-a: "`+strings.Repeat("é", 99)+`...`) {
		t.Error("a long value is not cut between characters")
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}]}`), []byte(`{"a":[]}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if lines := Diff(a, b, false); len(lines) > maxDiffLines+2 {
			t.Errorf("%d lines", len(lines))
		}
	})
}

func TestGuardHoldsWhatAResetLeaves(t *testing.T) {
	for name, spec := range map[string]*v1alpha1.DeletionGuard{"default": nil, "disabled": {Disabled: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWard(spec, nil)
			w.fill("a", 100)
			lost := func(i int) pipeline.Record {
				r := w.tombstone(cm("a", i))
				r.Evidence = pipeline.EvidenceReset
				return r
			}
			namespace := w.tombstone(pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "a"})
			w.guard.foresee([]pipeline.Record{namespace, lost(0)}, func(r pipeline.Record) bool { return w.copies[r.Ref] })
			if v := w.apply(namespace); v != hold {
				t.Error("the namespace of what is held is deleted")
			}
			if v := w.apply(lost(0)); v != hold {
				t.Error("what the source lacks since it was reset is deleted")
			}
			if n := w.remove("a", 1, 3); n != 2 {
				t.Errorf("of 2 other deletions %d passed", n)
			}
			held := w.guard.Held()
			if held.Held != 2 || held.AfterReset != 2 {
				t.Errorf("%d are held, %d after the reset, want 2 and 2", held.Held, held.AfterReset)
			}
			// After a restart these scopes have not had too many.
			w.guard = NewGuard(spec, &v1alpha1.DeletionsStatus{Held: 2, AfterReset: 2, Scopes: held.Scopes}, false)
			w.guard.copies = w.count
			if n := w.remove("a", 3, 5); n != 2 {
				t.Errorf("after a restart %d of 2 other deletions passed", n)
			}
			again := lost(0)
			if v := w.apply(again); v != hold {
				t.Error("after a restart it is deleted")
			}
			w.guard.Approve()
			if v := w.apply(again); v != pass || w.copies[again.Ref] {
				t.Error("approved, it is not deleted")
			}
		})
	}
}

func TestGuardHoldsWhatIsListedEmpty(t *testing.T) {
	empty := func(w *ward, ref pipeline.Ref) pipeline.Record {
		r := w.tombstone(ref)
		r.Evidence = pipeline.EvidenceEmptied
		return r
	}
	namespace := pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "a"}
	w := newWard(nil, nil)
	w.fill("a", 100)
	lost, other := empty(w, cm("a", 0)), empty(w, cm("a", 1))
	w.guard.foresee([]pipeline.Record{lost}, func(r pipeline.Record) bool { return w.copies[r.Ref] })
	if w.apply(lost) != hold || w.apply(other) != hold || w.apply(empty(w, namespace)) != hold {
		t.Error("a few deletions pass by an empty list")
	}
	if n := w.remove("a", 2, 5); n != 3 {
		t.Errorf("of 3 deletions that were seen %d passed", n)
	}
	held := w.guard.Held()
	want := []v1alpha1.HeldScope{{Namespace: "a", Held: 3, Emptied: 3}, {Kind: "configmaps", Held: 2, Emptied: 2}, {Kind: "namespaces", Held: 1, Emptied: 1}}
	if diff := cmp.Diff(want, held.Scopes); diff != "" || held.Held != 3 || held.Emptied != 3 || held.AfterReset != 0 {
		t.Errorf("%+v are held (-want +got)\n%s", held, diff)
	}
	// After a restart these scopes have not had too many.
	w.guard = NewGuard(nil, &v1alpha1.DeletionsStatus{Held: 3, Emptied: 3, Scopes: held.Scopes}, false)
	w.guard.copies = w.count
	if w.apply(lost) != hold || w.apply(other) != hold || w.remove("a", 5, 8) != 3 {
		t.Error("after a restart it is not as before")
	}
	w.guard.settled(other.Ref, true)
	if n := w.guard.Held().Held; n != 1 {
		t.Errorf("%d are held, want 1: the other exists again", n)
	}
	w.guard.Approve()
	if w.apply(lost) != pass {
		t.Error("approved, it is not deleted")
	}

	small := newWard(nil, nil)
	small.fill("a", 5)
	if small.apply(empty(small, cm("a", 0))) != hold || small.apply(small.tombstone(namespace)) != pass {
		t.Error("the end of a small namespace, which was seen, is held for a list of before")
	}
	free := newWard(&v1alpha1.DeletionGuard{Disabled: true}, nil)
	free.fill("a", 5)
	if free.apply(empty(free, cm("a", 0))) != pass {
		t.Error("it is held by a guard that is disabled")
	}
}
