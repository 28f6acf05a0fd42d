package transform_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/transform"
)

func TestReadObjects(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		// want are "kind body" lines, or a part of the error.
		want []string
		err  string
	}{
		"Nothing": {"", nil, ""},
		"YAML": {
			"# one\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\nn: 9007199254740993\nf: 1.50\n---\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: b\n",
			[]string{
				`secrets {"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"n":9007199254740993,"f":1.50}`,
				`networking.k8s.io/ingresses {"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"b"}}`,
			},
			"",
		},
		"JSON": {
			`{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{"name":"p"},"n":1e400}` + "\n{\"kind\": \"Gateway\",\n\"apiVersion\":\"g/v1\",\"metadata\":{\"name\":\"g\"}}",
			[]string{
				`networking.k8s.io/networkpolicies {"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{"name":"p"},"n":1e400}`,
				"g/gateways {\"kind\": \"Gateway\",\n\"apiVersion\":\"g/v1\",\"metadata\":{\"name\":\"g\"}}",
			},
			"",
		},
		"List": {
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n",
			[]string{
				`pods {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`,
				`pods {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`,
			},
			"",
		},
		"NoKind":     {"apiVersion: v1\nmetadata: {name: a}", nil, "document 1 has no kind"},
		"NoName":     {"{\"apiVersion\":\"v1\",\"kind\":\"Pod\"}", nil, "document 1 has no metadata.name"},
		"Text":       {"hello", nil, "document 1 has no apiVersion"},
		"BrokenYAML": {"apiVersion: v1\nkind: [", nil, "line 2"},
		"BrokenJSON": {"{\n\"a\":1,,}", nil, "line"},
		"Alias":      {"a: &x 1\nb: *x\n", nil, "aliases are not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := transform.ReadObjects(tc.text)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q in it", err, tc.err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.Kind.String()+" "+string(o.Body))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzReadObjects(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n{}")
	f.Add(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		objects, err := transform.ReadObjects(text)
		if err != nil {
			return
		}
		for _, o := range objects {
			if !json.Valid(o.Body) || transform.TargetOf(o).Name == "" {
				t.Errorf("read an object that is none: %s", o.Body)
			}
		}
	})
}
