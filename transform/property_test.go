package transform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// jsonValue draws any value that JSON can hold, in the types of decode.
func jsonValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Bool().AsAny(),
		rapid.IntRange(-1000, 1000).AsAny(),
		rapid.String().AsAny(),
		rapid.SampledFrom([]any{json.Number("1e400"), json.Number("1.50"), json.Number("123456789012345678901"), 9007199254740993, "a\"b\\c\nü\u2028<"}),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars,
		rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[any] { return jsonValue(depth - 1) }), 0, 4).AsAny(),
		rapid.MapOfN(rapid.StringMatching(`[a-c"\\]{0,2}|name`), rapid.Deferred(func() *rapid.Generator[any] { return jsonValue(depth - 1) }), 0, 4).AsAny(),
	)...)
}

// TestSpliceWritesWhatWasMeant: whatever a program makes of a value, splicing it
// into the document and reading that again gives the same value.
func TestSpliceWritesWhatWasMeant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := jsonValue(3).Draw(t, "before")
		doc, err := encode(before, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "indented") {
			var b bytes.Buffer
			if err := json.Indent(&b, doc, "", " "); err != nil {
				t.Fatal(err)
			}
			doc = b.Bytes()
		}
		v, err := decode(doc)
		if err != nil {
			t.Fatal(err)
		}
		after := mutate(t, v, 3)
		out, err := splice(doc, v, after, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(out)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if diff := cmp.Diff(after, got); diff != "" {
			t.Fatalf("value (-meant +written):\n%s\n%s\n%s", diff, doc, out)
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		again, err := splice(doc, v, clone(v), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if compact(t, again) != compact(t, doc) {
			t.Fatalf("an equal copy was written differently:\n%s\n%s", doc, again)
		}
	})
}

func compact(t *rapid.T, doc []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, doc); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// mutate changes a value somewhere, sharing what it does not change.
func mutate(t *rapid.T, v any, depth int) any {
	switch v := v.(type) {
	case map[string]any:
		m := maps.Clone(v)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			switch rapid.IntRange(0, 3).Draw(t, "member") {
			case 0:
				m[k] = mutate(t, v[k], depth-1)
			case 1:
				delete(m, k)
			}
		}
		if rapid.Bool().Draw(t, "add") {
			m[rapid.StringMatching(`[a-f"]{1,2}`).Draw(t, "key")] = jsonValue(1).Draw(t, "new")
		}
		return m
	case []any:
		s := slices.Clone(v)
		switch rapid.IntRange(0, 4).Draw(t, "list") {
		case 0:
			slices.Reverse(s)
		case 1:
			s = append(s, jsonValue(1).Draw(t, "new"))
		case 2:
			if len(s) > 0 {
				s = slices.Delete(s, 0, 1)
			}
		case 3:
			for i := range s {
				s[i] = mutate(t, s[i], depth-1)
			}
		}
		return s
	default:
		return jsonValue(1).Draw(t, "other")
	}
}

// TestMatchingByTheIndex holds the index, which looks at bytes, against asking
// every rule about the decoded object.
func TestMatchingByTheIndex(t *testing.T) { rapid.Check(t, matchingByTheIndex) }

// FuzzMatch is the same, led by what it covers.
func FuzzMatch(f *testing.F) { f.Fuzz(rapid.MakeFuzz(matchingByTheIndex)) }

func matchingByTheIndex(t *rapid.T) {
	words := rapid.SampledFrom([]string{"", "a", "b", "ab", "abc", "a-b"})
	globs := rapid.SampledFrom([]string{"", "*", "a", "a*", "*b", "?", "a?c", "a*c", "??*", "b"})
	kinds := rapid.SampledFrom([]string{"*", "a", "*/*", "a/b", "a/*", "*/a", "b/ab", "?/a"})
	values := rapid.MapOfN(words, globs, 0, 2)
	var rules []Rule
	for i := range rapid.IntRange(0, 8).Draw(t, "rules") {
		rules = append(rules, Rule{
			Name: fmt.Sprint(i), JQ: ".", Order: rapid.IntRange(0, 2).Draw(t, "order"),
			Match: Match{
				Kinds: rapid.SliceOfN(kinds, 0, 2).Draw(t, "kinds"), Namespaces: rapid.SliceOfN(globs, 0, 2).Draw(t, "namespaces"),
				Names: rapid.SliceOfN(globs, 0, 2).Draw(t, "names"), Labels: values.Draw(t, "labels"), Annotations: values.Draw(t, "annotations"),
			},
		})
	}
	set := &Set{limits: Limits{}.withDefaults(), patterns: &patterns{known: map[string]*pattern{}}}
	for i := range rules {
		set.rules = append(set.rules, compiled{Rule: rules[i], matcher: newMatcher(&rules[i].Match)})
	}
	slices.SortStableFunc(set.rules, func(a, b compiled) int { return a.Order - b.Order })
	meta := map[string]any{"name": words.Draw(t, "name")}
	for _, field := range []string{"labels", "annotations"} {
		if rapid.Bool().Draw(t, field) {
			m := map[string]any{}
			for k, v := range rapid.MapOfN(words, words, 0, 3).Draw(t, field) {
				m[k] = v
			}
			meta[field] = m
		}
	}
	if ns := words.Draw(t, "namespace"); ns != "" {
		meta["namespace"] = ns
	}
	body, err := encode(map[string]any{"kind": "X", "metadata": meta, "spec": map[string]any{"metadata": map[string]any{"name": "wrong"}}}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	kind := pipeline.GroupResource{Group: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group"), Resource: rapid.SampledFrom([]string{"a", "b", "ab"}).Draw(t, "resource")}
	f := facts{kind: kind, body: body}
	var got []string
	x := set.index(kind)
	for at := x.next(set.rules, &f, 0); at >= 0; at = x.next(set.rules, &f, at+1) {
		got = append(got, set.rules[at].Name)
	}
	var want []string
	for _, r := range set.rules {
		naive := naiveMatch(r.Match, kind, meta)
		if naive {
			want = append(want, r.Name)
		}
		if why := r.Match.why(kind, &f); (why == "") != naive {
			t.Fatalf("rule %s: the explanation says %q", r.Name, why)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("matching rules (-naive +index):\n%s", diff)
	}
}

// naiveMatch is the meaning of Match in few words.
func naiveMatch(m Match, kind pipeline.GroupResource, meta map[string]any) bool {
	anyOf := func(patterns []string, match func(string) bool) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, match)
	}
	text := func(key string) string { s, _ := meta[key].(string); return s }
	all := func(want map[string]string, field string) bool {
		have, _ := meta[field].(map[string]any)
		for k, pattern := range want {
			v, ok := have[k].(string)
			if !ok || !naiveGlob(pattern, v) {
				return false
			}
		}
		return true
	}
	return anyOf(m.Kinds, func(p string) bool {
		if p == "*" {
			return true
		}
		parts := strings.Split("/"+p, "/")
		return naiveGlob(parts[len(parts)-2], kind.Group) && naiveGlob(parts[len(parts)-1], kind.Resource)
	}) &&
		anyOf(m.Namespaces, func(p string) bool { return naiveGlob(p, text("namespace")) }) &&
		anyOf(m.Names, func(p string) bool { return naiveGlob(p, text("name")) }) &&
		all(m.Labels, "labels") && all(m.Annotations, "annotations")
}

func naiveGlob(pattern, s string) bool {
	if pattern == "" {
		return s == ""
	}
	switch pattern[0] {
	case '*':
		return naiveGlob(pattern[1:], s) || s != "" && naiveGlob(pattern, s[1:])
	case '?':
		return s != "" && naiveGlob(pattern[1:], s[1:])
	default:
		return s != "" && s[0] == pattern[0] && naiveGlob(pattern[1:], s[1:])
	}
}

// TestDecodeLikeEncodingJSON cuts and bends documents at every place.
func TestDecodeLikeEncodingJSON(t *testing.T) {
	docs := []string{
		`{"a":[1,-2.5,-0,1e5,1E-5,0.1,12345678901234567890,"x\u00e9\ud83d\ude00\ud800\ud800\u0041\n\t\r\b\f\/\\\"é",null,true,false,{},[],{"b":{}}],"c":"d"}`,
		" [ 1 , 2 ] ", "\n{ \"a\" : 1 }\t", `"x"`, `01`, `1.`, `.5`, `-`, `1e`, `1e+`, `+1`, `tru`, `nul`, `"\x"`, `"\u12g4"`, `"\u+123"`, "\"\x01\"", `{"a" 1}`, `{a:1}`, `[1 2]`, `{"a":1,}`, `{,}`, `1 2`, ``,
	}
	for _, doc := range docs {
		for cut := range len(doc) + 1 {
			for _, text := range []string{doc[:cut], doc[:cut] + "x" + doc[cut:], doc[:cut] + "," + doc[cut:]} {
				v, err := decode([]byte(text))
				if valid := json.Valid([]byte(text)); valid != (err == nil) {
					t.Fatalf("%s: valid %v, decode: %v", text, valid, err)
				}
				if err != nil {
					continue
				}
				out, err := encode(v, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				var want, got any
				if err := json.Unmarshal([]byte(text), &want); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(out, &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", text, diff)
				}
			}
		}
	}
}

// TestEncodeWhatRulesMake: numbers as gojq makes them, and what has no JSON.
func TestEncodeWhatRulesMake(t *testing.T) {
	for want, v := range map[string]any{
		"0.5": json.Number(".5"), "1": json.Number("1."), "12345678901234567890000": new(big.Int).Mul(big.NewInt(1234567890123456789), big.NewInt(10000)),
		"-9223372036854775808": math.MinInt, "1e-09": 1e-9,
	} {
		got, err := encode(v, 100)
		if err != nil || string(got) != want {
			t.Errorf("%v is written %s (%v), want %s", v, got, err, want)
		}
	}
	deep := any(1)
	for range maxDepth + 2 {
		deep = []any{deep}
	}
	for name, v := range map[string]any{
		"Struct": struct{}{}, "NaN": math.NaN(), "Infinite": math.Inf(-1), "Deep": deep, "Long": strings.Repeat("x", 200),
		"GreatNumber": json.Number(strings.Repeat("1", maxDigits+1)), "GreatInteger": new(big.Int).Lsh(big.NewInt(1), 5*maxDigits), "Beyond": json.Number("1.e999"),
	} {
		if got, err := encode(v, 100); err == nil {
			t.Errorf("%s is written %s", name, got)
		}
	}
}

// FuzzDecode holds the decoder against encoding/json.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,-0,1e5,"x\u00e9\ud83d\ude00\n",null,true,false,{}]}`, `[]`, ` 1 `, `"\ud800"`, `01`, `{"a":1,"a":2}`, `[1,]`, "\"\x01\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := decode(doc)
		dec := json.NewDecoder(bytes.NewReader(doc))
		dec.UseNumber()
		var want any
		wantErr := dec.Decode(&want)
		if valid := json.Valid(doc); valid != (err == nil) && deepest(string(doc)) < maxDepth && !longNumber(string(doc)) {
			t.Fatalf("decode: %v; valid: %v", err, valid)
		}
		if err != nil || wantErr != nil {
			return
		}
		out, err := encode(got, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		var again any
		dec = json.NewDecoder(bytes.NewReader(out))
		dec.UseNumber()
		if err := dec.Decode(&again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, again) {
			t.Fatalf("want %#v, got %#v", want, again)
		}
		if same, err := splice(doc, got, clone(got), 64<<20); err != nil {
			t.Fatal(err)
		} else if v, err := decode(same); err != nil || !reflect.DeepEqual(v, got) {
			t.Fatalf("spliced to %s: %v", same, err)
		}
	})
}

// longNumber says whether a document may hold a number beyond maxDigits.
func longNumber(doc string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(doc, func(r rune) bool { return !strings.ContainsRune("0123456789.eE+-", r) }), func(s string) bool { return len(s) > maxDigits })
}

// FuzzCompile reads rules documents: no panic, and every problem has a place
// within the document.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"rules:\n- {name: a, jq: .x = foo}", "rules:\n- name: a\n  match: {kinds: [pods], when: .x}\n  jq: |\n    .x\n    | y(", "rules: [{}]", "[", "a: &b [*b]",
		"rules:\n- {name: a, jq: 'import \"dr\" as dr; dr::sleep', params: {x: {fromSecret: {name: a}}}}", "rules:\n- {name: a, jq: \"\\\"\\\\(1\"}", "\t", "rules:\n- ? {}\n", "\r?\n", "\r\r8",
	} {
		f.Add(s, "def f: .;")
	}
	f.Fuzz(func(t *testing.T, rules, module string) {
		docs := []Document{{ConfigMap: "c", Key: "k", Text: rules}, {ConfigMap: "c", Key: "m.jq", Text: module}}
		set, err := Compile(docs, Options{})
		if (set == nil) != (err != nil) {
			t.Fatalf("set %v, error %v", set, err)
		}
		if err == nil {
			return
		}
		problems, ok := err.(Problems) //nolint:errorlint // exactly this type is promised
		if !ok || len(problems) == 0 {
			t.Fatalf("error is %T", err)
		}
		for _, p := range problems {
			lines := len(linesOf(rules))
			if p.Key == "m.jq" {
				lines = strings.Count(module, "\n") + 1
			}
			if p.Line > lines+1 || p.Message == "" || p.Error() == "" || p.Caret > len([]rune(p.Excerpt)) {
				t.Fatalf("problem %#v", p)
			}
		}
	})
}

// FuzzRun runs any program over any object: it ends, and what it returns is
// within the limits and readable.
func FuzzRun(f *testing.F) {
	object := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":[1,"b",{"c":null}]}}`
	for _, s := range []string{
		`.data.a[0] = 2`, `.data |= map_values("x" * 3)`, `def f: f; f`, `[range(1e9)]`, `reduce range(100) as $i (.; .data.a += .data.a)`, `.data[.data.a[1]] = 1e400`,
		`walk(if type == "number" then . * 1e308 * 10 else . end)`, `., (.metadata.name += "1")`, `del(..)`, `.. |= empty`, `try error({a: .}) catch .`, `"\(.)" | fromjson`,
		`.data.a |= (. * 5)?`, `limit(3; repeat(.))`, `.data.x[65535] = 1`, `import "dr" as dr; dr::sleep`, `label $f | ., break $f`, `.data.a | combinations(3)`,
	} {
		f.Add(s, object)
	}
	f.Fuzz(func(t *testing.T, program, object string) {
		limits := Limits{Time: 5e6, Outputs: 8, Bytes: 1 << 16, Memory: 1 << 20}
		set, err := Compile(nil, Options{Rules: []Rule{{Name: "fuzz", JQ: program}}, Limits: limits})
		if err != nil {
			return
		}
		r, err := set.Run(t.Context(), Env{Protected: func(string) bool { return true }}, Object{Kind: pipeline.GroupResource{Resource: "configmaps"}, Body: []byte(object)})
		if err != nil {
			if class := pipeline.ClassOf(err); class != pipeline.Invalid && class != pipeline.Malformed {
				t.Fatalf("error %v has class %v", err, class)
			}
			return
		}
		total := 0
		for _, o := range r.Objects {
			total += len(o.Body)
			if _, err := decode(o.Body); err != nil {
				t.Fatalf("%s: %v", o.Body, err)
			}
		}
		if len(r.Objects) > limits.Outputs || total > limits.Bytes {
			t.Fatalf("%d objects of %d bytes", len(r.Objects), total)
		}
	})
}
