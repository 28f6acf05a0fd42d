package pipelinetest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// strangers are messages that nobody of ours wrote.
func strangers(t testing.TB) []pipeline.Message {
	t.Helper()
	encode := func(name string) pipeline.Message {
		m, err := pipeline.Encode(Put(ConfigMap(site, name), 1))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	truncated, empty, other := encode("truncated"), encode("empty"), encode("moved")
	truncated.Data = truncated.Data[:len(truncated.Data)/2]
	empty.Header, empty.Data = nil, nil
	other.Subject = ConfigMap(site, "elsewhere").Subject()
	return []pipeline.Message{truncated, empty, other}
}

var foreignCases = []logCase{
	{name: "current", needs: needsPublishRaw, run: func(ctx context.Context, t *testing.T, h Harness) {
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(ConfigMap(site, "before"), 1))
		for _, m := range strangers(t) {
			h.PublishRaw(t, site, m)
		}
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(ConfigMap(site, "after"), 2))
		kind := ConfigMap(site, "").GroupResource()
		for name, q := range map[string]pipeline.Query{"all": {}, "kind": {Kind: &kind}} {
			got, bad := map[pipeline.Ref]pipeline.Event{}, 0
			for r, err := range h.History(t, site).Current(ctx, q) {
				switch {
				case errors.Is(err, pipeline.ErrForeign):
					bad++
				case err != nil:
					t.Fatalf("%s: %v", name, err)
				default:
					got[r.Ref] = r.Event
				}
			}
			want := map[pipeline.Ref]pipeline.Event{
				ConfigMap(site, "before"): Put(ConfigMap(site, "before"), 1),
				ConfigMap(site, "after"):  Put(ConfigMap(site, "after"), 2),
			}
			if diff := cmp.Diff(want, got); diff != "" || bad != len(strangers(t)) {
				t.Errorf("%s: %d foreign messages (-want +got):\n%s", name, bad, diff)
			}
		}
	}},
	{name: "follow", needs: needsPublishRaw, run: func(ctx context.Context, t *testing.T, h Harness) {
		mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 1))
		for _, m := range strangers(t) {
			h.PublishRaw(t, site, m)
		}
		last := mustAppend(ctx, t, h.OpenWriter(t, site), Put(refs(1)[0], 2))
		sub := mustFollow(ctx, t, h.History(t, site), "reader", pipeline.Position{})
		take(ctx, t, sub, 1)
		for i := range strangers(t) {
			d, err := sub.Next(ctx)
			if err != nil || !errors.Is(d.Invalid, pipeline.ErrForeign) {
				t.Fatalf("next: %v, invalid: %v", err, d.Invalid)
			}
			if want := (pipeline.Position{Epoch: last.Epoch, Seq: uint64(i) + 2}); d.Position != want {
				t.Errorf("foreign message stands at %s, want %s", d.Position, want)
			}
			settle(t, d)
		}
		diffRecords(t, []pipeline.Event{Put(refs(1)[0], 2)}, last, take(ctx, t, sub, 1))
	}},
	{name: "fences", needs: needsPublishRaw, run: func(ctx context.Context, t *testing.T, h Harness) {
		w := h.OpenWriter(t, site)
		mustAppend(ctx, t, w, Put(refs(1)[0], 1))
		h.PublishRaw(t, site, strangers(t)[0])
		if _, err := w.Append(ctx, []pipeline.Event{Put(refs(1)[0], 2)}); !errors.Is(err, pipeline.ErrFenced) {
			t.Errorf("append after a stranger: %v", err)
		}
	}},
}
