package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestBehaviour runs what users count on, each in namespaces of its own,
// between one pair of clusters.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	w := start(t, world.Options{})
	t.Run("PoisonAmongAThousand", func(t *testing.T) { poison(t, w) })
	t.Run("ForeignObjectUntouched", func(t *testing.T) { foreign(t, w) })
	t.Run("TwoReplicationsOneCluster", func(t *testing.T) { two(t, w) })
	t.Run("Mapping", func(t *testing.T) { mapping(t, w) })
	t.Run("FiftyUpdatesASecond", func(t *testing.T) { hot(t, w) })
	t.Run("PausedCatchesUp", func(t *testing.T) { paused(t, w) })
	t.Run("CustomResourceDefinitionAddedAndRemoved", func(t *testing.T) { crd(t, w) })
	t.Run("UnknownSite", func(t *testing.T) { unknownSite(t, w) })
	t.Run("DeletedReplicationKeepsCopies", func(t *testing.T) { deleted(t, w, "Retain") })
	t.Run("DeletedReplicationDeletesCopies", func(t *testing.T) { deleted(t, w, "DeleteCopies") })
}

func get(t *testing.T, w *world.World, jsonpath string, args ...string) string {
	t.Helper()
	out, err := w.DR.Kubectl(append([]string{"get", "-o", "jsonpath={" + jsonpath + "}"}, args...)...)
	if err != nil {
		t.Logf("kubectl get %v: %v %s", args, err, out)
		return ""
	}
	return strings.TrimSpace(out)
}

// poison: one object that the destination refuses among 1,000; 999 arrive and
// one is named; a newer version heals it.
func poison(t *testing.T, w *world.World) {
	// The destination refuses what the source accepts: an admission policy stands for any such reason.
	if err := w.DR.Apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-poison}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE","UPDATE"], resources: ["configmaps"]}]
  validations: [{expression: "!has(object.data) || !('poison' in object.data)", message: "poison is not accepted here"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-poison}
spec: {policyName: no-poison, validationActions: [Deny]}
`); err != nil {
		t.Fatal(err)
	}
	r := random(t)
	put(t, w, world.Namespace("poison"))
	for i := range 999 {
		put(t, w, world.ConfigMap(r, "poison", fmt.Sprintf("good-%d", i), 100, 0))
	}
	if err := w.Prod.Apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: poison}, data: {poison: "yes", password: hunter2}}`); err != nil {
		t.Fatal(err)
	}
	// The policy takes a moment to be enforced.
	eventually(t, "the policy refuses", func() bool {
		out, err := w.DR.Kubectl("create", "configmap", "probe", "--from-literal=poison=x", "--dry-run=server")
		return err != nil && strings.Contains(out+err.Error(), "poison is not accepted")
	})
	replicate(t, w, "poison", "poison", "")
	eventually(t, "one object is parked and named", func() bool {
		return get(t, w, ".status.counts.parked", "replication", "poison") == "1" &&
			strings.Contains(get(t, w, ".status.lastError", "replication", "poison"), "poison/bad")
	})
	c, err := world.Compare(t.Context(), w.Prod.Client().REST(), w.DR.Client().REST(), same("poison"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Equal != 1000 || len(c.Missing) != 1 || c.Missing[0] != "configmaps poison/bad" {
		t.Errorf("want 999 objects and their namespace, and one missing: %s", c)
	}
	if s := get(t, w, ".status", "replication", "poison"); strings.Contains(s, "hunter2") {
		t.Errorf("the status holds object content: %s", s)
	}
	if err := w.Prod.Apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: poison}, data: {healthy: "yes"}}`); err != nil {
		t.Fatal(err)
	}
	converges(t, w, same("poison"))
	eventually(t, "nothing is parked any more", func() bool {
		return get(t, w, ".status.counts.parked", "replication", "poison") == "0"
	})
}

// foreign: an object of the same name that somebody else made stays as it is.
func foreign(t *testing.T, w *world.World) {
	if err := w.DR.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: foreign}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: theirs, namespace: foreign}
data: {owner: somebody}
`); err != nil {
		t.Fatal(err)
	}
	before := get(t, w, ".metadata", "configmap", "theirs", "-n", "foreign")
	r := random(t)
	put(t, w, world.Namespace("foreign"))
	put(t, w, world.ConfigMap(r, "foreign", "theirs", 100, 0))
	put(t, w, world.ConfigMap(r, "foreign", "ours", 100, 0))
	replicate(t, w, "foreign", "foreign", "")
	eventually(t, "the foreign objects are parked", func() bool {
		return get(t, w, ".status.counts.parked", "replication", "foreign") == "2"
	})
	eventually(t, "the other object arrives", func() bool {
		return get(t, w, ".metadata.name", "configmap", "ours", "-n", "foreign", "--ignore-not-found") == "ours"
	})
	remove(t, w, world.ConfigMap(r, "foreign", "theirs", 100, 0))
	remove(t, w, world.ConfigMap(r, "foreign", "ours", 100, 0))
	eventually(t, "our copy is deleted", func() bool {
		return get(t, w, ".metadata.name", "configmap", "ours", "-n", "foreign", "--ignore-not-found") == ""
	})
	if after := get(t, w, ".metadata", "configmap", "theirs", "-n", "foreign"); after != before {
		t.Errorf("the foreign object was touched:\nbefore %s\nafter  %s", before, after)
	}
}

func two(t *testing.T, w *world.World) {
	r := random(t)
	for _, ns := range []string{"team-a", "team-b"} {
		put(t, w, world.Namespace(ns))
		for i := range 40 {
			put(t, w, world.Mixed(r, ns, i))
		}
	}
	replicate(t, w, "team-a", "team-a", "")
	replicate(t, w, "team-b", "team-b", "")
	converges(t, w, same("team-a", "team-b"))
	for _, ns := range []string{"team-a", "team-b"} {
		if got := get(t, w, `.metadata.labels.dr-syncer\.io/replication`, "configmap", "app-0", "-n", ns); got != "default."+ns {
			t.Errorf("the copy in %s belongs to %q", ns, got)
		}
	}
}

func mapping(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("shop"))
	for i := range 60 {
		put(t, w, world.Mixed(r, "shop", i))
	}
	replicate(t, w, "mapped", "shop", "  namespaceMapping: {prefix: dr-}\n")
	scope := world.Scope{Namespaces: map[string]string{"shop": "dr-shop"}}
	converges(t, w, scope)
	if got := get(t, w, ".subjects[0].namespace", "rolebinding", "app-17", "-n", "dr-shop"); got != "dr-shop" {
		t.Errorf("the binding's subject is in namespace %q", got)
	}
}

// hot: 50 updates a second to one object converge to the last, with far fewer
// writes than that.
func hot(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("hot"))
	replicate(t, w, "hot", "hot", "")
	put(t, w, world.ConfigMap(r, "hot", "counter", 50, 0))
	converges(t, w, same("hot"))
	seen := &writes{}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { w.DR.Client().Watch(ctx, world.ConfigMaps, kube.WatchOptions{Namespace: "hot"}, seen) })
	defer watching.Wait()
	defer cancel()
	const updates, seconds = 150, 3
	began := time.Now()
	tick := time.NewTicker(seconds * time.Second / updates)
	defer tick.Stop()
	for i := range updates {
		<-tick.C
		put(t, w, world.ConfigMap(r, "hot", "counter", 50, i+1))
	}
	converges(t, w, same("hot"))
	if got := get(t, w, `.data.revision`, "configmap", "counter", "-n", "hot"); got != fmt.Sprint(updates) {
		t.Errorf("the copy is at revision %s, want %d", got, updates)
	}
	// Ten a second, as the pump paces one object.
	took := time.Since(began)
	if n := seen.count(); n < 2 || n > 2+int(10*took.Seconds()) {
		t.Errorf("%d updates within %s became %d writes", updates, took, n)
	} else {
		t.Logf("%d updates within %s became %d writes", updates, took, n)
	}
}

// writes counts what a watch shows.
type writes struct {
	mu sync.Mutex
	n  int
}

func (w *writes) Observe(kube.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
}

func (w *writes) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func (*writes) Delete(kube.Object)            {}
func (*writes) Replace([]kube.Object, string) {}
func (*writes) Progress(string)               {}

func paused(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("paused"))
	for i := range 20 {
		put(t, w, world.Mixed(r, "paused", i))
	}
	replicate(t, w, "paused", "paused", "")
	converges(t, w, same("paused"))
	patch := func(v bool) {
		if out, err := w.DR.Kubectl("patch", "replication", "paused", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"paused":%t}}`, v)); err != nil {
			t.Fatal(err, out)
		}
	}
	patch(true)
	eventually(t, "the phase is Paused", func() bool { return get(t, w, ".status.phase", "replication", "paused") == "Paused" })
	for i := range 20 {
		put(t, w, world.Mixed(r, "paused", 100+i))
	}
	remove(t, w, world.ConfigMap(r, "paused", "app-0", 1, 0))
	wait(t, 2*time.Second)
	if got := get(t, w, ".metadata.name", "configmap", "app-0", "-n", "paused"); got != "app-0" {
		t.Error("a paused Replication deleted an object")
	}
	if got := get(t, w, ".metadata.name", "configmap", "app-100", "-n", "paused", "--ignore-not-found"); got != "" {
		t.Error("a paused Replication created an object")
	}
	patch(false)
	converges(t, w, same("paused"))
}

const widgetCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example.org}
spec:
  group: shop.example.org
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// crd: a kind appears while everything runs, vanishes with its objects, and
// comes back.
func crd(t *testing.T, w *world.World) {
	put(t, w, world.Namespace("widgets"))
	replicate(t, w, "widgets", "widgets", "  includeClusterScoped: true\n  kinds: [\"*\"]\n")
	scope := same("widgets")
	scope.ClusterScoped = []string{"apiextensions.k8s.io/customresourcedefinitions widgets.shop.example.org"}
	add := func(color string) {
		if err := w.Prod.Apply(widgetCRD); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the source serves the kind", func() bool {
			return w.Prod.Apply(fmt.Sprintf(`{apiVersion: shop.example.org/v1, kind: Widget, metadata: {name: w, namespace: widgets}, spec: {color: %s}, status: {kept: "no subresource"}}`, color)) == nil
		})
		eventually(t, "the object arrives", func() bool {
			return get(t, w, ".spec.color", "widget", "w", "-n", "widgets", "--ignore-not-found") == color
		})
		if got := get(t, w, ".status.kept", "widget", "w", "-n", "widgets"); got != "no subresource" {
			t.Errorf("status of a kind without the subresource is %q", got)
		}
		converges(t, w, scope)
	}
	add("red")
	if out, err := w.Prod.Kubectl("delete", "crd", "widgets.shop.example.org", "--wait=true"); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, "the kind is gone at the destination", func() bool {
		out, err := w.DR.Kubectl("get", "crd", "widgets.shop.example.org", "--ignore-not-found")
		return err == nil && strings.TrimSpace(out) == ""
	})
	add("blue")
}

func unknownSite(t *testing.T, w *world.World) {
	if err := w.DR.Apply(`
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: nowhere, namespace: default}
spec: {source: {site: nowhere}, namespaces: {names: [nowhere]}}
`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the condition says that the site is unknown", func() bool {
		return strings.Contains(get(t, w, ".status.conditions", "replication", "nowhere"), "UnknownSite")
	})
}

func deleted(t *testing.T, w *world.World, policy string) {
	r := random(t)
	ns := "deleted-" + strings.ToLower(policy)
	put(t, w, world.Namespace(ns))
	for i := range 40 {
		put(t, w, world.Mixed(r, ns, i))
	}
	replicate(t, w, ns, ns, "  onDelete: "+policy+"\n")
	converges(t, w, same(ns))
	if err := w.DR.Apply(fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: %s}, data: {a: b}}`, ns)); err != nil {
		t.Fatal(err)
	}
	if out, err := w.DR.Kubectl("delete", "replication", ns, "--wait=true", "--timeout=60s"); err != nil {
		t.Fatal(err, out)
	}
	count := len(strings.Fields(get(t, w, ".items[*].metadata.name", "configmaps,secrets,services,deployments", "-n", ns, "-l", "dr-syncer.io/replication")))
	if policy == "Retain" && count == 0 {
		t.Error("the copies were deleted")
	}
	if policy == "DeleteCopies" && count != 0 {
		t.Errorf("%d copies are left", count)
	}
	if got := get(t, w, ".metadata.name", "configmap", "theirs", "-n", ns); got != "theirs" {
		t.Error("a foreign object was deleted")
	}
}
