package transform_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

var deployments = pipeline.GroupResource{Group: "apps", Resource: "deployments"}

func deployment(tb testing.TB) transform.Object {
	tb.Helper()
	body, err := os.ReadFile("testdata/objects/deployment.json")
	if err != nil {
		tb.Fatal(err)
	}
	return transform.Object{Kind: deployments, Body: body[:len(body)-1]}
}

func compile(tb testing.TB, rules string) *transform.Set {
	tb.Helper()
	set, err := transform.Compile([]transform.Document{{ConfigMap: "test/rules", Key: "rules.yaml", Text: rules}}, transform.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// hundredRules match by everything there is, but none of them the Deployment.
func hundredRules() string {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 100 {
		match := []string{
			"kinds: [apps/statefulsets]",
			fmt.Sprintf("kinds: [apps/deployments]\n    namespaces: [team-%d]", i),
			fmt.Sprintf("kinds: [apps/*]\n    names: [web-%d-*]", i),
			fmt.Sprintf("labels: {tier: backend-%d}", i),
			fmt.Sprintf("kinds: ['*/deployments']\n    annotations: {example.com/owner: 'team-%d-*'}", i),
		}[i%5]
		fmt.Fprintf(&b, "- name: rule-%d\n  match:\n    %s\n  jq: .spec.replicas = %d\n", i, match, i)
	}
	return b.String()
}

func BenchmarkMatchNone(b *testing.B) {
	set, object := compile(b, hundredRules()), deployment(b)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := set.Run(b.Context(), transform.Env{}, object); err != nil || len(r.Applied) > 0 {
			b.Fatal(r, err)
		}
	}
}

const oneField = ".spec.replicas = 0"

func BenchmarkOneField(b *testing.B) {
	set, object := compile(b, "rules:\n- name: scale\n  match: {kinds: [apps/deployments]}\n  jq: "+oneField+"\n"), deployment(b)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := set.Run(b.Context(), transform.Env{}, object); err != nil || len(r.Applied) != 1 {
			b.Fatal(r, err)
		}
	}
}

// naive is what one would write with gojq alone; it loses digits and the order
// of keys, and knows no limits but the time.
func naive(tb testing.TB) func() {
	tb.Helper()
	query, err := gojq.Parse(oneField)
	if err != nil {
		tb.Fatal(err)
	}
	code, err := gojq.Compile(query)
	if err != nil {
		tb.Fatal(err)
	}
	object := deployment(tb)
	return func() {
		var v any
		if err := json.Unmarshal(object.Body, &v); err != nil {
			tb.Fatal(err)
		}
		out, ok := code.RunWithContext(tb.Context(), v).Next()
		if _, failed := out.(error); !ok || failed {
			tb.Fatal(out)
		}
		if _, err := json.Marshal(out); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkOneFieldNaive(b *testing.B) {
	run := naive(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

// TestOneFieldAllocations keeps the figure: at most 0.7 of the naive way's.
func TestOneFieldAllocations(t *testing.T) {
	set, object := compile(t, "rules:\n- name: scale\n  match: {kinds: [apps/deployments]}\n  jq: "+oneField+"\n"), deployment(t)
	ours := testing.AllocsPerRun(50, func() {
		if _, err := set.Run(t.Context(), transform.Env{}, object); err != nil {
			t.Fatal(err)
		}
	})
	if theirs := testing.AllocsPerRun(50, naive(t)); ours > 0.7*theirs {
		t.Errorf("%v allocations, the naive way has %v", ours, theirs)
	}
}

func BenchmarkCompileStandby(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := transform.Compile(nil, transform.Options{Rules: transform.Standby{}.Rules()}); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkStandby(b *testing.B, o transform.Object) {
	set, err := transform.Compile(nil, transform.Options{Rules: transform.Standby{}.Rules()})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := set.Run(b.Context(), transform.Env{}, o); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStandbyDeployment puts a Deployment to sleep.
func BenchmarkStandbyDeployment(b *testing.B) { benchmarkStandby(b, deployment(b)) }

// BenchmarkStandbyConfigMap passes an object that has nothing to sleep.
func BenchmarkStandbyConfigMap(b *testing.B) {
	o := deployment(b)
	o.Kind = pipeline.GroupResource{Resource: "configmaps"}
	benchmarkStandby(b, o)
}
