package faults

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestRules runs what users count on of rules and standby, each in namespaces of
// its own, between one pair of clusters.
func TestRules(t *testing.T) {
	t.Parallel()
	w := start(t, world.Options{})
	t.Run("OnlyWhatChangesIsWritten", func(t *testing.T) { onlyChanged(t, w) })
	t.Run("SleepAndWake", func(t *testing.T) { sleepAndWake(t, w) })
	t.Run("PoisonRule", func(t *testing.T) { poisonRule(t, w) })
	t.Run("FanOutAndDrop", func(t *testing.T) { fanOut(t, w) })
	t.Run("TwoSourcesOneCopy", func(t *testing.T) { collision(t, w) })
	t.Run("SecretRotated", func(t *testing.T) { rotation(t, w) })
	t.Run("BrokenAtStart", func(t *testing.T) { brokenAtStart(t, w) })
}

// rules writes a ConfigMap with rules beside the Replications.
func rules(t *testing.T, w *world.World, name, document string) {
	t.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata:\n  rules.yaml: |\n", name)
	for line := range strings.Lines(document) {
		text += "    " + line
	}
	if err := w.DR.Apply(text + "\n"); err != nil {
		t.Fatal(err)
	}
}

var written = regexp.MustCompile(`(?m)^apiserver_request_total\{.*resource="(?:configmaps|secrets|services|serviceaccounts|deployments|statefulsets|roles|rolebindings|ingresses|networkpolicies|cronjobs)".*verb="(?:APPLY|PATCH|PUT|POST|DELETE)".*\} (\d+)$`)

// writesTo is how many writing requests for the kinds of applications the destination's
// API server has answered, by its own count.
func writesTo(t *testing.T, w *world.World) int {
	t.Helper()
	out, err := w.DR.Kubectl("get", "--raw", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, m := range written.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total == 0 {
		t.Fatal("the API server counts no writes at all: its metrics have changed")
	}
	return total
}

// rulesReady waits for the condition TransformsReady of a Replication.
func rulesReady(t *testing.T, w *world.World, name, status, words string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the rules of %s are ready: %s, with %q", name, status, words), func() bool {
		path := `.status.conditions[?(@.type=="TransformsReady")]`
		return get(t, w, path+".status", "replication", name) == status && strings.Contains(get(t, w, path+".message", "replication", name), words)
	})
}

// caughtUp waits until a run has gone over everything again and has nothing left to do.
func caughtUp(t *testing.T, w *world.World, name string) {
	t.Helper()
	eventually(t, name+" has caught up", func() bool {
		return get(t, w, ".status.phase", "replication", name) == "Replicating" && get(t, w, ".status.lag.events", "replication", name) == "0"
	})
}

func onlyChanged(t *testing.T, w *world.World) {
	const objects, matching = 200, 20 // of 20 objects of the mixture two are ConfigMaps whose name ends in 1 or 2
	r := random(t)
	put(t, w, world.Namespace("changed"))
	for i := range objects {
		put(t, w, world.Mixed(r, "changed", i))
	}
	document := func(value string) string {
		return "rules:\n- {name: stamp, match: {kinds: [configmaps], names: ['app-*1', 'app-*2']}, jq: '.data.stamp = " + value + "'}\n"
	}
	rules(t, w, "stamps", document(`"one"`))
	replicate(t, w, "changed", "changed", "  transforms: {names: [stamps]}\n")
	stamped := func(value string) int {
		out, err := w.DR.Kubectl("get", "configmaps", "-n", "changed", "-o", `jsonpath={range .items[*]}{.data.stamp}{"\n"}{end}`)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(out+"\n", value+"\n")
	}
	eventually(t, "all copies are there", func() bool {
		return get(t, w, ".status.counts.synced", "replication", "changed") == fmt.Sprint(objects+1)
	})
	if n := stamped("one"); n != matching {
		t.Fatalf("%d copies have the stamp, want %d", n, matching)
	}
	caughtUp(t, w, "changed")

	before := writesTo(t, w)
	rules(t, w, "stamps", document(`"two"`))
	eventually(t, "the rule is run again", func() bool { return stamped("two") == matching })
	caughtUp(t, w, "changed")
	// One write is the ConfigMap with the rules itself.
	if n := writesTo(t, w) - before - 1; n != matching {
		t.Errorf("%d copies have another result, and %d writes were made", matching, n)
	}

	before = writesTo(t, w)
	rules(t, w, "stamps", document(`nosuch`))
	rulesReady(t, w, "changed", "False", `configmap default/stamps, key rules.yaml, rule "stamp", line 2`)
	put(t, w, world.ConfigMap(r, "changed", "app-1", 50, 7))
	eventually(t, "the former rules go on", func() bool {
		return get(t, w, ".data.revision", "configmap", "app-1", "-n", "changed") == "7" && get(t, w, ".data.stamp", "configmap", "app-1", "-n", "changed") == "two"
	})
	rules(t, w, "stamps", document(`"two"`))
	rulesReady(t, w, "changed", "True", "1 rule of")
	w.Applier.Kill()
	if err := w.Applier.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, w, world.ConfigMap(r, "changed", "app-2", 50, 8))
	eventually(t, "the applier is back", func() bool {
		return get(t, w, ".data.revision", "configmap", "app-2", "-n", "changed") == "8" && get(t, w, ".data.stamp", "configmap", "app-2", "-n", "changed") == "two"
	})
	caughtUp(t, w, "changed")
	if n := writesTo(t, w) - before - 2; n != 2 {
		t.Errorf("two objects were changed, rules broken and mended and the applier restarted: %d writes", n)
	}
}

func sleepAndWake(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("nap"))
	for i := range 100 {
		put(t, w, world.Mixed(r, "nap", i))
	}
	if err := w.Prod.Apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: kept, namespace: nap, labels: {dr-syncer.io/scale-override: "2"}}
spec: {replicas: 5, selector: {matchLabels: {app: kept}}, template: {metadata: {labels: {app: kept}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: entry, namespace: nap, annotations: {external-dns.alpha.kubernetes.io/hostname: shop.example.com}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: kept}, ports: [{port: 80}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: kept, namespace: nap}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: kept}, maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: nap}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: nap}
spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: a, image: a}]}}}
`); err != nil {
		t.Fatal(err)
	}
	replicate(t, w, "nap", "nap", "")
	converges(t, w, same("nap"))
	awake := same("nap")
	awake.Awake = true
	switchTo := func(enabled string) {
		t.Helper()
		if out, err := w.DR.Kubectl("patch", "replication", "nap", "--type=merge", "-p", `{"spec":{"standby":{"enabled":`+enabled+`}}}`); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	switchTo("false")
	converges(t, w, awake)
	switchTo("true")
	converges(t, w, same("nap"))
}

func poisonRule(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("poisoned"))
	for i := range 50 {
		put(t, w, world.ConfigMap(r, "poisoned", fmt.Sprintf("good-%d", i), 100, 0))
	}
	put(t, w, world.ConfigMap(r, "poisoned", "bad", 100, 0))
	rules(t, w, "loops", "rules:\n- {name: forever, match: {kinds: [configmaps], names: [bad]}, jq: 'last(repeat(.))'}\n")
	replicate(t, w, "poisoned", "poisoned", "  transforms: {names: [loops]}\n")
	eventually(t, "one object is parked and named, with the rule", func() bool {
		lastError := get(t, w, ".status.lastError", "replication", "poisoned")
		return get(t, w, ".status.counts.parked", "replication", "poisoned") == "1" && get(t, w, ".status.counts.synced", "replication", "poisoned") == "51" &&
			strings.Contains(lastError, "poisoned/bad") && strings.Contains(lastError, "forever")
	})
	rules(t, w, "loops", "rules: []\n")
	converges(t, w, same("poisoned"))
	eventually(t, "nothing is parked any more", func() bool {
		return get(t, w, ".status.counts.parked", "replication", "poisoned") == "0"
	})
}

func names(t *testing.T, w *world.World, namespace string) string {
	t.Helper()
	out, err := w.DR.Kubectl("get", "configmaps", "-n", namespace, "-l", "dr-syncer.io/replication", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}

func fanOut(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("fan"))
	put(t, w, world.ConfigMap(r, "fan", "one", 10, 0))
	put(t, w, world.ConfigMap(r, "fan", "two", 10, 0))
	rules(t, w, "fan", "rules:\n- {name: twice, match: {kinds: [configmaps], names: [one]}, jq: '., (.metadata.name = \"one-more\")'}\n")
	replicate(t, w, "fan", "fan", "  transforms: {names: [fan]}\n")
	becomes := func(what, want string) {
		t.Helper()
		eventually(t, what, func() bool { return names(t, w, "fan") == want })
	}
	becomes("one object becomes two", "one one-more two")
	rules(t, w, "fan", "rules:\n- {name: none, match: {kinds: [configmaps], names: [two]}, jq: empty}\n")
	becomes("what no rule wants any more goes", "one")
	rules(t, w, "fan", "rules:\n- {name: twice, match: {kinds: [configmaps], names: [two]}, jq: '., (.metadata.name = \"two-more\")'}\n")
	becomes("another becomes two", "one two two-more")
	remove(t, w, world.ConfigMap(r, "fan", "two", 10, 0))
	becomes("both go with their source", "one")
}

func collision(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("clash"))
	put(t, w, world.ConfigMap(r, "clash", "a", 10, 1))
	rules(t, w, "clash", "rules:\n- {name: same, match: {kinds: [configmaps], names: [a, b]}, jq: '.metadata.name = \"x\"'}\n")
	replicate(t, w, "clash", "clash", "  transforms: {names: [clash]}\n")
	eventually(t, "the first has the copy", func() bool { return get(t, w, ".data.revision", "configmap", "x", "-n", "clash") == "1" })
	put(t, w, world.ConfigMap(r, "clash", "b", 10, 2))
	eventually(t, "the other is parked, and both are named", func() bool {
		lastError := get(t, w, ".status.lastError", "replication", "clash")
		return get(t, w, ".status.counts.parked", "replication", "clash") == "1" && strings.Contains(lastError, "clash/b") && strings.Contains(lastError, "clash/a")
	})
	remove(t, w, world.ConfigMap(r, "clash", "a", 10, 1))
	eventually(t, "the other has it", func() bool {
		return get(t, w, ".data.revision", "configmap", "x", "-n", "clash") == "2" && get(t, w, ".status.counts.parked", "replication", "clash") == "0"
	})
}

func rotation(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("rotation"))
	for i := range 10 {
		put(t, w, world.ConfigMap(r, "rotation", fmt.Sprintf("cm-%d", i), 10, 0))
	}
	secret := func(value string) {
		t.Helper()
		if err := w.DR.Apply("apiVersion: v1\nkind: Secret\nmetadata: {name: pass, namespace: default}\nstringData: {k: " + value + "}\n"); err != nil {
			t.Fatal(err)
		}
	}
	secret("swordfish-1")
	rules(t, w, "asking", "rules:\n- {name: asking, match: {kinds: [configmaps], names: [cm-3]}, params: {p: {fromSecret: {name: pass, key: k}}}, jq: '.data.p = $params.p'}\n"+
		"- {name: telling, match: {kinds: [configmaps], names: [cm-4]}, params: {p: {fromSecret: {name: pass, key: k}}}, jq: 'error($params.p)'}\n")
	replicate(t, w, "rotation", "rotation", "  transforms: {names: [asking]}\n")
	has := func(value string) {
		t.Helper()
		eventually(t, "the copy has the value", func() bool { return get(t, w, ".data.p", "configmap", "cm-3", "-n", "rotation") == value })
	}
	has("swordfish-1")
	eventually(t, "a rule that fails is parked", func() bool { return get(t, w, ".status.counts.parked", "replication", "rotation") == "1" })
	caughtUp(t, w, "rotation")
	before := writesTo(t, w)
	secret("swordfish-2")
	has("swordfish-2")
	caughtUp(t, w, "rotation")
	if n := writesTo(t, w) - before - 1; n != 1 { // one write is the Secret's own
		t.Errorf("one copy has another result, and %d writes were made", n)
	}
	out, err := w.DR.Kubectl("get", "replications,events", "-A", "-o", "yaml")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "swordfish") {
		t.Error("status or events tell the Secret")
	}
	if strings.Contains(w.Applier.Tail(100_000), "swordfish") {
		t.Error("the applier's log tells the Secret")
	}
}

func brokenAtStart(t *testing.T, w *world.World) {
	r := random(t)
	put(t, w, world.Namespace("hold"))
	put(t, w, world.ConfigMap(r, "hold", "secretive", 10, 0))
	rules(t, w, "hold", "rules:\n- {name: hide, match: {kinds: [configmaps]}, jq: 'del(.data.payload'}\n")
	replicate(t, w, "hold", "hold", "  transforms: {names: [hold]}\n")
	rulesReady(t, w, "hold", "False", "Nothing is applied")
	put(t, w, world.ConfigMap(r, "hold", "more", 10, 0))
	if got := names(t, w, "hold"); got != "" {
		t.Errorf("without their rules there are copies: %s", got)
	}
	rules(t, w, "hold", "rules:\n- {name: hide, match: {kinds: [configmaps]}, jq: 'del(.data.payload)'}\n")
	eventually(t, "mended, it begins", func() bool { return names(t, w, "hold") == "more secretive" })
	if got := get(t, w, ".data.payload", "configmap", "secretive", "-n", "hold"); got != "" {
		t.Error("the copy has what the rule takes away")
	}
	// Other Replications were never held up.
	put(t, w, world.ConfigMap(r, "poisoned", "late", 10, 9))
	eventually(t, "others go on", func() bool { return get(t, w, ".data.revision", "configmap", "late", "-n", "poisoned") == "9" })
}
