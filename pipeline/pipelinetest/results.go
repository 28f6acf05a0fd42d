package pipelinetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestResults is the conformance suite of results. open opens those of a destination in one
// log, which is fresh and empty at the first call.
func TestResults(t *testing.T, open func(t testing.TB, dest string) pipeline.Results) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	some := func(n int, message string) []pipeline.ObjectResult {
		var out []pipeline.ObjectResult
		for i, ref := range refs(n) {
			out = append(out, pipeline.ObjectResult{
				Ref: ref, Class: pipeline.Invalid, Message: message, Attempts: 3, Time: Observed,
				Position: pipeline.Position{Epoch: "01JNZ3QJ6M0000000000000000", Seq: uint64(i + 1)},
				Diff:     []string{"-data.a: \"1\"", "+data.a: \"ü\n\""},
			})
		}
		return out
	}
	list := func(r pipeline.Results, run string) []pipeline.ObjectResult {
		t.Helper()
		var out []pipeline.ObjectResult
		for one, err := range r.List(ctx, run) {
			if err != nil {
				t.Fatalf("list results of %q: %v", run, err)
			}
			out = append(out, one)
		}
		return out
	}
	add := func(r pipeline.Results, run string, results []pipeline.ObjectResult) {
		t.Helper()
		if err := r.Add(ctx, run, results); err != nil {
			t.Fatalf("add results of %q: %v", run, err)
		}
	}
	want := func(what string, want, got []pipeline.ObjectResult) {
		t.Helper()
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
	}

	r := open(t, "dr")
	want("of no run", nil, list(r, "a"))
	add(r, "a", nil)
	first, second := some(3, "first"), some(2, "second")
	add(r, "a", first)
	add(r, "b.with/odd name", second)
	add(r, "a", second)
	want("of a run, in the order they were added", append(append([]pipeline.ObjectResult{}, first...), second...), list(r, "a"))
	want("of another run", second, list(r, "b.with/odd name"))
	want("of another destination", nil, list(open(t, "other"), "a"))

	many := some(2000, strings.Repeat("long ", 200))
	for i := range many {
		many[i].Message = fmt.Sprint(i, many[i].Message)
	}
	add(r, "many", many)
	want("more than fit into one message", many, list(open(t, "dr"), "many"))

	for one, err := range r.List(ctx, "many") {
		if err != nil || one.Ref != many[0].Ref {
			t.Errorf("the first is %v, %v", one.Ref, err)
		}
		break
	}
	runs := func(r pipeline.Results, want ...string) {
		t.Helper()
		got, err := r.Runs(ctx)
		if err != nil {
			t.Fatalf("list runs: %v", err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("runs (-want +got)\n%s", diff)
		}
	}
	runs(r, "a", "b.with/odd name", "many")
	runs(open(t, "other"))
	for range 2 {
		if err := r.Remove(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	runs(r, "b.with/odd name", "many")
	want("after they were removed", nil, list(r, "a"))
	want("of a run that was not", second, list(r, "b.with/odd name"))
}
