package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// with gives an Applier rules, in the form of a document.
func with(t *testing.T, document string, built ...transform.Rule) func(*Settings) {
	t.Helper()
	set, err := transform.Compile([]transform.Document{{ConfigMap: "dr/rules", Key: "rules.yaml", Text: document}}, transform.Options{Rules: built})
	if err != nil {
		t.Fatal(err)
	}
	return func(s *Settings) { s.Rules, s.Destination = set, "dr-fra" }
}

// rule is a document with one rule for ConfigMaps.
func rule(jq string) string {
	return fmt.Sprintf("rules:\n- {name: r, match: {kinds: [configmaps]}, jq: %q}", jq)
}

// copies are the ConfigMaps in the stand's namespace that are copies, as name=value.
func (s *stand) copies() []string {
	s.t.Helper()
	out := s.kubectl("get", "configmaps", "-n", s.ns, "-l", v1alpha1.LabelReplication, "-o", `jsonpath={range .items[*]}{.metadata.name}={.data.value}{"\n"}{end}`)
	return strings.Fields(out)
}

// see wants just these copies.
func (s *stand) see(want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.copies(), cmpopts.EquateEmpty()); diff != "" {
		s.t.Fatalf("copies (-want +got):\n%s", diff)
	}
}

const twoOf = `., (.metadata.name += "-b" | .data.value += "2")`

func TestRules(t *testing.T) {
	s := newStand(t)
	a := s.applier("rules", with(t, rule(`.data.value = $source.site + ">" + $destination.site + " for " + $replication.name | .data["old"] = "x"`)))
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "old")
	s.apply(a, r, pipeline.ResultCreated)
	s.see("a=prod>dr-fra", "for", "rules")

	before := s.client.requests()
	s.apply(a, r, pipeline.ResultUnchanged)
	*s.seq++
	r.Position.Seq = *s.seq
	s.apply(a, r, pipeline.ResultUnchanged)
	if n := s.client.requests() - before; n != 0 {
		t.Errorf("what the rules make equal has cost %d requests", n)
	}
}

func TestFanOut(t *testing.T) {
	s := newStand(t)
	two := with(t, rule(twoOf))
	a := s.applier("fan", two)
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r, other := s.configMap("a", "1"), s.configMap("z", "9")
	s.apply(a, r, pipeline.ResultCreated)
	s.apply(a, other, pipeline.ResultCreated)
	s.see("a=1", "a-b=12", "z=9", "z-b=92")
	s.apply(a, r, pipeline.ResultUnchanged)

	t.Run("drift of either names the source", func(t *testing.T) {
		refs := s.drifts(a)
		s.kubectl("delete", "configmap", "-n", s.ns, "a-b")
		if ref := <-refs; ref != r.Ref {
			t.Fatalf("%s has drifted, want %s", ref, r.Ref)
		}
		s.apply(a, r, pipeline.ResultCreated)
		s.see("a=1", "a-b=12", "z=9", "z-b=92")
	})
	t.Run("a restart forgets nothing", func(*testing.T) {
		s.restart()
		a = s.applier("fan", two)
		s.apply(a, r, pipeline.ResultUnchanged)
		s.apply(a, other, pipeline.ResultUnchanged)
	})
	t.Run("other rules", func(*testing.T) {
		a = s.applier("fan", with(t, rule(`.metadata.name += "-c"`)))
		s.apply(a, r, pipeline.ResultCreated)
		s.see("a-c=1", "z=9", "z-b=92")
	})
	t.Run("none", func(*testing.T) {
		s.restart()
		a = s.applier("fan")
		s.apply(a, r, pipeline.ResultCreated)
		s.see("a=1", "z=9", "z-b=92")
	})
	t.Run("a tombstone ends all", func(*testing.T) {
		s.restart()
		a = s.applier("fan", two)
		s.apply(a, s.gone(other), pipeline.ResultDeleted)
		s.see("a=1")
	})
	t.Run("retained", func(*testing.T) {
		a = s.applier("fan", two)
		s.apply(a, r, pipeline.ResultCreated)
		a = s.applier("fan", func(set *Settings) { set.Spec.DeletionPolicy = v1alpha1.DeletionRetain })
		s.apply(a, r, pipeline.ResultUnchanged)
		s.see("a=1", "a-b=12")
		s.apply(a, s.gone(r), pipeline.ResultSkipped)
		s.see("a=1", "a-b=12")
	})
}

func TestDropped(t *testing.T) {
	s := newStand(t)
	drop := with(t, rule(`select(.data.value != "secret")`))
	a := s.applier("drop", drop)
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	if err := s.cluster.Apply(kubetest.In(s.ns, "{apiVersion: v1, kind: ConfigMap, metadata: {name: foreign, namespace: NS}}")); err != nil {
		t.Fatal(err)
	}
	s.apply(a, s.configMap("a", "secret"), pipeline.ResultSkipped)
	s.apply(a, s.configMap("foreign", "secret"), pipeline.ResultSkipped)
	s.apply(a, s.configMap("a", "1"), pipeline.ResultCreated)
	s.see("a=1")

	retain := s.applier("drop", drop, func(set *Settings) { set.Spec.DeletionPolicy = v1alpha1.DeletionRetain })
	hidden := s.configMap("a", "secret")
	s.apply(retain, hidden, pipeline.ResultSkipped)
	s.see("a=1")
	old := s.configMap("a", "secret")
	old.Position.Seq = 1
	s.apply(a, old, pipeline.ResultSkipped)
	s.see("a=1")
	s.apply(a, hidden, pipeline.ResultDeleted)
	s.see()
	if s.kubectl("get", "configmap", "-n", s.ns, "foreign", "-o", "name") == "" {
		t.Error("what is not a copy was deleted")
	}
}

func TestTwoSourcesForOneCopy(t *testing.T) {
	s := newStand(t)
	one := with(t, rule(`.metadata.name |= (if startswith("x-") then "x" else . end)`))
	a := s.applier("clash", one)
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	first, second, home := s.configMap("x-1", "1"), s.configMap("x-2", "2"), s.configMap("x", "home")
	s.apply(a, first, pipeline.ResultCreated)
	refs := s.drifts(a)
	wake := func(want ...pipeline.Ref) {
		t.Helper()
		for len(want) > 0 {
			select {
			case ref := <-refs:
				want = slices.DeleteFunc(want, func(w pipeline.Ref) bool { return w == ref })
			case <-time.After(30 * time.Second):
				t.Fatalf("nobody says that these can be tried again: %v", want)
			}
		}
	}
	s.fail(a, second, pipeline.Foreign, s.ns+"/x-1")
	s.fail(a, home, pipeline.Foreign, s.ns+"/x-1")
	s.see("x=1")

	t.Run("after a restart the same one has it", func(*testing.T) {
		s.restart()
		a = s.applier("clash", one)
		s.fail(a, second, pipeline.Foreign, s.ns+"/x-1")
		s.fail(a, home, pipeline.Foreign, s.ns+"/x-1")
		s.apply(a, first, pipeline.ResultUnchanged)
		refs = s.drifts(a)
	})
	t.Run("when it goes another can have it", func(*testing.T) {
		s.apply(a, s.gone(first), pipeline.ResultDeleted)
		wake(second.Ref, home.Ref)
		s.apply(a, home, pipeline.ResultCreated)
		s.fail(a, second, pipeline.Foreign, s.ns+"/x:")
		s.see("x=home")
	})
	t.Run("when it is given another name", func(*testing.T) {
		a = s.applier("clash", with(t, rule(`.metadata.name |= (if . == "x" then "y" elif . == "x-2" then "x" else . end)`)))
		refs = s.drifts(a)
		s.fail(a, second, pipeline.Foreign, s.ns+"/x:")
		s.apply(a, home, pipeline.ResultCreated)
		wake(second.Ref)
		s.apply(a, second, pipeline.ResultCreated)
		s.see("x=2", "y=home")
	})
	t.Run("when it is retained but not wanted", func(*testing.T) {
		third := s.configMap("x-3", "3")
		a = s.applier("clash", with(t, rule(`.metadata.name |= (if . == "x-3" then "x" else . end)`)),
			func(set *Settings) { set.Spec.DeletionPolicy = v1alpha1.DeletionRetain })
		refs = s.drifts(a)
		s.fail(a, third, pipeline.Foreign, s.ns+"/x-2")
		s.apply(a, second, pipeline.ResultCreated) // as x-2; x stays
		wake(third.Ref)
		s.apply(a, third, pipeline.ResultConfigured)
		s.see("x=3", "x-2=2", "y=home")
	})
}

func TestRulesThatFail(t *testing.T) {
	cases := map[string]struct {
		jq   string
		want string
	}{
		"an error":                 {`error("not like this")`, `rule "r": not like this`},
		"a loop":                   {`last(repeat(.))`, `rule "r"`},
		"an explosion":             {`range(1000000) as $n | .metadata.name = "a\($n)"`, `rule "r"`},
		"no object":                {`3`, `rule "r": returned something that is not an object`},
		"another kind":             {`.kind = "Secret"`, `rule "r": returned an object of another apiVersion or kind`},
		"a protected namespace":    {`.metadata.namespace = "kube-system"`, `rule "r": moves the object into a protected namespace`},
		"DR-Syncer's own":          {`.metadata.namespace = "own"`, `rule "r": moves the object into a protected namespace`},
		"a way out of the path":    {`.metadata.name = "../../secrets/x"`, "name that no object can have"},
		"a subresource":            {`.metadata.name = "a/status"`, "name that no object can have"},
		"no namespace of this API": {`.metadata.namespace = "a/b"`, "name that no object can have"},
	}
	s := newStand(t)
	plain := s.applier("fail")
	s.apply(plain, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "1")
	s.apply(plain, r, pipeline.ResultCreated)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := s.applier("fail", with(t, rule(c.jq)), func(set *Settings) { set.Protected = []string{"own"} })
			s.fail(a, r, pipeline.Invalid, c.want)
			if n := a.Synced()[r.Ref.GroupResource()]; n != 0 {
				t.Errorf("%d copies are said to be in step", n)
			}
		})
	}
	s.see("a=1")

	t.Run("skip leaves the copy", func(*testing.T) {
		a := s.applier("fail", with(t, `rules: [{name: r, match: {kinds: [configmaps]}, onError: skip, jq: 'error("x")'}]`))
		s.apply(a, s.configMap("a", "2"), pipeline.ResultSkipped)
		s.see("a=1")
	})
	t.Run("pass goes on", func(*testing.T) {
		a := s.applier("fail", with(t, `rules: [{name: r, match: {kinds: [configmaps]}, onError: pass, jq: 'error("x")'}]`))
		s.apply(a, s.configMap("a", "3"), pipeline.ResultConfigured)
		s.see("a=3")
	})
}

func TestRulesMoveToAnotherNamespace(t *testing.T) {
	s := newStand(t)
	a := s.applier("move", with(t, rule(`.metadata.namespace += "-b"`)), func(set *Settings) {
		set.Spec.Namespaces = &v1alpha1.NamespaceSelector{Names: []string{s.ns, s.ns + "-b"}}
		set.Spec.NamespaceMapping = &v1alpha1.NamespaceMapping{Prefix: "dr-"}
	})
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "1")
	s.fail(a, r, pipeline.Dependency, "")
	s.apply(a, s.put("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS-b}}"), pipeline.ResultCreated)
	s.apply(a, r, pipeline.ResultCreated)
	if got := s.kubectl("get", "configmap", "-n", "dr-"+s.ns+"-b", "a", "-o", "jsonpath={.data.value}"); got != "1" {
		t.Errorf("the copy has %q, want 1", got)
	}
	s.apply(a, s.gone(r), pipeline.ResultDeleted)
}

func TestStandbyAndBack(t *testing.T) {
	s := newStand(t)
	web := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS}, spec: {replicas: 3, selector: {matchLabels: {app: web}},
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`
	asleep := with(t, "", transform.Standby{}.Rules()...)
	a := s.applier("standby", asleep)
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.put("deployments", web)
	s.apply(a, r, pipeline.ResultCreated)
	spec := func() (replicas int, original string) {
		var o struct {
			Metadata struct{ Annotations map[string]string }
			Spec     struct{ Replicas int }
		}
		if err := json.Unmarshal([]byte(s.kubectl("get", "deployment", "-n", s.ns, "web", "-o", "json")), &o); err != nil {
			t.Fatal(err)
		}
		return o.Spec.Replicas, o.Metadata.Annotations[v1alpha1.AnnotationOriginalReplicas]
	}
	if replicas, original := spec(); replicas != 0 || original != "3" {
		t.Errorf("asleep it has %d replicas, with %q noted; want 0, 3", replicas, original)
	}
	a = s.applier("standby")
	s.apply(a, r, pipeline.ResultConfigured)
	if replicas, original := spec(); replicas != 3 || original != "" {
		t.Errorf("awake it has %d replicas, with %q noted; want 3, nothing", replicas, original)
	}
	s.apply(a, r, pipeline.ResultUnchanged)
	s.apply(s.applier("standby", asleep), r, pipeline.ResultConfigured)
}

func TestCanceledRulesAreNoFailure(t *testing.T) {
	s := newStand(t)
	a := s.applier("cancel", with(t, rule(`last(repeat(.))`)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Apply(ctx, s.configMap("a", "1")); pipeline.Decide(err, 1, 12) != pipeline.Abandon {
		t.Errorf("canceled, the attempt ends with %v, which does not abandon it", err)
	}
}
