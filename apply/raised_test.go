package apply

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestSetsOf(t *testing.T) {
	for claim, want := range map[string][]string{
		"data-web-0":          {"web"},
		"my-data-web-12":      {"data-web", "web"},
		"data-web":            nil,
		"data-web-01":         nil,
		"data-0":              nil,
		"data":                nil,
		"data-web--1":         {"web-", ""},
		"data-web-9999999999": nil,
	} {
		if diff := cmp.Diff(want, setsOf(claim)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", claim, diff)
		}
	}
}

func TestRaised(t *testing.T) {
	made := `{"manager":"kube-controller-manager","operation":"Update","fieldsV1":{"f:spec":{"f:accessModes":{}}}}`
	bound := `{"manager":"kube-controller-manager","operation":"Update","fieldsV1":{"f:spec":{"f:volumeName":{}}}}`
	user := `{"manager":"kubectl","operation":"Update","fieldsV1":{"f:spec":{"f:accessModes":{}}}}`
	cases := map[string]struct {
		kind   pipeline.GroupResource
		fields string
		want   string
	}{
		"made by the controller":        {claims, made, "c1"},
		"and bound by it":               {claims, made + "," + bound, "c1"},
		"bound by it, made by a user":   {claims, user + "," + bound, ""},
		"made by it, changed by a user": {claims, made + "," + user, ""},
		"changed by a user, made by it": {claims, user + "," + made, ""},
		"nobody's":                      {claims, "", ""},
		"another kind":                  {configMaps, made, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := kube.Object{UID: "c1", Raw: fmt.Appendf(nil, `{"metadata":{"managedFields":[%s]}}`, c.fields)}
			if got := raised(c.kind, o); got != c.want {
				t.Errorf("raised is %q, want %q", got, c.want)
			}
		})
	}
}

// TestClaimsOfStatefulSets needs the controller manager: it makes the claims.
func TestClaimsOfStatefulSets(t *testing.T) {
	s := on(t, kubetest.Start(t, kubetest.WithControllers()))
	a := s.applier("claims")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	set := func(name string) pipeline.Record {
		return s.put("statefulsets", "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: "+name+", namespace: NS}, spec: {serviceName: web, selector: {matchLabels: {app: "+name+"}}, "+
			"template: {metadata: {labels: {app: "+name+"}}, spec: {containers: [{name: web, image: web}]}}, "+
			"volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}")
	}
	claim := func(name string) pipeline.Record {
		return s.put("persistentvolumeclaims", "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: "+name+", namespace: NS, labels: {from: source}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}")
	}
	s.apply(a, set("web"), pipeline.ResultCreated)
	if err := s.cluster.Apply(string(set("theirs").Body)); err != nil {
		t.Fatal(err)
	}
	shelf, err := s.inventory.shelf(t.Context(), claims)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data-web-0", "data-theirs-0"} {
		eventually(t, "the controller has made "+name, func() bool { return shelf.look(key{s.ns, name}).raised })
	}
	uid := shelf.look(key{s.ns, "data-web-0"}).uid
	mine := claim("data-web-0")
	s.apply(a, mine, pipeline.ResultConfigured)
	s.apply(a, mine, pipeline.ResultUnchanged)
	got := s.kubectl("get", "pvc", "-n", s.ns, "data-web-0", "-o", "jsonpath={.metadata.uid} {.metadata.labels.from}")
	if want := uid + " source"; got != want {
		t.Errorf("the claim is %q, want %q", got, want)
	}
	s.fail(a, claim("data-theirs-0"), pipeline.Foreign, "not a copy")

	if err := s.cluster.Apply(string(claim("data-web-1").Body)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch shows the claim that somebody made", func() bool { return shelf.look(key{s.ns, "data-web-1"}).holder == foreign })
	s.fail(a, claim("data-web-1"), pipeline.Foreign, "not a copy")
}
