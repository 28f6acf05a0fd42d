package pipelinetest

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// letter is a dead letter with every field set.
func letter(owner string, ref pipeline.Ref, seq uint64) pipeline.DeadLetter {
	return pipeline.DeadLetter{
		Ref: ref, Position: pipeline.Position{Epoch: "01JNZ3QJ6M0000000000000000", Seq: seq}, Op: pipeline.OpDelete, UID: "uid",
		Owner: owner, Class: pipeline.Immutable, Message: "spec.selector: field is immutable: \"ü\"\n", Attempts: 7,
		First: Observed, Last: Observed.Add(time.Minute), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

func letters(ctx context.Context, t testing.TB, d pipeline.DeadLetters, owner string) []pipeline.DeadLetter {
	t.Helper()
	var list []pipeline.DeadLetter
	for l, err := range d.List(ctx, owner) {
		if err != nil {
			t.Fatalf("list dead letters of %q: %v", owner, err)
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b pipeline.DeadLetter) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), a.Ref.Compare(b.Ref))
	})
	return list
}

func mustPark(ctx context.Context, t testing.TB, d pipeline.DeadLetters, list ...pipeline.DeadLetter) {
	t.Helper()
	for _, l := range list {
		if err := d.Park(ctx, l); err != nil {
			t.Fatalf("park %s: %v", l.Ref, err)
		}
	}
}

func wantLetters(ctx context.Context, t testing.TB, d pipeline.DeadLetters, owner string, want ...pipeline.DeadLetter) {
	t.Helper()
	if diff := gocmp.Diff(want, letters(ctx, t, d, owner)); diff != "" {
		t.Errorf("dead letters of %q differ (-want +got):\n%s", owner, diff)
	}
}

var deadLetterCases = []logCase{
	{name: "none", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "dr")
		wantLetters(ctx, t, d, "")
		wantLetters(ctx, t, d, "team/shop")
		if err := d.Remove(ctx, "team/shop", refs(1)[0]); err != nil {
			t.Errorf("remove none: %v", err)
		}
	}},
	{name: "replace", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "dr")
		mustPark(ctx, t, d, letter("team/shop", refs(2)[0], 1), letter("team/shop", refs(2)[1], 2), letter("team/shop", refs(2)[0], 3))
		wantLetters(ctx, t, d, "team/shop", letter("team/shop", refs(2)[0], 3), letter("team/shop", refs(2)[1], 2))
	}},
	{name: "remove", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "dr")
		mustPark(ctx, t, d, letter("team/shop", refs(2)[0], 1), letter("team/shop", refs(2)[1], 2))
		for range 2 {
			if err := d.Remove(ctx, "team/shop", refs(2)[0]); err != nil {
				t.Fatalf("remove: %v", err)
			}
		}
		wantLetters(ctx, t, d, "", letter("team/shop", refs(2)[1], 2))
		mustPark(ctx, t, d, letter("team/shop", refs(2)[0], 9))
		wantLetters(ctx, t, d, "", letter("team/shop", refs(2)[0], 9), letter("team/shop", refs(2)[1], 2))
	}},
	{name: "by owner", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "dr")
		ref := refs(1)[0]
		mustPark(ctx, t, d, letter("a/shop", ref, 1), letter("a/shop.x", ref, 2), letter("b/shop", ref, 3))
		wantLetters(ctx, t, d, "a/shop", letter("a/shop", ref, 1))
		wantLetters(ctx, t, d, "a/sh")
		wantLetters(ctx, t, d, "", letter("a/shop", ref, 1), letter("a/shop.x", ref, 2), letter("b/shop", ref, 3))
		if err := d.Remove(ctx, "a/shop", ref); err != nil {
			t.Fatal(err)
		}
		wantLetters(ctx, t, d, "b/shop", letter("b/shop", ref, 3))
		wantLetters(ctx, t, d, "a/shop")
	}},
	{name: "by destination", run: func(ctx context.Context, t *testing.T, h Harness) {
		a, b := h.DeadLetters(t, "a"), h.DeadLetters(t, "a.b")
		mustPark(ctx, t, a, letter("team/shop", refs(1)[0], 1))
		wantLetters(ctx, t, b, "")
		wantLetters(ctx, t, h.DeadLetters(t, "a"), "", letter("team/shop", refs(1)[0], 1))
	}},
	{name: "names of every kind", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "größe *>")
		var want []pipeline.DeadLetter
		for i, ref := range weirdRefs("a.b") {
			want = append(want, letter("team/shop.*> =_", ref, uint64(i)+1))
		}
		mustPark(ctx, t, d, want...)
		slices.SortFunc(want, func(a, b pipeline.DeadLetter) int { return a.Ref.Compare(b.Ref) })
		wantLetters(ctx, t, d, "team/shop.*> =_", want...)
		for _, l := range want[1:] {
			if err := d.Remove(ctx, l.Owner, l.Ref); err != nil {
				t.Fatalf("remove %s: %v", l.Ref, err)
			}
		}
		wantLetters(ctx, t, d, "", want[0])
	}},
	{name: "many", run: func(ctx context.Context, t *testing.T, h Harness) {
		d := h.DeadLetters(t, "dr")
		var want []pipeline.DeadLetter
		for i, ref := range refs(500) {
			want = append(want, letter("team/shop", ref, uint64(i)+1))
		}
		mustPark(ctx, t, d, want...)
		slices.SortFunc(want, func(a, b pipeline.DeadLetter) int { return a.Ref.Compare(b.Ref) })
		wantLetters(ctx, t, d, "team/shop", want...)
	}},
}
