package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// apply creates or changes something in the room's namespace, NS in the text.
func (r *room) apply(text string) {
	r.Helper()
	if err := r.cluster.Apply(kubetest.In(r.namespace, text)); err != nil {
		r.Fatal(err)
	}
}

// ruleNamed is a ConfigMap with one rule.
func ruleNamed(configMap, rule, jq string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS}\ndata:\n  rules.yaml: |\n    rules:\n    - {name: %s, jq: '%s'}\n", configMap, rule, jq)
}

// runs waits until the one run of a Replication has just these rules of the user's.
func (r *room) runs(owner string, rules ...string) {
	r.Helper()
	r.eventually(fmt.Sprintf("%s runs %v", owner, rules), func() error {
		if got := r.stage.rules(owner); got == nil || !slices.Equal(got, rules) {
			return fmt.Errorf("it runs %v", got)
		}
		return nil
	})
}

// transforms waits for the condition TransformsReady.
func (r *room) transforms(name string, status metav1.ConditionStatus, words ...string) {
	r.Helper()
	r.eventually(fmt.Sprintf("the rules of %s are ready: %s", name, status), func() error {
		c := conditionOf(r.get(name).Status, v1alpha1.ConditionTransformsReady)
		if c.Status != status {
			return fmt.Errorf("they are %+v", c)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("nothing of %q in %q", w, c.Message)
			}
		}
		return nil
	})
}

func (r *room) made(owner string) int {
	all, _ := r.stage.of(owner)
	return len(all)
}

func TestRulesFollowTheirConfigMaps(t *testing.T) {
	r := open(t)
	r.apply(ruleNamed("shop", "first", "."))
	owner := r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, transforms: {names: [shop]}}`)
	other := r.put("b", `{source: {site: prod}, namespaces: {names: [team]}, transforms: {names: [team]}}`)
	r.stage.show(owner, quiet(1))
	r.stage.show(other, quiet(1))
	r.runs(owner, "first")
	r.becomes("a", calm)
	r.transforms("a", metav1.ConditionTrue, "1 rule of")

	// The other one names rules that are not there: it holds, and nobody else does.
	r.transforms("b", metav1.ConditionFalse, "Nothing is applied", "configmap "+r.namespace+"/team: there is none")
	r.becomes("b", "Failed -RulesInvalid")
	if r.made(other) != 0 {
		t.Error("a Replication runs without its rules")
	}
	r.apply(ruleNamed("team", "theirs", "."))
	r.runs(other, "theirs")
	r.transforms("b", metav1.ConditionTrue)

	before := r.made(other)
	r.apply(ruleNamed("shop", "second", "."))
	r.runs(owner, "second")

	r.apply(ruleNamed("shop", "third", "nosuch"))
	r.transforms("a", metav1.ConditionFalse, "The former rules stay", "configmap "+r.namespace+"/shop, key rules.yaml", `rule "third", line 2`, "nosuch/0")
	r.runs(owner, "second")
	r.becomes("a", calm)
	r.kubectl("delete", "configmap", "-n", r.namespace, "shop")
	r.transforms("a", metav1.ConditionFalse, "there is none")
	r.runs(owner, "second")

	if got := r.made(other); got != before {
		t.Errorf("the rules of one Replication have made %d new runs of another", got-before)
	}
	r.eventually("what happened is told", func() error {
		if got := r.events("a"); !slices.Contains(got, "RulesInvalid") {
			return fmt.Errorf("events: %v", got)
		}
		return nil
	})

	// A new process knows no former rules.
	r.stop()
	made := r.made(owner)
	r.begin()
	r.becomes("a", "Failed -RulesInvalid")
	r.runs(other, "theirs")
	if got := r.made(owner); got != made {
		t.Error("a new process runs a Replication whose rules are broken")
	}
	r.apply(ruleNamed("shop", "fourth", "."))
	r.runs(owner, "fourth")
	r.becomes("a", calm)
	r.eventually("that it is mended is told", func() error {
		if got := r.events("a"); !slices.Contains(got, "RulesMended") {
			return fmt.Errorf("events: %v", got)
		}
		return nil
	})

	// An unused ConfigMap, and one that says the same, change nothing.
	made = r.made(owner)
	r.apply(ruleNamed("unused", "unused", "."))
	r.kubectl("label", "configmap", "-n", r.namespace, "shop", "more=labels")
	r.kubectl("delete", "configmap", "-n", r.namespace, "unused")
	r.apply(ruleNamed("team", "changed", "."))
	r.runs(other, "changed")
	if got := r.made(owner); got != made {
		t.Errorf("%d new runs for the same rules", got-made)
	}
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}}`)
	r.runs(owner)
	r.eventually("without rules there is no condition of them", func() error {
		if c := conditionOf(r.get("a").Status, v1alpha1.ConditionTransformsReady); c.Type != "" {
			return errors.New("there is")
		}
		return nil
	})
}

func TestSharedRulesAndSecrets(t *testing.T) {
	r := open(t)
	_, err := r.cluster.Kubectl("get", "namespace", sharedRules)
	if err != nil {
		r.kubectl("create", "namespace", sharedRules)
	}
	asking := func(name, label string) {
		t.Helper()
		if err := r.cluster.Apply(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s, labels: {dr-syncer.io/transform: %q}}\ndata:\n  r.yaml: |\n"+
			"    rules: [{name: %s, jq: '.data.x = $params.p', params: {p: {fromSecret: {name: pass, key: k}}}}]\n", name, sharedRules, label, name)); err != nil {
			t.Fatal(err)
		}
	}
	secret := func(value string) {
		t.Helper()
		if err := r.cluster.Apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: pass, namespace: %s}\nstringData: {k: %s}\n", sharedRules, value)); err != nil {
			t.Fatal(err)
		}
	}
	r.cluster.Kubectl("delete", "secret", "-n", sharedRules, "pass", "--ignore-not-found") //nolint:errcheck // from an earlier run
	asking("asking", "true")
	asking("private", "false")
	owner := r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, transforms: {shared: [asking]}}`)
	r.transforms("a", metav1.ConditionFalse, "secret pass, key k", "there is none")
	secret("hunter2")
	r.runs(owner, "asking")
	made := r.made(owner)
	secret("hunter3")
	r.eventually("the changed Secret makes other rules", func() error {
		if got := r.made(owner); got != made+1 {
			return fmt.Errorf("%d new runs", got-made)
		}
		return nil
	})
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, transforms: {shared: [asking, private]}}`)
	r.transforms("a", metav1.ConditionFalse, "configmap "+sharedRules+"/private")
	r.runs(owner, "asking")
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, transforms: {selector: {}}}`)
	r.transforms("a", metav1.ConditionTrue)
	r.runs(owner, "asking")
	if out := r.kubectl("get", "replication,events", "-n", r.namespace, "-o", "yaml"); strings.Contains(out, "hunter") {
		t.Error("status or events tell a Secret")
	}
}
