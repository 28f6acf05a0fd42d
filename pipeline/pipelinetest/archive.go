package pipelinetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// between collects a range; foreign messages and errors fail the test.
func between(ctx context.Context, t testing.TB, a pipeline.Archive, after, through pipeline.Position, q pipeline.Range) []pipeline.Record {
	t.Helper()
	var got []pipeline.Record
	for r, err := range a.Between(ctx, after, through, q) {
		if err != nil {
			t.Fatalf("between %s and %s: %v", after, through, err)
		}
		got = append(got, r)
	}
	return got
}

// gap makes sure that a range is ErrGap before its first record.
func gap(ctx context.Context, t testing.TB, a pipeline.Archive, after, through pipeline.Position) {
	t.Helper()
	n := 0
	for _, err := range a.Between(ctx, after, through, pipeline.Range{}) {
		if n++; !errors.Is(err, pipeline.ErrGap) {
			t.Errorf("between %s and %s: %v, want ErrGap", after, through, err)
		}
	}
	if n != 1 {
		t.Errorf("between %s and %s yields %d times", after, through, n)
	}
}

func mustExtent(ctx context.Context, t testing.TB, a pipeline.Archive) pipeline.Extent {
	t.Helper()
	x, err := a.Extent(ctx)
	if err != nil {
		t.Fatalf("extent: %v", err)
	}
	return x
}

// later waits until the log's clock has gone on, and returns a time between.
func later(ctx context.Context) time.Time {
	wait := func() {
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Millisecond):
		}
	}
	wait()
	t := time.Now()
	wait()
	return t
}

// epochs writes three records into each of two epochs and returns the positions
// and events of all six.
func epochs(ctx context.Context, t testing.TB, h Harness) (at []pipeline.Position, all []pipeline.Event) {
	t.Helper()
	w, r := h.OpenWriter(t, site), refs(3)
	for i := range 2 {
		batch := []pipeline.Event{Put(r[0], 3*i+1), Put(r[1], 3*i+2), Put(r[i], 3*i+3)}
		last := mustAppend(ctx, t, w, batch...)
		for n := range uint64(3) {
			at = append(at, pipeline.Position{Epoch: last.Epoch, Seq: n + 1})
		}
		all = append(all, batch...)
		if i == 0 {
			if _, err := w.NewEpoch(ctx); err != nil {
				t.Fatalf("new epoch: %v", err)
			}
		}
	}
	return at, all
}

var archiveCases = []logCase{
	{name: "no history", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		a := h.Archive(t, site)
		if _, err := a.Extent(ctx); !errors.Is(err, pipeline.ErrNoHistory) {
			t.Errorf("extent: %v", err)
		}
		if _, err := a.Locate(ctx, time.Now()); !errors.Is(err, pipeline.ErrNoHistory) {
			t.Errorf("locate: %v", err)
		}
		for _, err := range a.Between(ctx, pipeline.Position{}, pipeline.Position{Epoch: "x", Seq: 1}, pipeline.Range{}) {
			if !errors.Is(err, pipeline.ErrNoHistory) {
				t.Errorf("between: %v", err)
			}
		}
		if err := a.Trim(ctx, pipeline.Position{Epoch: "x", Seq: 1}); err != nil {
			t.Errorf("trim nothing: %v", err)
		}
	}},
	{name: "extent", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, _ := epochs(ctx, t, h)
		x := mustExtent(ctx, t, h.Archive(t, site))
		if len(x.Epochs) != 2 || x.Last() != at[5] {
			t.Fatalf("extent %+v, want two epochs that end at %s", x, at[5])
		}
		for i, e := range x.Epochs {
			if e.Epoch != at[3*i].Epoch || e.First != 1 || e.Last != 3 || e.FirstTime.IsZero() || e.LastTime.Before(e.FirstTime) || e.Bytes == 0 {
				t.Errorf("epoch %d: %+v", i, e)
			}
		}
		if x.Epochs[0].After != (pipeline.Position{}) || x.Epochs[1].After != at[2] {
			t.Errorf("the epochs come after %s and %s", x.Epochs[0].After, x.Epochs[1].After)
		}
	}},
	{name: "ranges", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, all := epochs(ctx, t, h)
		a := h.Archive(t, site)
		before := append([]pipeline.Position{{}}, at...)
		for from := range before {
			for to := from; to < len(before); to++ {
				got := between(ctx, t, a, before[from], before[to], pipeline.Range{})
				if diff := cmp.Diff(all[from:to], events(got), equateEmpty); diff != "" {
					t.Errorf("between %s and %s (-want +got):\n%s", before[from], before[to], diff)
				}
				for i, r := range got {
					if r.Position != at[from+i] || r.Stored.IsZero() {
						t.Errorf("record %d after %s stands at %s, stored %s", i, before[from], r.Position, r.Stored)
					}
				}
			}
		}
		gap(ctx, t, a, at[0], pipeline.Position{Epoch: at[5].Epoch, Seq: 4})
		gap(ctx, t, a, at[0], pipeline.Position{Epoch: "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", Seq: 1})
	}},
	{name: "one object", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, all := epochs(ctx, t, h)
		ref := refs(3)[0]
		got := between(ctx, t, h.Archive(t, site), pipeline.Position{}, at[5], pipeline.Range{Ref: &ref})
		if diff := cmp.Diff([]pipeline.Event{all[0], all[2], all[3]}, events(got)); diff != "" {
			t.Errorf("history of %s (-want +got):\n%s", ref, diff)
		}
		none := ConfigMap(site, "none")
		if got := between(ctx, t, h.Archive(t, site), pipeline.Position{}, at[5], pipeline.Range{Ref: &none}); len(got) != 0 {
			t.Errorf("history of what never was: %v", got)
		}
	}},
	{name: "one kind and the heartbeats", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		deployment := pipeline.Ref{Site: site, Group: "apps", Resource: "deployments", Namespace: "default", Name: "x"}
		kind := deployment.GroupResource()
		last := mustAppend(ctx, t, h.OpenWriter(t, site), Put(deployment, 1), Heartbeat(site, 1), Put(refs(1)[0], 2), Delete(deployment, 3), Heartbeat(site, 2))
		for want, q := range map[int]pipeline.Range{1: {Kind: &kind}, 2: {Ref: &pipeline.Ref{Site: site}}} {
			got := between(ctx, t, h.Archive(t, site), pipeline.Position{}, last, q)
			if len(got) != 2 || got[0].Position.Seq != uint64(want) || got[1].Position.Seq != uint64(want+3) {
				t.Errorf("%+v yields %v", q, got)
			}
		}
	}},
	{name: "newest", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, all := epochs(ctx, t, h)
		got := between(ctx, t, h.Archive(t, site), at[0], at[4], pipeline.Range{Newest: true})
		if diff := cmp.Diff([]pipeline.Event{all[3], all[4]}, events(got)); diff != "" {
			t.Errorf("newest (-want +got):\n%s", diff)
		}
		got = between(ctx, t, h.Archive(t, site), pipeline.Position{}, at[2], pipeline.Range{Newest: true, HeadersOnly: true})
		if len(got) != 2 || got[0].Position != at[1] || got[1].Position != at[2] || got[1].Body != nil {
			t.Errorf("newest headers: %v", got)
		}
	}},
	{name: "stopped early", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, _ := epochs(ctx, t, h)
		for _, newest := range []bool{false, true} {
			n := 0
			for _, err := range h.Archive(t, site).Between(ctx, pipeline.Position{}, at[5], pipeline.Range{Newest: newest}) {
				if n++; err != nil {
					t.Error(err)
				}
				break
			}
			if n != 1 {
				t.Errorf("yielded %d times", n)
			}
		}
	}},
	{name: "times", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		w, a := h.OpenWriter(t, site), h.Archive(t, site)
		begin := later(ctx)
		type known struct {
			time time.Time
			at   pipeline.Position
		}
		var moments []known
		for i := range 6 {
			if i == 3 {
				if _, err := w.NewEpoch(ctx); err != nil {
					t.Fatalf("new epoch: %v", err)
				}
				// The epoch has no records yet: the last one of the former counts.
				moments = append(moments, known{later(ctx), moments[2].at})
			}
			at := mustAppend(ctx, t, w, Put(refs(1)[0], 2*i+1), Put(refs(1)[0], 2*i+2))
			moments = append(moments, known{later(ctx), at})
		}
		for _, m := range moments {
			got, err := a.Locate(ctx, m.time)
			if err != nil || got.Position != m.at || got.Time.After(m.time) || got.Time.IsZero() {
				t.Errorf("at %s the history stood at %s, got %s, %v", m.time, m.at, got, err)
			}
		}
		for _, r := range between(ctx, t, a, pipeline.Position{}, moments[len(moments)-1].at, pipeline.Range{}) {
			got, err := a.Locate(ctx, r.Stored)
			if err != nil || got.Position.Compare(r.Position) < 0 || !got.Time.Equal(r.Stored) {
				t.Errorf("when %s was stored is %s, %v", r.Position, got, err)
			}
		}
		got, err := a.Locate(ctx, begin)
		want := pipeline.Moment{Position: pipeline.Position{Epoch: moments[0].at.Epoch}, Time: begin}
		if err != nil || got != want {
			t.Errorf("before the first record is %s, %v, want %s", got, err, want)
		}
	}},
	{name: "trimmed", needs: needsArchive, run: func(ctx context.Context, t *testing.T, h Harness) {
		at, all := epochs(ctx, t, h)
		a := h.Archive(t, site)
		current := newest(ctx, t, h.History(t, site), pipeline.Query{})
		waitForTrim(ctx, t, a, at[2])
		gap(ctx, t, a, pipeline.Position{}, at[5])
		gap(ctx, t, a, at[0], at[2])
		if diff := cmp.Diff(all[2:], events(between(ctx, t, a, at[1], at[5], pipeline.Range{}))); diff != "" {
			t.Errorf("what is left (-want +got):\n%s", diff)
		}
		waitForTrim(ctx, t, a, at[3])
		x := mustExtent(ctx, t, a)
		if x.Epochs[0].Epoch != at[3].Epoch || x.Epochs[0].After != at[2] {
			t.Errorf("after the first epoch is gone: %+v", x)
		}
		if !x.Holds(at[2], at[5]) || x.Holds(at[1], at[5]) {
			t.Errorf("after the first epoch is gone, it holds from its end %t, from before %t", x.Holds(at[2], at[5]), x.Holds(at[1], at[5]))
		}
		if diff := cmp.Diff(all[3:], events(between(ctx, t, a, at[2], at[5], pipeline.Range{}))); diff != "" {
			t.Errorf("what is left (-want +got):\n%s", diff)
		}
		if h.TrimsExactly {
			waitForTrim(ctx, t, a, at[4])
			gap(ctx, t, a, at[2], at[5])
		}
		// A log may say from one stream or another when it took a record.
		if diff := cmp.Diff(current, newest(ctx, t, h.History(t, site), pipeline.Query{}), cmpopts.IgnoreFields(pipeline.Record{}, "Stored")); diff != "" {
			t.Errorf("trimming changed the current state (-before +after):\n%s", diff)
		}
		w := h.OpenWriter(t, site)
		if p := mustAppend(ctx, t, w, Put(refs(1)[0], 9)); p.Epoch != at[5].Epoch || p.Seq != 4 {
			t.Errorf("after trimming a record stands at %s", p)
		}
	}},
	{name: "foreign", needs: func(h Harness) bool { return needsArchive(h) && needsPublishRaw(h) }, run: func(ctx context.Context, t *testing.T, h Harness) {
		r := refs(2)
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(r[0], 1))
		h.PublishRaw(t, site, pipeline.Message{Subject: r[0].Subject(), Header: map[string][]string{"x": {"y"}}, Data: []byte("z")})
		last := mustAppend(ctx, t, h.OpenWriter(t, site), Put(r[1], 2))
		for _, newest := range []bool{false, true} {
			var ours, foreign []pipeline.Record
			for rec, err := range h.Archive(t, site).Between(ctx, pipeline.Position{}, last, pipeline.Range{Newest: newest}) {
				switch {
				case errors.Is(err, pipeline.ErrForeign):
					foreign = append(foreign, rec)
				case err != nil:
					t.Fatal(err)
				default:
					ours = append(ours, rec)
				}
			}
			if len(foreign) != 1 || foreign[0].Ref != r[0] || foreign[0].Position.Seq != 2 {
				t.Errorf("foreign: %+v", foreign)
			}
			if want := map[bool]int{false: 2, true: 1}[newest]; len(ours) != want || ours[want-1].Position != last {
				t.Errorf("ours: %+v", ours)
			}
		}
	}},
}

// waitForTrim trims until nothing of what may go is left: a log may have to take
// something up first.
func waitForTrim(ctx context.Context, t testing.TB, a pipeline.Archive, before pipeline.Position) {
	t.Helper()
	for {
		if err := a.Trim(ctx, before); err != nil {
			t.Fatalf("trim before %s: %v", before, err)
		}
		gone := pipeline.Position{Epoch: before.Epoch, Seq: before.Seq - 1}
		x := mustExtent(ctx, t, a)
		i := slices.IndexFunc(x.Epochs, func(e pipeline.EpochExtent) bool { return e.Epoch == before.Epoch })
		if i == 0 && x.Epochs[0].First > gone.Seq {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("not trimmed in time: %+v", x)
		}
		later(ctx)
	}
}
