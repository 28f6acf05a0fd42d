package transform_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

func TestUntouchedObjectsAreNotCopied(t *testing.T) {
	o := deployment(t)
	for name, rules := range map[string]string{
		"NoRules":     "rules:",
		"NoMatch":     hundredRules(),
		"NothingDone": "rules:\n- {name: a, jq: .}",
		"NotMet":      "rules:\n- {name: a, match: {when: 'false'}, jq: .x = 1}",
	} {
		t.Run(name, func(t *testing.T) {
			r, err := compile(t, rules).Run(t.Context(), transform.Env{}, o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Objects) != 1 || &r.Objects[0].Body[0] != &o.Body[0] {
				t.Error("the object is not the one that went in")
			}
		})
	}
}

func TestUnmatchedObjectsAreNotDecoded(t *testing.T) {
	// Decoding would find that this is no JSON.
	o := transform.Object{Kind: deployments, Body: []byte(`{"metadata":{"name":"web","namespace":"shop"},"spec":oops`)}
	set := compile(t, hundredRules())
	if _, err := set.Run(t.Context(), transform.Env{}, o); err != nil {
		t.Errorf("an object that no rule matches was looked into: %v", err)
	}
	if set.Matches(o) {
		t.Error("a rule matches")
	}
	_, err := compile(t, "rules:\n- {name: a, jq: .}").Run(t.Context(), transform.Env{}, o)
	if got := pipeline.ClassOf(err); err == nil || got != pipeline.Malformed {
		t.Errorf("error %v has class %v, want Malformed", err, got)
	}
}

// TestConcurrentRuns is for the race detector: programs with constants that
// gojq writes to, parameters, modules and regular expressions.
func TestConcurrentRuns(t *testing.T) {
	set := compile(t, `rules:
- name: a
  params: {p: {x: {y: 1}, z: [1, 2]}}
  jq: |
    import "dr" as dr;
    .a = ({k: {l: 1}, m: {n: {o: 2}}} | del(.k.l))
    | .b = ($params | del(.p.x) | .p.z |= map(select(. > 1)))
    | .c = ([[1, [2, 3]], 4] | del(.[0][0]))
    | dr::images({"registry.prod.example.com": "mirror"})
    | .d = (.metadata.name | test("^w"))
`)
	o := deployment(t)
	want := one(t, set, o)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				r, err := set.Run(t.Context(), transform.Env{}, o)
				if err != nil || string(r.Objects[0].Body) != string(want.Body) {
					t.Errorf("run: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestRunStops(t *testing.T) {
	set := compile(t, "rules:\n- {name: a, onError: pass, jq: 'def f: f; f'}")
	t.Run("WithItsTime", func(t *testing.T) {
		start := time.Now()
		r, err := set.Run(t.Context(), transform.Env{}, deployment(t))
		if err != nil || len(r.Failures) != 1 {
			t.Fatal(r, err)
		}
		var e *transform.Error
		if !errors.As(r.Failures[0], &e) || e.Reason != transform.TimedOut {
			t.Errorf("failure %v, want TimedOut", r.Failures[0])
		}
		// 100 ms, and a slow machine.
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("WithItsCaller", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := set.Run(ctx, transform.Env{}, deployment(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	})
}

// TestGuardsChangeNothing holds the rewritten programs against gojq itself.
func TestGuardsChangeNothing(t *testing.T) {
	programs := []string{
		`.a = 1 + 2 * 3 - 4 / 2 % 3`, `.a = ("a", "b") + ("c", "d")`, `.a = [(1, 2) * (3, 4)]`, `.a = [(1, 2) - (3, 4)]`,
		`.a = ([1, 2, 3] - [2])`, `.a = ("x" * 3)`, `.a = ({a: {b: 1}} * {a: {c: 2}})`, `.a = ("a,b" / ",")`, `.a = null + 1`,
		`.spec.replicas += 1`, `.spec.replicas -= 1`, `.spec.replicas *= 2`, `.spec.replicas /= 3`, `.spec.replicas %= 2`, `.a //= 7`, `.spec.replicas //= 7`,
		`.spec.replicas += (1, 2)`, `(.a, .b) += 1`, `.a.b.c |= 5`, `.spec |= del(.replicas)`, `.metadata.labels |= with_entries(.value |= ascii_upcase)`,
		`.spec.template.spec.containers |= map(select(.name != "proxy"))`, `.spec.template.spec.containers[] |= empty`,
		`del(.spec.template.spec.containers[] | select(.name == "web"))`, `del(.metadata.labels, .metadata.annotations)`, `delpaths([["spec"], ["metadata", "labels"]])`,
		`.a = (.spec | tojson | fromjson | keys)`, `.a = ([.. | strings] | sort | unique | length)`, `.a = ([paths] | length)`, `.a = [tostream]`,
		`.a = (.spec.template.spec.containers | group_by(.image) | map(length))`, `.a = ([.spec.template.spec.containers[].name] | join("-"))`,
		`.a = "\(.spec.replicas) of \(.metadata | tojson) \("x\(1 + 1)")"`, `.a = @base64 "\(.kind)!"`, `.a = (.kind | @json, @text, @base64, @uri, @sh)`,
		`.a = (.kind | test("^D"), test("x"; "i"), [match("p")], capture("(?<x>l.)"), sub("e"; "E"), gsub("(?<x>e)"; "<\(.x)>"), [scan("e.")], split("l"), split("l"; null), ascii_downcase)`,
		`.a = ([1, [2, [3]]] | flatten, flatten(1), reverse, length, add?, first, last, nth(1), min, max, index(1), indices(1), contains([1]), inside([1, 2, [2, [3]]]))`,
		`.a = ([3, 1, 2] | sort_by(-.), min_by(-.), max_by(-.), unique_by(. % 2), any(. > 2), all(. > 2), bsearch(2), to_entries, transpose?)`,
		`.a = ([[1, 2], [3]] | transpose, combinations)`, `.a = ("1.5", "12" | tonumber)`, `.a = (1, "x", null, [1] | tostring)`, `.a = ("abc" | explode | implode)`,
		`.a = [limit(3; range(10))]`, `.a = (reduce range(5) as $i (0; . + $i))`, `.a = [foreach range(5) as $i (0; . + $i; [$i, .])]`,
		`.a = ([1, 2] as [$x, $y] | {$x, $y, "z": 3, ("q" + "r"): 4, "s\(1)": 5})`, `.a = (label $out | 1, break $out, 2)`,
		`.a = (try error("x") catch .)`, `.a = (.nothing.here? // "none")`, `.a = (if .kind == "Deployment" and .spec.replicas >= 3 then 1 elif . < 3 then 2 else 3 end)`,
		`def f($x; g): [$x, g]; .a = f(1; 2 + 3)`, `def f: def g: 3; g * g; .a = f`, `.a = getpath(["spec", "replicas"])`, `setpath(["a", 1]; 2)`, `getpath(["a", "b"]) = 1`,
		`.a[2] = 1`, `.a[1:] = [9]`, `(2 as $i | .a[$i]) = 1`, `.spec.template.spec.containers[-1].image = "x"`, `.a = [.spec.template.spec.containers[0].ports[]?.containerPort]`,
		`.a = pick(.spec.replicas)`, `.a = [splits("a"; "b")?]`, `walk(if type == "number" then . + 1 else . end)`, `.a = fromstream(1 | truncate_stream([[0], 1], [[1, 0], 2], [[1, 0]], [[1]]))`,
		`.a = ([{a: 1, b: 2}, {a: 3, b: 4}] | INDEX(.a), (IN(.[]; {a: 1, b: 2})))`, `.a = ({} | .x += 1 | .y -= 1 | .z *= 2)`, `.a = -(1 + 2)`, `.a = (1, null | -(. // 2))`,
		`.a = ({a: 1} == {a: 1}, [1] < [2], "a" != "b", {} > [])`, `to_entries | from_entries`, `.a = ("2015-03-05T23:51:47Z" | fromdate | todate)`,
		`map_values(.)`, `.. |= .`, `first(.., 1)`, `., .`, `empty`, `.spec.template.spec.containers[] as $c | {apiVersion, kind, metadata: (.metadata + {name: $c.name})}`,
		`[.[] | numbers] as [$a] | .a = $a`, `.a = ([.spec.template.spec.containers[] | .image | split(":")[1] | ltrimstr("v")])`, `limit(1; .a, .b) = 1`,
		`. as {metadata: {name: $n}, spec: {replicas: $r}} | .a = "\($n)\($r)"`, `.a = ("x" as $x | "y" as $y | $x + $y)`, `.a = [range(0; 10; 3)]`,
	}
	o := deployment(t)
	for _, program := range programs {
		t.Run(program, func(t *testing.T) {
			query, err := gojq.Parse(program)
			if err != nil {
				t.Fatal(err)
			}
			code, err := gojq.Compile(query)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := json.Unmarshal(o.Body, &v); err != nil {
				t.Fatal(err)
			}
			var want []string
			var failed error
			for iter := code.Run(v); ; {
				out, ok := iter.Next()
				if !ok {
					break
				}
				if failed, ok = out.(error); ok {
					break
				}
				text, err := gojq.Marshal(out)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, string(text))
			}
			// Several results are told apart by their names.
			set := compile(t, "rules:\n- name: a\n  jq: |\n    [("+program+")] | {apiVersion: \"apps/v1\", kind: \"Deployment\", metadata: {name: \"x\", namespace: \"shop\"}, all: .}")
			r, err := set.Run(t.Context(), transform.Env{}, o)
			if failed != nil {
				if err == nil {
					t.Errorf("no error, want %v", failed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ All []any }
			if err := json.Unmarshal(r.Objects[0].Body, &got); err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, one := range got.All {
				text, err := gojq.Marshal(one)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, string(text))
			}
			if diff := cmp.Diff(want, texts); diff != "" {
				t.Errorf("results (-gojq +ours):\n%s", diff)
			}
		})
	}
}

func TestProblemsAreFoundByErrorsAs(t *testing.T) {
	_, err := transform.Compile([]transform.Document{
		{ConfigMap: "b/rules", Key: "k", Text: "rules:\n- {name: x, jq: foo}"},
		{ConfigMap: "a/rules", Key: "k", Text: "rules:\n- {name: y, jq: bar}"},
	}, transform.Options{})
	var all transform.Problems
	if !errors.As(err, &all) || len(all) != 2 {
		t.Fatalf("error %v, want two problems", err)
	}
	want := []*transform.Problem{
		{ConfigMap: "a/rules", Key: "k", Rule: "y", Line: 2, Column: 17, Message: "function not defined: bar/0", Excerpt: "bar"},
		{ConfigMap: "b/rules", Key: "k", Rule: "x", Line: 2, Column: 17, Message: "function not defined: foo/0", Excerpt: "foo"},
	}
	if diff := cmp.Diff(want, []*transform.Problem(all)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	var first *transform.Problem
	if !errors.As(err, &first) || first.Rule != "y" {
		t.Errorf("first problem %v", first)
	}
}

// TestWhatIsNotText has documents that a file of test cases cannot hold.
func TestWhatIsNotText(t *testing.T) {
	for name, c := range map[string]struct{ key, text, want string }{
		"NotUTF8":       {"k", "rules:\n- {name: \xe4, jq: .}", "line 2, column 10: not text: byte 0xe4\n    - {name: \ufffd, jq: .}\n             ^"},
		"UTF16":         {"k", "\xff\xfer\x00", "line 1, column 1: not text: byte 0xff\n    \ufffd\ufffdr\x00\n    ^"},
		"Zero":          {"k", "rules: []\n#\x00", "line 2, column 2: not text: byte 0x00\n    #\x00\n     ^"},
		"ModuleNotUTF8": {"m.jq", "def f: \"\xe4\";", "line 1, column 9: not text: byte 0xe4\n    def f: \"\ufffd\";\n            ^"},
		"Huge":          {"k", "# x\n" + strings.Repeat(" ", 1<<20), "line 1, column 1: longer than 1048576 bytes\n    # x\n    ^"},
		"HugeModule":    {"m.jq", "# x\n" + strings.Repeat(" ", 1<<16), "line 1, column 1: longer than 65536 bytes\n    # x\n    ^"},
		"Deep":          {"k", "rules: " + strings.Repeat("[", 20_000), "line 1, column 1: not YAML: exceeded max depth of 10000\n    rules: " + strings.Repeat("[", 113) + "\n    ^"},
		"Version":       {"k", "%YAML 9.9\n---\nrules: []", "line 1, column 1: not YAML: found incompatible YAML document\n    %YAML 9.9\n    ^"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := transform.Compile([]transform.Document{{ConfigMap: "a/b", Key: c.key, Text: c.text}}, transform.Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff("configmap a/b, key "+c.key+", "+c.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	ref := func(name string) pipeline.Ref {
		return pipeline.Ref{Site: "a", Resource: "configmaps", Namespace: "n", Name: name}
	}
	target := func(name string) transform.Target {
		return transform.Target{Kind: pipeline.GroupResource{Resource: "configmaps"}, Namespace: "n", Name: name}
	}
	var targets transform.Targets
	claim := func(who string, wantOK bool, wantLeft []transform.Target, names ...string) {
		t.Helper()
		var wanted []transform.Target
		for _, n := range names {
			wanted = append(wanted, target(n))
		}
		left, holder, ok := targets.Claim(ref(who), wanted)
		if ok != wantOK || !ok && holder != ref("one") {
			t.Errorf("claim by %s: ok %v, holder %v", who, ok, holder)
		}
		if diff := cmp.Diff(wantLeft, left); diff != "" {
			t.Errorf("left behind by %s (-want +got):\n%s", who, diff)
		}
	}
	claim("one", true, nil, "one", "copy")
	claim("one", true, nil, "one", "copy")
	claim("two", false, nil, "two", "copy")
	claim("two", true, nil, "two")
	claim("one", true, []transform.Target{target("copy")}, "one")
	claim("two", true, nil, "two", "copy")
	if diff := cmp.Diff([]transform.Target{target("two"), target("copy")}, targets.Release(ref("two"))); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	claim("one", true, nil, "one", "two", "copy")
	if got := target("x").String(); got != "configmaps n/x" {
		t.Errorf("target is written %q", got)
	}
}

func TestExplain(t *testing.T) {
	set := compile(t, `rules:
- {name: other-kind, match: {kinds: [apps/statefulsets]}, jq: .x = 1}
- {name: other-namespace, match: {namespaces: [db]}, jq: .x = 1}
- {name: other-name, match: {names: ['db-*']}, jq: .x = 1}
- {name: other-label, match: {labels: {tier: backend}}, jq: .x = 1}
- {name: other-annotation, match: {annotations: {absent: '*'}}, jq: .x = 1}
- {name: not-met, match: {when: .spec.replicas > 10}, jq: .x = 1}
- {name: scale, match: {kinds: [apps/deployments]}, jq: '.spec.replicas = 1 | del(.metadata.labels.tier) | .metadata.labels.new = "x"'}
- {name: nothing, jq: .}
- {name: fails, onError: pass, jq: error("because")}
- {name: twice, jq: '., (.metadata.name = "second")'}
- {name: drops, match: {names: [second]}, jq: empty}
`)
	x, err := transform.Explain(t.Context(), set, transform.Env{}, deployment(t))
	if err != nil {
		t.Fatal(err)
	}
	want := `other-kind": not for this object: kind apps/deployments is none of apps/statefulsets
other-namespace": not for this object: namespace "shop" is none of db
other-name": not for this object: name "web" is none of db-*
other-label": not for this object: label tier is not backend
other-annotation": not for this object: annotation absent is not *
not-met": not for this object: its condition is not met: .spec.replicas > 10
scale":
    + .metadata.labels.new: "x"
    - .metadata.labels.tier: "frontend"
    ~ .spec.replicas: 3 -> 1
nothing": changed nothing
fails": failed: transform object: configmap test/rules, key rules.yaml, rule "fails": because
twice": 2 objects
  object 1:
  object 2:
    ~ .metadata.name: "web" -> "second"
drops": not for this object: name "web" is none of second
drops": dropped the object
`
	got := strings.ReplaceAll(x.String(), `configmap test/rules, key rules.yaml, rule "`, "")
	want = strings.ReplaceAll(want, `configmap test/rules, key rules.yaml, rule "`, "")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
	if len(x.Result.Objects) != 1 || x.Err != nil {
		t.Errorf("result %v, %v", x.Result, x.Err)
	}
}

func TestRulesInOrder(t *testing.T) {
	set := compile(t, "rules:\n- {name: c, order: 1, jq: .}\n- {name: a, jq: .}\n- {name: b, order: -1, jq: .}\n- {name: s, stage: source, jq: .}")
	var names []string
	for _, r := range set.Rules() {
		names = append(names, r.Name)
	}
	if diff := cmp.Diff([]string{"b", "a", "c"}, names); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestManyPatternsDoNotFillTheMemory(t *testing.T) {
	set := compile(t, "rules:\n- {name: a, jq: '. as $o | .hit = (.metadata.name | test($o.metadata.labels.pattern))'}")
	for i := range 1000 {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n%d","labels":{"pattern":"^n%d$"}}}`, i, i)
		r, err := set.Run(t.Context(), transform.Env{}, transform.Object{Kind: pipeline.GroupResource{Resource: "configmaps"}, Body: []byte(body)})
		if err != nil || !strings.HasSuffix(string(r.Objects[0].Body), `"hit":true}`) {
			t.Fatal(r, err)
		}
	}
}
