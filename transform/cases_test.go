package transform_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/transform"
)

// minCases keeps the collection from shrinking unnoticed.
const minCases = 300

// TestCases runs testdata/*.yaml, the way `drsync transform test` does. With
// -update it writes what came out into the files, for the diff to be reviewed.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		results, err := transform.RunTests(t.Context(), string(text), readTestdata)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		total += len(results)
		seen := map[string]bool{}
		for _, r := range results {
			if seen[r.Name] || r.Name == "" {
				t.Errorf("%s:%d: the name %q is empty or there twice", file, r.Line, r.Name)
			}
			seen[r.Name] = true
			t.Run(filepath.Base(file)+"/"+r.Name, func(t *testing.T) {
				if r.Problem != "" {
					t.Errorf("%s:%d: %s", file, r.Line, r.Problem)
				}
				if diff := cmp.Diff(r.Want, r.Got); diff != "" && !*update {
					t.Errorf("%s:%d: (-want +got):\n%s", file, r.Line, diff)
				}
			})
		}
		if updated := transform.UpdateTests(string(text), results); !*update && !t.Failed() && updated != string(text) {
			t.Errorf("%s is not as -update would write it", file)
		}
		if *update {
			if err := os.WriteFile(file, []byte(transform.UpdateTests(string(text), results)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if total < minCases {
		t.Errorf("%d cases, want %d at least", total, minCases)
	}
}

func TestUpdateTests(t *testing.T) {
	file := "name: a\nwant: old\njq: .x = 1 # stays\ninput: &x\n  metadata: {name: x}\n---\n# nothing here\n---\nname: b\njq: empty\njson: '{}'\nwant: |-\n  a\n\n  b\n"
	if _, err := transform.RunTests(t.Context(), "name: a\nnome: b", readTestdata); err == nil {
		t.Error("an unknown field was accepted")
	}
	if _, err := transform.RunTests(t.Context(), "name: a\n---\nname: [", readTestdata); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v, want one about line 3", err)
	}
	results, err := transform.RunTests(t.Context(), file, readTestdata)
	if err != nil {
		t.Fatal(err)
	}
	want := "name: a\nwant: |-\n  + .x: 1\njq: .x = 1 # stays\ninput: &x\n  metadata: {name: x}\n---\n# nothing here\n---\nname: b\njq: empty\njson: '{}'\nwant: |-\n  dropped\n"
	if diff := cmp.Diff(want, transform.UpdateTests(file, results)); diff != "" {
		t.Errorf("updated file (-want +got):\n%s", diff)
	}
}

func TestRunTestsFails(t *testing.T) {
	const object = "\njq: .x = 1.0\njson: '{\"metadata\":{\"name\":\"a\"}}'\n"
	for name, tc := range map[string]struct{ text, problem string }{
		"Result":       {object + `result: '{"metadata":{"name":"a"},"x":1.0}'`, "byte for byte"},
		"Objects":      {object + "objects: [{metadata: {name: b}, x: 1}]", "object 1 is not as expected: ~ .metadata.name"},
		"Count":        {object + "objects: []", "1 objects came out, not 0"},
		"Error":        {"\njq: error(\"no\")\njson: '{}'\nobjects: []", "no"},
		"NoFile":       {"\njq: .\nobject: absent.yaml", "read object"},
		"BadPatch":     {"\njq: .\njson: '{}'\npatch: '.x = ='", "parse patch"},
		"FailingPatch": {"\njq: .\njson: '{}'\npatch: error", "patch object"},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := transform.RunTests(t.Context(), "name: x"+tc.text, readTestdata)
			if err != nil || len(results) != 1 {
				t.Fatal(results, err)
			}
			if r := results[0]; r.OK() || !strings.Contains(r.Problem, tc.problem) {
				t.Errorf("problem %q, want %q", r.Problem, tc.problem)
			}
		})
	}
	passing := object + "result: '{\"metadata\":{\"name\":\"a\"},\"x\":1}'\nobjects: [{x: 1.0, metadata: {name: a}}]"
	results, err := transform.RunTests(t.Context(), "name: x"+passing, readTestdata)
	if err != nil || !results[0].OK() {
		t.Errorf("%v, %v", results, err)
	}
}

// TestDocumentation runs what docs/transforms.md shows.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/transforms.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, tests := 0, 0
	for i, block := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if strings.HasPrefix(block, "spec:") {
			continue // of a Replication: control looks at it
		}
		if strings.HasPrefix(block, "rules:") {
			rules++
			_, err := transform.Compile([]transform.Document{{ConfigMap: "docs", Key: "block", Text: block}}, transform.Options{Lookup: found{}})
			if err != nil {
				t.Errorf("block %d: %v", i, err)
			}
			continue
		}
		results, err := transform.RunTests(t.Context(), block, readTestdata)
		if err != nil {
			t.Errorf("block %d: %v", i, err)
		}
		for _, r := range results {
			tests++
			if !r.OK() {
				t.Errorf("block %d: want %s, got %s %s", i, r.Want, r.Got, r.Problem)
			}
		}
	}
	if rules == 0 || tests == 0 {
		t.Errorf("%d documents and %d tests found", rules, tests)
	}
	for _, f := range regexp.MustCompile(`(?m)^def ([a-z]\w*)`).FindAllStringSubmatch(transform.Library(), -1) {
		if !strings.Contains(string(text), "`"+f[1]) {
			t.Errorf("the function %s of the library is not documented", f[1])
		}
	}
}

// found resolves every reference.
type found struct{}

func (found) Lookup(transform.Reference) (string, error) { return "value", nil }

func readTestdata(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join("testdata", "objects", filepath.Clean("/"+name)))
}
