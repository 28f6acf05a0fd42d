package pipelinetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var followCases = []logCase{
	{name: "from the middle", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		for i, ref := range refs(20) {
			want = append(want, Put(ref, i+1))
		}
		last := mustAppend(ctx, t, w, want...)
		for _, after := range []uint64{0, 1, 10, 19} {
			sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{Epoch: last.Epoch, Seq: after})
			diffRecords(t, want[after:], last, take(ctx, t, sub, len(want)-int(after)))
		}
	}},
	{name: "while appending", run: func(ctx context.Context, t *testing.T, h Harness) {
		const batches, size = 40, 25
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		sub := mustFollow(ctx, t, history, "reader", pipeline.Position{})
		batch := func(n int) []pipeline.Event {
			var list []pipeline.Event
			for i, ref := range refs(size) {
				list = append(list, Put(ref, n*size+i+1))
			}
			return list
		}
		var writer sync.WaitGroup
		writer.Go(func() {
			for n := range batches {
				if _, err := w.Append(ctx, batch(n)); err != nil {
					t.Errorf("append: %v", err)
					return
				}
			}
		})
		got := take(ctx, t, sub, batches*size)
		writer.Wait()
		var want []pipeline.Event
		for n := range batches {
			want = append(want, batch(n)...)
		}
		diffRecords(t, want, mustState(ctx, t, history).Last, got)
	}},
	{name: "everything that happens", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		r := refs(1)[0]
		want := []pipeline.Event{Put(r, 1), Heartbeat(site, 1), Put(r, 2), Delete(r, 3), Put(r, 4), Release(r, 5), Heartbeat(site, 2)}
		last := mustAppend(ctx, t, w, want...)
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		diffRecords(t, want, last, take(ctx, t, sub, len(want)))
	}},
	{name: "unsettled records do not come again", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		for i, ref := range refs(10) {
			mustAppend(ctx, t, w, Put(ref, i+1))
		}
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		var held []pipeline.Delivery
		for i := range 10 {
			d, err := sub.Next(ctx)
			if err != nil || d.Position.Seq != uint64(i+1) {
				t.Fatalf("next: %s, %v", d.Position, err)
			}
			held = append(held, d)
			if d.Settler != nil {
				if err := d.Settler.Extend(); err != nil {
					t.Errorf("extend %s: %v", d.Position, err)
				}
			}
		}
		for _, d := range slices.Backward(held) { // in any order, and again
			if d.Settler != nil {
				if err := errors.Join(d.Settler.Term("parked"), d.Settler.Ack(), d.Settler.Term("again")); err != nil {
					t.Errorf("settle %s: %v", d.Position, err)
				}
			}
		}
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 11))
		diffRecords(t, []pipeline.Event{Put(refs(1)[0], 11)}, last, take(ctx, t, sub, 1))
	}},
	{name: "many unsettled records", run: func(ctx context.Context, t *testing.T, h Harness) {
		const n = 2000
		w := h.OpenWriter(t, site)
		for start := 0; start < n; start += 500 {
			var batch []pipeline.Event
			for i := range 500 {
				batch = append(batch, Put(refs(1)[0], start+i+1))
			}
			mustAppend(ctx, t, w, batch...)
		}
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		var held []pipeline.Delivery
		for i := range n {
			d, err := sub.Next(ctx)
			if err != nil || d.Position.Seq != uint64(i+1) {
				t.Fatalf("record %d, none settled: %s, %v", i+1, d.Position, err)
			}
			held = append(held, d)
		}
		for _, d := range held {
			settle(t, d)
		}
	}},
	{name: "waiting", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		short, cancel := context.WithCancel(ctx)
		var waiter sync.WaitGroup
		waiter.Go(func() {
			if _, err := sub.Next(short); !errors.Is(err, context.Canceled) {
				t.Errorf("next with a canceled context: %v", err)
			}
		})
		cancel()
		waiter.Wait()
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		diffRecords(t, []pipeline.Event{Put(refs(1)[0], 1)}, last, take(ctx, t, sub, 1))
	}},
	{name: "closed", run: func(ctx context.Context, t *testing.T, h Harness) {
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1))
		history := h.History(t, site)
		sub := mustFollow(ctx, t, history, "reader", mustState(ctx, t, history).Last)
		var waiter sync.WaitGroup
		waiter.Go(func() {
			if d, err := sub.Next(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("next of a closed subscription: %s, %v", d.Position, err)
			}
		})
		if err := errors.Join(sub.Close(), sub.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
		waiter.Wait()
		if _, err := sub.Next(ctx); err == nil || errors.Is(err, pipeline.ErrGap) || errors.Is(err, pipeline.ErrEpochEnded) {
			t.Errorf("next after close: %v", err)
		}
	}},
	{name: "the name is taken over", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		former := mustFollow(ctx, t, history, "reader", pipeline.Position{})
		bystander := mustFollow(ctx, t, history, "other", pipeline.Position{})
		latter := mustFollow(ctx, t, history, "reader", pipeline.Position{})
		if d, err := former.Next(ctx); err == nil || ctx.Err() != nil || errors.Is(err, pipeline.ErrGap) || errors.Is(err, pipeline.ErrEpochEnded) {
			t.Errorf("next of the former subscription: %s, %v", d.Position, err)
		}
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		for _, sub := range []pipeline.Subscription{latter, bystander} {
			diffRecords(t, []pipeline.Event{Put(refs(1)[0], 1)}, last, take(ctx, t, sub, 1))
		}
	}},
	{name: "two sites under one name", run: func(ctx context.Context, t *testing.T, h Harness) {
		for _, name := range []string{"a", "b"} {
			h.OpenWriter(t, name)
		}
		a := mustFollow(ctx, t, h.History(t, "a"), "reader", pipeline.Position{})
		b := mustFollow(ctx, t, h.History(t, "b"), "reader", pipeline.Position{})
		for name, sub := range map[string]pipeline.Subscription{"a": a, "b": b} {
			last := mustAppend(ctx, t, h.OpenWriter(t, name), Put(ConfigMap(name, "x"), 1))
			diffRecords(t, []pipeline.Event{Put(ConfigMap(name, "x"), 1)}, last, take(ctx, t, sub, 1))
		}
	}},
	{name: "an older epoch", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		old := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		start, err := w.NewEpoch(ctx)
		if err != nil {
			t.Fatalf("new epoch: %v", err)
		}
		history := h.History(t, site)
		if _, err := history.Follow(ctx, "reader", old); !errors.Is(err, pipeline.ErrEpochEnded) {
			t.Errorf("follow after %s, now %s: %v", old, start, err)
		}
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 2))
		for _, after := range []pipeline.Position{{}, start} {
			sub := mustFollow(ctx, t, history, "reader", after)
			diffRecords(t, []pipeline.Event{Put(refs(1)[0], 2)}, last, take(ctx, t, sub, 1))
		}
	}},
	{name: "the epoch ends meanwhile", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		take(ctx, t, sub, 1)
		var waiter sync.WaitGroup
		waiter.Go(func() {
			if d, err := sub.Next(ctx); !errors.Is(err, pipeline.ErrEpochEnded) {
				t.Errorf("next across the end of the epoch: %s, %v", d.Position, err)
			}
		})
		if _, err := w.NewEpoch(ctx); err != nil {
			t.Errorf("new epoch: %v", err)
		}
		waiter.Wait()
	}},
	{name: "beyond the end", run: func(ctx context.Context, t *testing.T, h Harness) {
		last := mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1))
		for name, after := range map[string]pipeline.Position{
			"sequence": {Epoch: last.Epoch, Seq: last.Seq + 1},
			"epoch":    {Epoch: "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", Seq: 1},
		} {
			if _, err := h.History(t, site).Follow(ctx, "reader", after); !errors.Is(err, pipeline.ErrGap) {
				t.Errorf("follow after a %s that never was: %v", name, err)
			}
		}
	}},
	{name: "retention passed over it", needs: needsTrim, run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		for i, ref := range refs(10) {
			want = append(want, Put(ref, i+1))
		}
		last := mustAppend(ctx, t, w, want...)
		h.Trim(t, site, 6)
		history := h.History(t, site)
		if got := mustState(ctx, t, history); got.First.Seq != 6 || got.Last != last {
			t.Errorf("trimmed history is %+v", got)
		}
		for _, seq := range []uint64{0, 1, 4} {
			if _, err := history.Follow(ctx, "reader", pipeline.Position{Epoch: last.Epoch, Seq: seq}); !errors.Is(err, pipeline.ErrGap) {
				t.Errorf("follow after the trimmed %d: %v", seq, err)
			}
		}
		sub := mustFollow(ctx, t, history, "reader", pipeline.Position{Epoch: last.Epoch, Seq: 5})
		diffRecords(t, want[5:], last, take(ctx, t, sub, 5))
		diffCurrent(t, want, newest(ctx, t, history, pipeline.Query{}))
		mustAppend(ctx, t, w, Put(refs(1)[0], 11))
	}},
	{name: "many followers", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		var want []pipeline.Event
		for i, ref := range refs(100) {
			want = append(want, Put(ref, i+1))
		}
		var followers sync.WaitGroup
		for _, name := range []string{"a", "b", "c", "d"} {
			sub := mustFollow(ctx, t, history, name, pipeline.Position{})
			followers.Go(func() {
				for i := range want {
					d, err := sub.Next(ctx)
					if err != nil || d.Ref != want[i].Ref {
						t.Errorf("follower %s, record %d: %s, %v", name, i, d.Ref, err)
						return
					}
				}
			})
		}
		mustAppend(ctx, t, w, want...)
		followers.Wait()
	}},
}
