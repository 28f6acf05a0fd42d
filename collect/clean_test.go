package collect

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

var update = flag.Bool("update", false, "write what is found into testdata/clean, to be reviewed")

// cleanCase is a file of testdata/clean: an object as a real cluster shows it, whether it is
// collected, and what of it travels.
type cleanCase struct {
	path    string
	archive *txtar.Archive
	kind    kube.Kind
	config  Config
	object  []byte
}

func cleanCases(t testing.TB) map[string]cleanCase {
	t.Helper()
	paths, err := filepath.Glob("testdata/clean/*.txtar")
	if err != nil || len(paths) < 40 {
		t.Fatalf("only %d cases: %v", len(paths), err)
	}
	cases := map[string]cleanCase{}
	for _, path := range paths {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := cleanCase{path: path, archive: a, object: compact(t, path, part(a, "in.json")), config: Default()}
		if c.kind, err = parseKind(string(part(a, "kind"))); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if text := part(a, "config"); text != nil {
			if c.config, err = ParseConfig(text); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		cases[strings.TrimSuffix(filepath.Base(path), ".txtar")] = c
	}
	return cases
}

func compact(t testing.TB, path string, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatalf("%s: in.json: %v", path, err)
	}
	return b.Bytes()
}

func part(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

// parseKind reads "apps/v1 Deployment apps/deployments namespaced status".
func parseKind(text string) (kube.Kind, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return kube.Kind{}, fmt.Errorf("kind %q", text)
	}
	k := kube.Kind{Kind: words[1], Version: words[0][strings.LastIndexByte(words[0], '/')+1:], Namespaced: words[3] == "namespaced"}
	p, err := parseKindPattern(words[2])
	k.GroupResource = pipeline.GroupResource{Group: p.group, Resource: p.resource}
	k.StatusSubresource = len(words) > 4 && words[4] == "status"
	return k, err
}

// servedKinds are what the cluster of the cases serves beside.
var servedKinds = []kube.Kind{
	{GroupResource: kindOf("example.com", "gadgets"), Version: "v1", Kind: "Gadget"},
	{GroupResource: kindOf("velero.io", "backups"), Version: "v1", Kind: "Backup"},
}

func TestSelectAndClean(t *testing.T) {
	for name, tc := range cleanCases(t) {
		t.Run(name, func(t *testing.T) {
			selector, err := NewSelector(tc.config, "dr-syncer")
			if err != nil {
				t.Fatal(err)
			}
			cleaner, err := NewCleaner(tc.config)
			if err != nil {
				t.Fatal(err)
			}
			verdict, err := selector.WithKinds(servedKinds).Decide(tc.kind, tc.object)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: tc.archive.Comment}
			for _, name := range []string{"kind", "config", "in.json"} {
				if data := part(tc.archive, name); data != nil {
					got.Files = append(got.Files, txtar.File{Name: name, Data: data})
				}
			}
			text := map[Action]string{Collect: "collect", Skip: "skip", Ignore: "ignore", Freeze: "freeze"}[verdict.Action]
			if verdict.Reason != "" {
				text += ": " + verdict.Reason
			}
			got.Files = append(got.Files, txtar.File{Name: "verdict", Data: []byte(text + "\n")})
			if verdict.Action == Collect {
				clean, err := cleaner.Clean(tc.kind, tc.object)
				if err != nil {
					t.Fatal(err)
				}
				var pretty bytes.Buffer
				if err := json.Indent(&pretty, clean, "", " "); err != nil {
					t.Fatal(err)
				}
				got.Files = append(got.Files, txtar.File{Name: "want.json", Data: append(pretty.Bytes(), '\n')})
			}
			if *update {
				if err := os.WriteFile(tc.path, txtar.Format(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(tc.archive)), string(txtar.Format(got))); diff != "" {
				t.Errorf("(-want +got; -update writes it):\n%s", diff)
			}
		})
	}
}

func TestCleanRefusesWhatIsNoObject(t *testing.T) {
	cleaner, err := NewCleaner(Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "null", "[]", "7", `{"metadata":1}`, `{"spec":{}}`, `{"metadata":{"uid":"x"}}`, `{"metadata":{"name":"a"}`, `{"metadata":{"name":"a"}}x`} {
		_, err := cleaner.Clean(configMaps, []byte(text))
		if !errors.Is(err, errNotObject) || pipeline.ClassOf(err) != pipeline.Malformed {
			t.Errorf("%q: %v, want that it is malformed", text, err)
		}
	}
}

// FuzzClean: whatever comes, cleaning does not panic, leaves valid JSON, and leaves nothing to
// be cleaned.
func FuzzClean(f *testing.F) {
	kinds := map[string]kube.Kind{}
	for _, tc := range cleanCases(f) {
		kinds[tc.kind.GroupResource.String()] = tc.kind
		f.Add(tc.kind.GroupResource.String(), tc.object)
	}
	cleaner, err := NewCleaner(Default())
	if err != nil {
		f.Fatal(err)
	}
	selector, err := NewSelector(Default(), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind string, object []byte) {
		k, known := kinds[kind]
		if !known {
			k = configMaps
		}
		once, err := cleaner.Clean(k, object)
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("not JSON: %s", once)
		}
		twice, err := cleaner.Clean(k, once)
		if err != nil {
			t.Fatalf("cannot clean again: %v: %s", err, once)
		}
		if !bytes.Equal(once, twice) {
			t.Fatalf("cleaning again changes:\n%s\n%s", once, twice)
		}
		if _, err := selector.Decide(k, object); err != nil {
			t.Fatalf("cannot decide about what can be cleaned: %v", err)
		}
	})
}

func BenchmarkClean(b *testing.B) {
	tc := cleanCases(b)["deployment"]
	object := tc.object
	// 4 KiB, as a Deployment of some size has.
	filler := fmt.Sprintf(`"env":[{"name":"A","value":%q}],`, strings.Repeat("x", max(0, 4096-len(object)-40)))
	object = bytes.Replace(object, []byte(`"image":`), []byte(filler+`"image":`), 1)
	cleaner, err := NewCleaner(Default())
	if err != nil {
		b.Fatal(err)
	}
	rules := cleaner.rulesOf(tc.kind)
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		v, err := look(object)
		if err != nil {
			b.Fatal(err)
		}
		buf = rules.clean(buf[:0], v)
	}
}
