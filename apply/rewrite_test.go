package apply

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

var update = flag.Bool("update", false, "rewrite the files of expected results")

// rewriteCase is one object on its way.
type rewriteCase struct {
	Name       string `json:"name"`
	Reason     string `json:"reason,omitempty"`
	Kind       string `json:"kind"` // group/resource
	APIVersion string `json:"apiVersion,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Object     string `json:"object"`
	Body       string `json:"body"`
	Want       string `json:"want"`
	Marked     string `json:"marked"`
}

// placing is a rewriter for the places that a Selector gives.
type placing struct {
	rewriter
	place func(pipeline.Ref) (namespace, name string)
}

func (p placing) desire(r pipeline.Record, body []byte) (desired, error) {
	namespace, name := p.place(r.Ref)
	return p.rewriter.desire(r, body, key{namespace, name})
}

func testRewriter() placing {
	s := &Selector{
		names: []string{"shop", "team-*"}, labeled: map[string]bool{},
		mapping: v1alpha1.NamespaceMapping{Names: map[string]string{"shop": "store"}, Prefix: "dr-"},
	}
	return placing{rewriter{mark: "dr.all", mapNamespace: s.MapNamespace}, s.place}
}

func (c rewriteCase) record() pipeline.Record {
	group, resource := "", c.Kind
	if g, r, ok := strings.Cut(c.Kind, "/"); ok {
		group, resource = g, r
	}
	version := c.APIVersion
	if version == "" {
		version = "v1"
	}
	return pipeline.Record{
		Event: pipeline.Event{
			Ref:        pipeline.Ref{Site: "prod", Group: group, Resource: resource, Namespace: c.Namespace, Name: c.Object},
			UID:        "u-1",
			APIVersion: version, Kind: "Thing",
		},
		Position: pipeline.Position{Epoch: "E", Seq: 7},
	}
}

func TestRewrite(t *testing.T) {
	const file = "testdata/rewrite.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []rewriteCase
	if err := yaml.UnmarshalStrict(text, &cases); err != nil {
		t.Fatal(err)
	}
	w := testRewriter()
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			r := c.record()
			d, err := w.desire(r, []byte(c.Body))
			if err != nil {
				t.Fatal(err)
			}
			marked := d.marked(originOf(r), binding{uid: "u-copy"})
			if *update {
				cases[i].Want, cases[i].Marked = string(d.body), string(marked)
				return
			}
			if diff := cmp.Diff(c.Want, string(d.body)); diff != "" {
				t.Errorf("desired (-want +got), %s:\n%s", c.Reason, diff)
			}
			if diff := cmp.Diff(c.Marked, string(marked)); diff != "" {
				t.Errorf("marked (-want +got), %s:\n%s", c.Reason, diff)
			}
			if d.digest != pipeline.DigestOf(d.body) {
				t.Error("the digest is not that of the body")
			}
			again, err := w.desire(r, []byte(c.Body))
			if err != nil || again.digest != d.digest {
				t.Errorf("a second time the digest is %s, %v; want %s", again.digest, err, d.digest)
			}
		})
	}
	if *update {
		out, err := yaml.Marshal(cases)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRewriteRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":         ``,
		"no object":       `[]`,
		"no metadata":     `{"kind":"Thing"}`,
		"text metadata":   `{"metadata":"x"}`,
		"cut short":       `{"metadata":{"name":"a"},"data":{"x":`,
		"trailing rubish": `{"metadata":{"name":"a"}} x`,
	} {
		t.Run(name, func(t *testing.T) {
			r := rewriteCase{Kind: "configmaps", Object: "a"}.record()
			if d, err := testRewriter().desire(r, []byte(body)); err == nil {
				t.Errorf("desire(%q) = %s, want an error", body, d.body)
			}
		})
	}
}

// FuzzRewrite checks on any JSON object that the copy is JSON, carries the
// marks, differs from the source in metadata only (but for kinds with
// references), and that the marks change nothing else.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop","labels":{"a":"b"}},"data":{"x":"1e400"}}`))
	f.Add([]byte(`{"metadata":{"annotations":{},"labels":null},"n":12345678901234567890.10}`))
	f.Add([]byte(" {\n\"metadata\" : { \"name\":\"\\u0061\" , \"annotations\" : null } }\n"))
	f.Add([]byte(`{"metadata":{"annotations":{"dr-syncer.io/origin":"x"}},"subjects":[{"kind":"ServiceAccount","namespace":"shop"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, kind := range []string{"configmaps", "namespaces", "rbac.authorization.k8s.io/rolebindings"} {
			r := rewriteCase{Kind: kind, Namespace: "shop", Object: "shop"}.record()
			d, err := testRewriter().desire(r, body)
			if err != nil {
				return
			}
			if !gjson.ValidBytes(d.body) {
				t.Fatalf("%s: not JSON: %s", kind, d.body)
			}
			marked := d.marked(originOf(r), binding{uid: "u-copy"})
			if !gjson.ValidBytes(marked) {
				t.Fatalf("%s: not JSON with marks: %s", kind, marked)
			}
			if duplicates(body) {
				return // what such an object means is anybody's guess
			}
			var in, out map[string]any
			if decode(body, &in) != nil || decode(marked, &out) != nil {
				return // deeper than encoding/json goes
			}
			meta, ok := out["metadata"].(map[string]any)
			if !ok || meta["uid"] != "u-copy" {
				t.Fatalf("%s: metadata is not as wanted: %s", kind, marked)
			}
			if l, ok := meta["labels"].(map[string]any); !ok || l[v1alpha1.LabelReplication] != "dr.all" {
				t.Fatalf("%s: no mark: %s", kind, marked)
			}
			if a, ok := meta["annotations"].(map[string]any); !ok || a[v1alpha1.AnnotationDigest] != d.digest.String() {
				t.Fatalf("%s: no digest: %s", kind, marked)
			}
			if kind != "configmaps" {
				continue
			}
			delete(in, "metadata")
			delete(out, "metadata")
			if in["apiVersion"] == nil {
				delete(out, "apiVersion")
				delete(in, "apiVersion")
			}
			if in["kind"] == nil {
				delete(out, "kind")
				delete(in, "kind")
			}
			if diff := cmp.Diff(in, out); diff != "" {
				t.Fatalf("changed outside of metadata (-source +copy):\n%s", diff)
			}
		}
	})
}

func decode(text []byte, to *map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(to)
}

// duplicates reports whether some object in text has two members of one name.
func duplicates(text []byte) bool {
	found := false
	var walk func(v gjson.Result)
	walk = func(v gjson.Result) {
		var names []string
		v.ForEach(func(k, child gjson.Result) bool {
			if v.IsObject() {
				found = found || slices.Contains(names, k.String())
				names = append(names, k.String())
			}
			if child.IsObject() || child.IsArray() {
				walk(child)
			}
			return !found
		})
	}
	walk(gjson.ParseBytes(text))
	return found
}
