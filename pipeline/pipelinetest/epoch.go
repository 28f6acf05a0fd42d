package pipelinetest

import (
	"context"
	"errors"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var epochCases = []logCase{
	{name: "no history", run: func(ctx context.Context, t *testing.T, h Harness) {
		history := h.History(t, site)
		if _, err := history.State(ctx); !errors.Is(err, pipeline.ErrNoHistory) {
			t.Errorf("state: %v", err)
		}
		if _, err := history.Follow(ctx, "reader", pipeline.Position{}); !errors.Is(err, pipeline.ErrNoHistory) {
			t.Errorf("follow: %v", err)
		}
		n := 0
		for _, err := range history.Current(ctx, pipeline.Query{}) {
			if n++; !errors.Is(err, pipeline.ErrNoHistory) {
				t.Errorf("current: %v", err)
			}
		}
		if n != 1 {
			t.Errorf("current yielded %d times", n)
		}
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1))
		if got := mustState(ctx, t, history).Last.Seq; got != 1 {
			t.Errorf("the same reader sees the history end at %d after the first append", got)
		}
	}},
	{name: "empty history", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		history := h.History(t, site)
		st := mustState(ctx, t, history)
		if st.Last.Epoch == "" || st.Last.Seq != 0 {
			t.Errorf("empty history ends at %s", st.Last)
		}
		if got := newest(ctx, t, history, pipeline.Query{}); len(got) != 0 {
			t.Errorf("empty history holds %v", got)
		}
		sub := mustFollow(ctx, t, history, "reader", st.Last)
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		if last.Epoch != st.Last.Epoch {
			t.Errorf("the first append changed the epoch from %s to %s", st.Last, last)
		}
		diffRecords(t, []pipeline.Event{Put(refs(1)[0], 1)}, last, take(ctx, t, sub, 1))
	}},
	{name: "state", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		first := mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		last := mustAppend(ctx, t, w, Put(refs(1)[0], 2), Put(refs(1)[0], 3))
		st := mustState(ctx, t, h.History(t, site))
		if st.First != first || st.Last != last || st.LastTime.IsZero() || st.Bytes == 0 {
			t.Errorf("state %+v, want %s to %s", st, first, last)
		}
	}},
	{name: "new epoch", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		old := mustAppend(ctx, t, w, Put(refs(3)[0], 1), Put(refs(3)[1], 2))
		start, err := w.NewEpoch(ctx)
		if err != nil {
			t.Fatalf("new epoch: %v", err)
		}
		if start.Compare(old) <= 0 || start.Epoch == old.Epoch || start.Seq != 0 {
			t.Errorf("new epoch begins at %s, after %s", start, old)
		}
		history := h.History(t, site)
		if got := mustState(ctx, t, history).Last; got != start {
			t.Errorf("history ends at %s, want %s", got, start)
		}
		diffCurrent(t, []pipeline.Event{Put(refs(3)[0], 1), Put(refs(3)[1], 2)}, newest(ctx, t, history, pipeline.Query{}))
		last := mustAppend(ctx, t, w, Put(refs(3)[1], 3), Put(refs(3)[2], 4))
		if last.Epoch != start.Epoch || last.Seq != 2 {
			t.Errorf("two events of the new epoch end at %s", last)
		}
		got := newest(ctx, t, history, pipeline.Query{})
		diffCurrent(t, []pipeline.Event{Put(refs(3)[0], 1), Put(refs(3)[1], 3), Put(refs(3)[2], 4)}, got)
		if p := got[refs(3)[0]].Position; p.Epoch != old.Epoch || p.Seq != 1 {
			t.Errorf("the object that the new epoch did not touch stands at %s, want sequence 1 of %s", p, old.Epoch)
		}
		if p := got[refs(3)[2]].Position; p != last {
			t.Errorf("the last event stands at %s, want %s", p, last)
		}
		reopened := mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(3)[0], 5))
		if reopened.Epoch != start.Epoch || reopened.Seq != 3 {
			t.Errorf("a new writer appended at %s", reopened)
		}
	}},
	{name: "many epochs", run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		var want []pipeline.Event
		var before pipeline.Position
		for i, ref := range refs(4) {
			e := Put(ref, i+1)
			p := mustAppend(ctx, t, w, e)
			if p.Compare(before) <= 0 {
				t.Errorf("position %s does not come after %s", p, before)
			}
			before, want = p, append(want, e)
			if _, err := w.NewEpoch(ctx); err != nil {
				t.Fatalf("new epoch: %v", err)
			}
		}
		diffCurrent(t, want, newest(ctx, t, h.History(t, site), pipeline.Query{}))
	}},
	{name: "a new epoch fences", run: func(ctx context.Context, t *testing.T, h Harness) {
		first, second := h.OpenWriter(t, site), h.OpenWriter(t, site)
		start, err := second.NewEpoch(ctx)
		if err != nil {
			t.Fatalf("new epoch: %v", err)
		}
		if _, err := first.Append(ctx, []pipeline.Event{Put(refs(1)[0], 1)}); !errors.Is(err, pipeline.ErrFenced) {
			t.Errorf("append by the writer of the ended epoch: %v", err)
		}
		if got := mustState(ctx, t, h.History(t, site)).Last; got != start {
			t.Errorf("history ends at %s, want %s", got, start)
		}
	}},
}
