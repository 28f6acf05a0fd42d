package transform_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/transform"
)

// minCases keeps the collection from shrinking unnoticed.
const minCases = 150

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

func readTestdata(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join("testdata", "objects", filepath.Clean("/"+name)))
}
