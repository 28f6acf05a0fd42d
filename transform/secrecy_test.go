package transform

import (
	"fmt"
	"strings"
	"testing"

	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestErrorsHoldNothingOfTheObject has every function and operator of gojq fail on values
// that look like gojq's own messages, and looks for those in the errors.
func TestErrorsHoldNothingOfTheObject(t *testing.T) {
	const body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"y"},"data":{` +
		`"text":"by: null hunter and: number (424242) cannot be applied to: string (hunter","broken":"hunter\n2(\"x","number":-424242.5,` +
		`"object":{"hunter\"q":"hunter) and: string (hunter"},"list":["hunter(",424242,[424242,null,{}]]}}`
	values := []string{".data.text", ".data.broken", ".data.number", ".data.object", ".data.list"}
	var programs []string
	add := func(format string, args ...any) { programs = append(programs, fmt.Sprintf(format, args...)) }
	for _, name := range builtins(t) {
		name, arguments, _ := strings.Cut(name, "/")
		switch name {
		case "error": // the rule's own words
			continue
		case "range", "recurse", "repeat", "until", "while", "combinations": // without end
			continue
		}
		if refusal(name) != "" || strings.HasPrefix(name, "_") {
			continue
		}
		for _, in := range values {
			for _, arg := range values {
				switch arguments {
				case "0":
					add("%s | %s", in, name)
				case "1":
					add("(%s) as $a | %s | %s($a)", arg, in, name)
				case "2":
					add("(%s) as $a | %s | %s($a; $a)", arg, in, name)
					add("(%s) as $a | %s | %s(.; $a)", arg, in, name)
				default:
					add("(%s) as $a | %s | %s($a; $a; $a)", arg, in, name)
				}
			}
		}
	}
	for _, in := range values {
		for _, format := range formats {
			add("%s | %s", in, format)
		}
		for _, arg := range values {
			for _, form := range []string{
				". + $a", ". - $a", ". * $a", ". / $a", ". / 0", ". %% $a", ". %% 0", "-.", ".[]", ".[$a]", ".[$a:$a]", ".[$a] = 1", ".[$a:$a] = 1", ". += $a",
				"del(.[$a])", "{($a): 1}", ". as {x: [$x]} | $x", "path($a)", "(tojson) |= 1", "limit($a; .)", "range($a)", "splits(.; $a)",
			} {
				add("(%s) as $a | %s | "+form, arg, in)
			}
		}
	}
	failed := 0
	for _, jq := range programs {
		set, err := Compile(nil, Options{Rules: []Rule{{Name: "a", JQ: jq}}})
		if err != nil {
			t.Fatalf("%s: %v", jq, err)
		}
		_, err = set.Run(t.Context(), Env{}, Object{Kind: pipeline.GroupResource{Resource: "configmaps"}, Body: []byte(body)})
		if err == nil {
			continue
		}
		failed++
		if text := err.Error(); strings.Contains(text, "hunter") || strings.Contains(text, "424242") {
			t.Errorf("%s: %s", jq, text)
		}
	}
	if failed < len(programs)/2 {
		t.Errorf("only %d of %d programs have failed", failed, len(programs))
	}
}

// builtins are gojq's functions, as name/arity.
func builtins(t *testing.T) []string {
	t.Helper()
	query, err := gojq.Parse("builtins")
	if err != nil {
		t.Fatal(err)
	}
	out, _ := query.Run(nil).Next()
	list, ok := out.([]any)
	if !ok {
		t.Fatalf("builtins are %v", out)
	}
	names := make([]string, len(list))
	for i, name := range list {
		names[i] = fmt.Sprint(name)
	}
	return names
}

// TestPrefixes holds the count against adding up place by place.
func TestPrefixes(t *testing.T) {
	for _, c := range [][2]string{{"", "a"}, {"aaaa", "aa"}, {"abababa", "aba"}, {"xyz", "abc"}, {"abcabd", "abd"}, {"aaab", "aaab"}, {"aa", "aaaa"}, {"ab", ""}} {
		s, part := c[0], c[1]
		want := 0
		for i := range len(s) {
			for n := 0; n < len(part) && i+n < len(s) && s[i+n] == part[n]; n++ {
				want++
			}
		}
		if got := prefixes(s, part, 1<<20); got != want {
			t.Errorf("prefixes(%q, %q) = %d, want %d", s, part, got, want)
		}
	}
}
