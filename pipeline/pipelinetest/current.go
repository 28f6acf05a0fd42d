package pipelinetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var currentCases = []logCase{
	{name: "newest per object", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		r := refs(4)
		mustAppend(ctx, t, w, Put(r[0], 1), Put(r[1], 2), Put(r[2], 3), Put(r[0], 4), Put(r[3], 5))
		last := mustAppend(ctx, t, w, Delete(r[1], 6), Release(r[2], 7), Heartbeat(site, 1), Put(r[0], 8), Heartbeat(site, 2))
		got := newest(ctx, t, h.History(t, site), pipeline.Query{})
		diffCurrent(t, []pipeline.Event{Put(r[0], 8), Delete(r[1], 6), Release(r[2], 7), Put(r[3], 5), Heartbeat(site, 2)}, got)
		for ref, seq := range map[pipeline.Ref]uint64{r[0]: 9, r[1]: 6, r[2]: 7, r[3]: 5, {Site: site}: 10} {
			if want := (pipeline.Position{Epoch: last.Epoch, Seq: seq}); got[ref].Position != want {
				t.Errorf("%s stands at %s, want %s", ref, got[ref].Position, want)
			}
		}
	}},
	{name: "in the order of positions", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		r := refs(50)
		for version := 1; version <= 200; version += 4 {
			mustAppend(ctx, t, w, Put(r[version*7%50], version), Put(r[version*11%50], version+1), Put(r[version*13%50], version+2))
			if version == 101 {
				if _, err := w.NewEpoch(ctx); err != nil {
					t.Fatalf("new epoch: %v", err)
				}
			}
		}
		var last pipeline.Position
		for rec, err := range h.History(t, site).Current(ctx, pipeline.Query{}) {
			if err != nil || rec.Position.Compare(last) <= 0 {
				t.Fatalf("current yields %s at %s after %s, %v", rec.Ref, rec.Position, last, err)
			}
			last = rec.Position
		}
	}},
	{name: "put after delete", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		mustAppend(ctx, t, w, Put(refs(1)[0], 1), Delete(refs(1)[0], 2), Put(refs(1)[0], 3))
		diffCurrent(t, []pipeline.Event{Put(refs(1)[0], 3)}, newest(ctx, t, h.History(t, site), pipeline.Query{}))
	}},
	{name: "headers only", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		want := []pipeline.Event{Put(refs(3)[0], 1), Delete(refs(3)[1], 2), PutBody(refs(3)[2], 3, noise(1<<20)), Heartbeat(site, 1)}
		mustAppend(ctx, t, w, want...)
		for i := range want {
			want[i].Body = nil
		}
		diffCurrent(t, want, newest(ctx, t, h.History(t, site), pipeline.Query{HeadersOnly: true}))
	}},
	{name: "one kind", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		deployment := pipeline.Ref{Site: site, Group: "apps", Resource: "deployments", Namespace: "default", Name: "x"}
		namesake := pipeline.Ref{Site: site, Resource: "deployments", Namespace: "default", Name: "x"}
		namespace := pipeline.Ref{Site: site, Resource: "namespaces", Name: "default"}
		mustAppend(ctx, t, w, Put(deployment, 1), Put(namesake, 2), Put(namespace, 3), Heartbeat(site, 1))
		for _, ref := range []pipeline.Ref{deployment, namesake, namespace} {
			kind := ref.GroupResource()
			got := newest(ctx, t, h.History(t, site), pipeline.Query{Kind: &kind})
			if len(got) != 1 || got[ref].Ref != ref {
				t.Errorf("kind %s holds %v", kind, got)
			}
		}
		kind := pipeline.GroupResource{Group: "none.example.com", Resource: "things"}
		if got := newest(ctx, t, h.History(t, site), pipeline.Query{Kind: &kind, HeadersOnly: true}); len(got) != 0 {
			t.Errorf("kind %s holds %v", kind, got)
		}
	}},
	{name: "heartbeat", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		query := pipeline.Query{Heartbeat: true}
		if got := newest(ctx, t, h.History(t, site), query); len(got) != 0 {
			t.Errorf("before the first heartbeat: %v", got)
		}
		mustAppend(ctx, t, w, Heartbeat(site, 1), Put(refs(2)[1], 2), Heartbeat(site, 2), Put(refs(1)[0], 3))
		diffCurrent(t, []pipeline.Event{Heartbeat(site, 2)}, newest(ctx, t, h.History(t, site), query))
		if _, err := w.NewEpoch(ctx); err != nil {
			t.Fatalf("new epoch: %v", err)
		}
		diffCurrent(t, []pipeline.Event{Heartbeat(site, 2)}, newest(ctx, t, h.History(t, site), query))
		mustAppend(ctx, t, w, Heartbeat(site, 3))
		diffCurrent(t, []pipeline.Event{Heartbeat(site, 3)}, newest(ctx, t, h.History(t, site), query))
	}},
	{name: "other sites", run: func(ctx context.Context, t *testing.T, h Harness) {
		for i, name := range []string{"a", "b", "a-b"} {
			mustAppend(ctx, t, h.OpenWriter(t, name), Put(ConfigMap(name, "x"), i+1))
		}
		diffCurrent(t, []pipeline.Event{Put(ConfigMap("b", "x"), 2)}, newest(ctx, t, h.History(t, "b"), pipeline.Query{}))
	}},
	{name: "as new as the call", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		for version := 1; version <= 50; version++ {
			p := mustAppend(ctx, t, w, Put(refs(1)[0], version))
			if got := newest(ctx, t, history, pipeline.Query{HeadersOnly: version%2 == 0})[refs(1)[0]].Position; got != p {
				t.Fatalf("current is at %s right after the append at %s", got, p)
			}
		}
	}},
	{name: "stopped early", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		for i, ref := range refs(100) {
			mustAppend(ctx, t, w, Put(ref, i+1))
		}
		history := h.History(t, site)
		n := 0
		for _, err := range history.Current(ctx, pipeline.Query{}) {
			if err != nil {
				t.Fatalf("current: %v", err)
			}
			if n++; n == 3 {
				break
			}
		}
		if got := newest(ctx, t, history, pipeline.Query{}); len(got) != 100 {
			t.Errorf("the next read yields %d objects", len(got))
		}
	}},
	{name: "canceled", run: func(ctx context.Context, t *testing.T, h Harness) {
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1))
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		var last error
		for _, err := range h.History(t, site).Current(canceled, pipeline.Query{}) {
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("current with a canceled context ended with %v", last)
		}
	}},
	{name: "while being written", run: func(ctx context.Context, t *testing.T, h Harness) {
		const objects, rounds = 200, 30
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		write := func(round int) error {
			var batch []pipeline.Event
			for i, ref := range refs(objects) {
				batch = append(batch, Put(ref, round*objects+i+1))
			}
			_, err := w.Append(ctx, batch)
			return err
		}
		if err := write(0); err != nil {
			t.Fatal(err)
		}
		var writer sync.WaitGroup
		writer.Go(func() {
			for round := 1; round < rounds; round++ {
				if err := write(round); err != nil {
					t.Errorf("append: %v", err)
					return
				}
			}
		})
		for range 5 {
			atLeast := mustState(ctx, t, history).Last
			// Each round writes every object once: none may be older than one round before.
			got := newest(ctx, t, history, pipeline.Query{HeadersOnly: true})
			if len(got) != objects {
				t.Errorf("current yields %d of %d objects", len(got), objects)
			}
			for ref, r := range got {
				if r.Position.Seq+objects <= atLeast.Seq {
					t.Errorf("%s stands at %s though the history was at %s", ref, r.Position, atLeast)
				}
			}
		}
		writer.Wait()
		got := newest(ctx, t, history, pipeline.Query{})
		var want []pipeline.Event
		for i, ref := range refs(objects) {
			want = append(want, Put(ref, (rounds-1)*objects+i+1))
		}
		diffCurrent(t, want, got)
	}},
	{name: "many readers", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		for i, ref := range refs(100) {
			want = append(want, Put(ref, i+1))
		}
		mustAppend(ctx, t, w, want...)
		history := h.History(t, site)
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				n := 0
				for r, err := range history.Current(ctx, pipeline.Query{}) {
					if err != nil {
						t.Errorf("current: %v", err)
						return
					}
					if n++; !cmp.Equal(r.Digest, pipeline.DigestOf(r.Body)) {
						t.Errorf("%s has another body", r.Ref)
					}
				}
				if n != len(want) {
					t.Errorf("a reader got %d of %d", n, len(want))
				}
			})
		}
		readers.Wait()
	}},
}
