package pipelinetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var appendCases = []logCase{
	{name: "order", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		var last pipeline.Position
		for batch := range 5 {
			var events []pipeline.Event
			for i, ref := range refs(10 * (batch + 1)) {
				events = append(events, Put(ref, 100*batch+i+1))
			}
			p := mustAppend(ctx, t, w, events...)
			if p.Seq != last.Seq+uint64(len(events)) || (batch > 0 && p.Epoch != last.Epoch) {
				t.Fatalf("batch of %d after %s ended at %s", len(events), last, p)
			}
			last, want = p, append(want, events...)
		}
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
	}},
	{name: "nothing", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		want := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		if got := mustAppend(ctx, t, w); got != want {
			t.Errorf("empty append moved from %s to %s", want, got)
		}
		if got := mustState(ctx, t, h.History(t, site)).Last; got != want {
			t.Errorf("history ends at %s, want %s", got, want)
		}
	}},
	{name: "largest batch", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var events []pipeline.Event
		for i, ref := range refs(pipeline.MaxBatch) {
			events = append(events, Put(ref, i+1))
		}
		last := mustAppend(ctx, t, w, events...)
		if last.Seq != pipeline.MaxBatch {
			t.Errorf("batch ended at %s", last)
		}
		diffCurrent(t, events, newest(ctx, t, h.History(t, site), pipeline.Query{}))
	}},
	{name: "too many", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		events := make([]pipeline.Event, pipeline.MaxBatch+1)
		for i := range events {
			events[i] = Put(refs(1)[0], i+1)
		}
		refused(ctx, t, h, w, events, nil)
	}},
	{name: "one bad event spoils all", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		events := []pipeline.Event{Put(refs(3)[0], 1), Put(refs(3)[1], 2), Put(refs(3)[2], 3)}
		events[2].UID = ""
		refused(ctx, t, h, w, events, nil)
	}},
	{name: "other site", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		refused(ctx, t, h, w, []pipeline.Event{Put(refs(1)[0], 1), Put(ConfigMap("elsewhere", "a"), 2)}, nil)
	}},
	{name: "too large", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		refused(ctx, t, h, w, []pipeline.Event{Put(refs(2)[0], 1), PutBody(refs(2)[1], 2, noise(pipeline.MaxBody+1))}, pipeline.ErrTooLarge)
	}},
	{name: "bodies of every size", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		for i, size := range []int{1, 1 << 10, 64 << 10, 64<<10 + 1, 1 << 20, 3 << 20} {
			want = append(want,
				PutBody(ConfigMap(site, "noise-"+string(rune('a'+i))), i+1, noise(size)),
				PutBody(ConfigMap(site, "text-"+string(rune('a'+i))), i+1, []byte(strings.Repeat("x", size))))
		}
		for i := range want {
			mustAppend(ctx, t, w, want[i])
		}
		history := h.History(t, site)
		last := mustState(ctx, t, history).Last
		sub := mustFollow(ctx, t, history, "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
		diffCurrent(t, want, newest(ctx, t, history, pipeline.Query{}))
	}},
	{name: "batch of large bodies", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		want := []pipeline.Event{
			PutBody(ConfigMap(site, "a"), 1, noise(3<<20)),
			PutBody(ConfigMap(site, "b"), 2, noise(3<<20)),
			PutBody(ConfigMap(site, "c"), 3, noise(3<<20)),
		}
		last := mustAppend(ctx, t, w, want...)
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
	}},
	{name: "names of every kind", run: func(ctx context.Context, t *testing.T, h Harness) {
		for _, siteName := range []string{"a", "a.b", "A-b_C", "_", "*", ">", "a b", "größe", "x=2Ey"} {
			w := h.OpenWriter(t, siteName)
			var want []pipeline.Event
			for i, ref := range weirdRefs(siteName) {
				want = append(want, Put(ref, i+1), Put(ref, i+1001))
			}
			want = append(want, Heartbeat(siteName, 1))
			last := mustAppend(ctx, t, w, want...)
			history := h.History(t, siteName)
			sub := mustFollow(ctx, t, history, "name with spaces, dots. and *>", pipeline.Position{})
			diffRecords(t, want, last, take(ctx, t, sub, len(want)))
			diffCurrent(t, want, newest(ctx, t, history, pipeline.Query{}))
			for _, kind := range []pipeline.GroupResource{{Resource: "configmaps"}, {Group: "_", Resource: "*"}} {
				var ofKind []pipeline.Event
				for _, e := range want {
					if e.Op == pipeline.OpPut && e.Ref.GroupResource() == kind {
						ofKind = append(ofKind, e)
					}
				}
				diffCurrent(t, ofKind, newest(ctx, t, history, pipeline.Query{Kind: &kind}))
			}
		}
	}},
	{name: "a second writer fences the first", run: func(ctx context.Context, t *testing.T, h Harness) {
		first := h.OpenWriter(t, site)
		mustAppend(ctx, t, first, Put(refs(1)[0], 1))
		second := h.OpenWriter(t, site)
		last := mustAppend(ctx, t, second, Put(refs(1)[0], 2))
		for range 2 {
			if _, err := first.Append(ctx, []pipeline.Event{Put(refs(1)[0], 3), Put(refs(2)[1], 4)}); !errors.Is(err, pipeline.ErrFenced) {
				t.Fatalf("append by the fenced writer: %v", err)
			}
		}
		if _, err := first.NewEpoch(ctx); !errors.Is(err, pipeline.ErrFenced) {
			t.Errorf("new epoch by the fenced writer: %v", err)
		}
		if got := mustState(ctx, t, h.History(t, site)).Last; got != last {
			t.Errorf("history ends at %s, want %s", got, last)
		}
		mustAppend(ctx, t, second, Put(refs(1)[0], 5))
	}},
	{name: "writers of two sites", run: func(ctx context.Context, t *testing.T, h Harness) {
		a, b := h.OpenWriter(t, "a"), h.OpenWriter(t, "a-b")
		for i := range 3 {
			mustAppend(ctx, t, a, Put(ConfigMap("a", "x"), i+1))
			mustAppend(ctx, t, b, Put(ConfigMap("a-b", "x"), i+1))
		}
		diffCurrent(t, []pipeline.Event{Put(ConfigMap("a", "x"), 3)}, newest(ctx, t, h.History(t, "a"), pipeline.Query{}))
	}},
	{name: "a writer goes on where another stopped", run: func(ctx context.Context, t *testing.T, h Harness) {
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1), Put(refs(1)[0], 2))
		last := mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 3))
		if last.Seq != 3 {
			t.Errorf("third event stands at %s", last)
		}
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, []pipeline.Event{Put(refs(1)[0], 1), Put(refs(1)[0], 2), Put(refs(1)[0], 3)}, last, take(ctx, t, sub, 3))
	}},
	{name: "the same event again", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		want := []pipeline.Event{Put(refs(1)[0], 1), Put(refs(1)[0], 1), Release(refs(1)[0], 1), Put(refs(1)[0], 1)}
		mustAppend(ctx, t, w, want[0])
		mustAppend(ctx, t, w, want[1])
		mustAppend(ctx, t, w, want[2])
		last := mustAppend(ctx, t, w, want[3])
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
	}},
	{name: "after cancel", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		want := []pipeline.Event{Put(refs(2)[0], 1), Put(refs(2)[1], 2)}
		if _, err := w.Append(canceled, want); err == nil {
			t.Fatal("append with a canceled context returned no error")
		}
		last := mustAppend(ctx, t, w, want...)
		if last.Seq != 2 {
			t.Errorf("two events end at %s", last)
		}
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
	}},
}

// refused appends events that the log must not take, and makes sure that
// nothing came of it and that the writer still works.
func refused(ctx context.Context, t *testing.T, h Harness, w pipeline.Writer, events []pipeline.Event, want error) {
	t.Helper()
	before := mustAppend(ctx, t, w, Put(ConfigMap(site, "before"), 1))
	if _, err := w.Append(ctx, events); err == nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("append: %v, want %v", err, want)
	}
	history := h.History(t, site)
	if got := mustState(ctx, t, history).Last; got != before {
		t.Errorf("history ends at %s, want %s", got, before)
	}
	after := mustAppend(ctx, t, w, Put(ConfigMap(site, "after"), 2))
	if after.Seq != before.Seq+1 {
		t.Errorf("next event stands at %s, want right after %s", after, before)
	}
	diffCurrent(t, []pipeline.Event{Put(ConfigMap(site, "before"), 1), Put(ConfigMap(site, "after"), 2)},
		newest(ctx, t, history, pipeline.Query{}))
}

// weirdRefs are objects with names that a codec may trip over.
func weirdRefs(siteName string) []pipeline.Ref {
	names := []string{
		"a", "a.b", "a..b", ".", "..", "system:node:x", "*", ">", "a*b", "a>b", "a b", " ", "_", "__", "=", "=2E", "a=b",
		"%", "%41", "A", "größe", "日本語", "a/b", "$SYS", "\"", "'", "\\", "-",
		strings.Repeat("x", 253), strings.Repeat(":", 253), strings.Repeat("a.", 126) + "a",
	}
	var list []pipeline.Ref
	for _, name := range names {
		list = append(list,
			pipeline.Ref{Site: siteName, Resource: "configmaps", Namespace: "default", Name: name},
			pipeline.Ref{Site: siteName, Resource: "clusterthings", Name: name})
	}
	return append(list,
		pipeline.Ref{Site: siteName, Group: "_", Resource: "*", Namespace: "_", Name: "_"},
		pipeline.Ref{Site: siteName, Group: "_", Resource: "*", Name: "_"},
		pipeline.Ref{Site: siteName, Group: "a.b.example.com", Resource: "things", Namespace: "kube-system", Name: "x"})
}

// noise is n bytes that do not compress, the same in every run.
func noise(n int) []byte {
	var seed [32]byte
	source := rand.NewChaCha8(seed)
	b := make([]byte, n)
	_, _ = source.Read(b) // never fails
	return b
}
