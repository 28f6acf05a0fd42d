package kube_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestApplyTellsWhatItDid(t *testing.T) {
	c := kubetest.Shared(t).Client()
	k, ns := kindOf(t, c, "", "configmaps"), namespace(t, c)
	body := func(text string) []byte {
		return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"l":"1"},"annotations":{"a/b":"q\"é"}},"data":{"text":%q}}`, text)
	}
	first, created, err := c.Apply(t.Context(), k, ns, "x", body("one"))
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	want := kube.Meta{
		UID: first.UID, Version: first.Version, Namespace: ns, Name: "x",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a/b": `q"é`}, Fields: first.Fields,
	}
	if diff := cmp.Diff(want, first); diff != "" || first.UID == "" || first.Version == "" || first.Fields == "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, created, err := c.Apply(t.Context(), k, ns, "x", body("one"))
	if err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("applying the same changed the object (-before +after):\n%s", diff)
	}
	changed, created, err := c.Apply(t.Context(), k, ns, "x", body("two"))
	if err != nil || created || changed.Version == first.Version || changed.UID != first.UID {
		t.Errorf("applying a change: created %v, %v, %+v", created, err, changed)
	}
	if changed.Fields != first.Fields {
		t.Error("Fields changed though the same fields are applied")
	}
	o, err := c.Get(t.Context(), k, ns, "x")
	if err != nil {
		t.Fatal(err)
	}
	got, err := kube.MetaOf(o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(changed, got); diff != "" {
		t.Errorf("what Apply returns is not what Get shows (-apply +get):\n%s", diff)
	}
}

func TestFieldsTellWhenAnotherTakesOurs(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	k, ns := kindOf(t, c, "", "configmaps"), namespace(t, c)
	m := put(t, c, ns, "x", "one")
	// Somebody else's change of a field of ours.
	if _, err := cluster.Kubectl("patch", "configmap", "x", "-n", ns, "--type=merge", "-p", `{"data":{"text":"theirs"}}`); err != nil {
		t.Fatal(err)
	}
	fields := func() string {
		t.Helper()
		o, err := c.Get(t.Context(), k, ns, "x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := kube.MetaOf(o)
		if err != nil {
			t.Fatal(err)
		}
		return got.Fields
	}
	if fields() == m.Fields {
		t.Error("Fields is the same though another manager took a field")
	}
	if again := put(t, c, ns, "x", "one"); again.Fields != m.Fields {
		t.Error("Fields is not the same after taking the field back")
	}
	// Somebody else's field beside ours is none of our business.
	if _, err := cluster.Kubectl("patch", "configmap", "x", "-n", ns, "--type=merge", "-p", `{"data":{"other":"theirs"}}`); err != nil {
		t.Fatal(err)
	}
	if fields() != m.Fields {
		t.Error("Fields changed by a field that is not ours")
	}
}

func TestMetaOf(t *testing.T) {
	manager := func(manager, operation, subresource, fields string) string {
		return fmt.Sprintf(`{"manager":%q,"operation":%q,"subresource":%q,"fieldsV1":%s}`, manager, operation, subresource, fields)
	}
	with := func(managers ...string) kube.Object {
		return kube.Object{Raw: []byte(`{"metadata":{"name":"x","managedFields":[` + strings.Join(managers, ",") + `]}}`)}
	}
	meta := func(o kube.Object) kube.Meta {
		t.Helper()
		m, err := kube.MetaOf(o)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ours := meta(with(manager(v1alpha1.FieldManager, "Apply", "", `{"f:data":{}}`))).Fields
	if ours == "" {
		t.Fatal("no hash of our fields")
	}
	for _, tt := range []struct {
		name string
		o    kube.Object
		same bool
		want string
	}{
		{name: "beside others", o: with(manager("other", "Apply", "", `{"f:spec":{}}`), manager(v1alpha1.FieldManager, "Apply", "", `{"f:data":{}}`)), want: ours},
		{name: "another manager", o: with(manager("other", "Apply", "", `{"f:data":{}}`))},
		{name: "an update", o: with(manager(v1alpha1.FieldManager, "Update", "", `{"f:data":{}}`))},
		{name: "a subresource", o: with(manager(v1alpha1.FieldManager, "Apply", "status", `{"f:data":{}}`))},
		{name: "none", o: with()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := meta(tt.o).Fields; got != tt.want {
				t.Errorf("Fields %q, want %q", got, tt.want)
			}
		})
	}
	deleting := meta(kube.Object{Raw: []byte(`{"metadata":{"name":"x","generation":7,"deletionTimestamp":"2026-01-01T00:00:00Z"}}`)})
	if !deleting.Deleting || deleting.Generation != 7 {
		t.Errorf("got %+v", deleting)
	}
	for _, raw := range []string{"", "{}", "[]", `{"metadata":1}`} {
		if _, err := kube.MetaOf(kube.Object{Raw: []byte(raw)}); pipeline.ClassOf(err) != pipeline.Malformed {
			t.Errorf("%q: %v, want malformed", raw, err)
		}
	}
}

func TestUnusualNames(t *testing.T) {
	c := kubetest.Shared(t).Client()
	k := kindOf(t, c, "rbac.authorization.k8s.io", "clusterroles")
	for _, name := range []string{"a:b", "a*b", "a b", "a?b=c", "a#b", "ä:ö", "a+b&c", strings.Repeat("n", 253)} {
		t.Run(name[:3], func(t *testing.T) {
			body := fmt.Appendf(nil, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":%q}}`, name)
			m, created, err := c.Apply(t.Context(), k, "", name, body)
			if err != nil || !created || m.Name != name {
				t.Fatalf("created %v as %q: %v", created, m.Name, err)
			}
			if o, err := c.Get(t.Context(), k, "", name); err != nil || o.Name != name {
				t.Errorf("got %q: %v", o.Name, err)
			}
			if err := c.Delete(t.Context(), k, "", name, m.UID); err != nil {
				t.Error(err)
			}
			if _, err := c.Get(t.Context(), k, "", name); !kube.IsNotFound(err) {
				t.Errorf("after the deletion: %v", err)
			}
		})
	}
}
