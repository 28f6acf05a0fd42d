package collect

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

const shop = `---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: shop}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 31234, name: a}, {port: 81, name: b}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "shop:reader"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`

func TestLogEqualsCluster(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(shop)
	w.start()
	w.caughtUp()

	w.kubectl("scale", "-n", "shop", "deployment/web", "--replicas=5")
	w.kubectl("delete", "-n", "shop", "secret/login")
	w.apply(configMap("shop", "settings", "1"))
	w.caughtUp()
	events := w.eventsAfter(beginning(w))
	if diff := cmp.Diff([]string{"put", "delete watch"}, of(events, "login")); diff != "" {
		t.Errorf("events of the Secret (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"put", "put", "put"}, of(events, "web")); diff != "" {
		t.Errorf("events of Service and Deployment (-want +got):\n%s", diff)
	}
	for _, e := range events {
		if e.Ref.Name == "login" && (e.Manager != "kubectl" && e.Op == pipeline.OpPut || e.Observed.IsZero() || e.UID == "" || e.Version == "") {
			t.Errorf("event %+v lacks something", e)
		}
	}
}

func TestRecreatedIsTwoEvents(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("recreate") + configMap("recreate", "again", "1"))
	w.start()
	w.caughtUp()
	before := w.position()
	w.kubectl("delete", "-n", "recreate", "configmap/again")
	w.apply(configMap("recreate", "again", "1"))
	w.caughtUp()
	if diff := cmp.Diff([]string{"delete watch", "put"}, of(w.eventsAfter(before), "again")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestIgnoreLabel(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("ignore") + configMap("ignore", "never", "1") + configMap("ignore", "later", "1") + configMap("ignore", "back", "1"))
	w.kubectl("label", "-n", "ignore", "configmap/never", v1alpha1.LabelIgnore+"=true")
	w.start()
	w.caughtUp()
	w.kubectl("label", "-n", "ignore", "configmap/later", "configmap/back", v1alpha1.LabelIgnore+"=true")
	w.caughtUp()
	w.kubectl("patch", "-n", "ignore", "configmap/later", "-p", `{"data":{"value":"2"}}`)
	w.kubectl("delete", "-n", "ignore", "configmap/later", "configmap/never")
	w.kubectl("label", "-n", "ignore", "configmap/back", v1alpha1.LabelIgnore+"-")
	w.caughtUp()
	w.stop()
	w.start() // what is released stays released
	w.caughtUp()
	events := w.eventsAfter(beginning(w))
	for name, want := range map[string][]string{"never": nil, "later": {"put", "release"}, "back": {"put", "release", "put"}} {
		if diff := cmp.Diff(want, of(events, name)); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", name, diff)
		}
	}
}

const gadgets = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const gadget = `---
apiVersion: example.com/v1
kind: Gadget
metadata: {name: blue, namespace: custom}
spec: {ratio: 1.50, big: 12345678901234567890}
status: {kept: since there is no status subresource}
`

// applyWhenServed applies objects of a kind that the server is about to serve.
func (w *world) applyWhenServed(yaml string) {
	w.t.Helper()
	w.eventually("kind is served", func() string {
		if _, err := w.cluster.Kubectl("get", "gadgets", "-A"); err != nil {
			return err.Error()
		}
		return ""
	})
	w.apply(yaml)
}

func TestKindsComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kubetest.Start(t))
	w.config.Discovery = Duration(time.Hour) // only the signs of new kinds can help
	w.start()
	w.caughtUp()
	w.apply(namespaceYAML("custom") + gadgets)
	w.applyWhenServed(gadget)
	w.caughtUp()
	if len(w.inLog()) == 0 || w.inLog()["example.com/gadgets custom/blue"] == "" {
		t.Fatal("the custom resource is not in the log")
	}
	w.kubectl("delete", "crd/gadgets.example.com")
	w.caughtUp()
	w.apply(gadgets)
	w.applyWhenServed(gadget)
	w.caughtUp()
	if diff := cmp.Diff([]string{"put", "delete watch", "put"}, of(w.eventsAfter(beginning(w)), "blue")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestBrokenConversionDeletesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kubetest.Start(t))
	w.apply(namespaceYAML("custom") + gadgets)
	w.applyWhenServed(gadget)
	w.start()
	w.caughtUp()
	w.stop()

	broken := strings.Replace(gadgets, "  versions:\n", `  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {url: "https://127.0.0.1:1/convert"}
  versions:
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, 1)
	w.apply(broken + configMap("custom", "beside", "1"))
	w.start()
	w.eventually("the kind fails, others go on", func() string {
		if h := w.heartbeat(); h.Failing["example.com/gadgets"] == "" {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		if w.inLog()["configmaps custom/beside"] == "" {
			return "the ConfigMap is not in the log"
		}
		return ""
	})
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted: %v", got)
	}
	w.apply(gadgets)
	w.caughtUp()
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted: %v", got)
	}
}

func TestConfigureReleasesAndCollects(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("conf-a") + configMap("conf-a", "a", "1") + namespaceYAML("conf-b") + configMap("conf-b", "b", "1"))
	w.config.Namespaces.Include = []string{"conf-a", "conf-b"}
	c := w.start()
	w.caughtUp()

	next := w.config
	next.Namespaces.Exclude = []string{"conf-b"}
	next.Kinds.Exclude = []string{"rbac.authorization.k8s.io/*"}
	w.config = next
	if err := c.Configure(next); err != nil {
		t.Fatal(err)
	}
	w.caughtUp()
	last := w.current()
	for ref, r := range last {
		wanted := ref.Namespace != "conf-b" && ref.Name != "conf-b" && ref.Group != "rbac.authorization.k8s.io"
		if (r.Op == pipeline.OpPut) != wanted || !wanted && r.Op != pipeline.OpRelease {
			t.Errorf("%s: last event is a %s", ref, r.Op)
		}
	}
	bad := w.config
	bad.Heartbeat = 0
	if err := c.Configure(bad); err == nil {
		t.Error("a bad configuration was accepted")
	}
	w.config.Namespaces.Exclude = nil
	if err := c.Configure(w.config); err != nil {
		t.Fatal(err)
	}
	w.caughtUp()
}

// put writes a ConfigMap without kubectl.
func (w *world) put(namespace, name, value string) {
	w.t.Helper()
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q},"data":{"value":%q}}`, name, namespace, value)
	if _, _, err := w.cluster.Client().Apply(w.t.Context(), configMaps, namespace, name, []byte(body)); err != nil {
		w.t.Fatal(err)
	}
}

var configMaps = kube.Kind{
	GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1", Kind: "ConfigMap",
	Namespaced: true, Verbs: []string{"get", "list", "watch"},
}

func TestManyUpdatesCoalesceBehindASlowLog(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("busy") + configMap("busy", "counter", "0"))
	w.config.Namespaces.Include = []string{"busy"}
	w.start()
	w.caughtUp()
	before := w.position()
	w.log.SetFault(func(string, []pipeline.Event) memlog.Fault {
		<-time.After(100 * time.Millisecond) // a slow disk
		return memlog.Fault{}
	})
	defer w.log.SetFault(nil)
	for i := range 100 {
		w.put("busy", "counter", strconv.Itoa(i+1))
	}
	w.caughtUp()
	if n := len(of(w.eventsAfter(before), "counter")); n < 1 || n > 50 {
		t.Errorf("100 updates were written as %d events, want far less", n)
	}
}

func TestLogAwayLosesNothing(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("away") + configMap("away", "stays", "1") + configMap("away", "goes", "1"))
	w.config.Namespaces.Include = []string{"away"}
	w.config.Outbox.MaxBytes = 1 << 20
	w.start()
	w.caughtUp()
	before := w.position()
	w.log.SetFault(func(string, []pipeline.Event) memlog.Fault {
		return memlog.Fault{Err: errors.New("the log is away")}
	})
	large := strings.Repeat("x", 100_000)
	for i := range 30 { // more than the outbox holds
		w.put("away", fmt.Sprintf("c%02d", i), large)
	}
	w.kubectl("delete", "-n", "away", "configmap/goes", "configmap/c00", "configmap/c29")
	w.apply(configMap("away", "stays", "2"))
	w.eventually("outbox is full", func() string {
		outbox := w.running.ready.Load().outbox
		if _, size := outbox.waiting(); size < 1<<20 {
			return fmt.Sprintf("%d bytes", size)
		} else if size > 2<<20 {
			t.Errorf("outbox holds %d bytes", size)
		}
		return ""
	})
	w.log.SetFault(nil)
	w.caughtUp()
	events := w.eventsAfter(before)
	for name, want := range map[string][]string{"stays": {"put"}, "goes": {"delete watch"}, "c10": {"put"}, "c20": {"put"}} {
		if diff := cmp.Diff(want, of(events, name)); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRefusedObjectHoldsUpNobody(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("refused") + configMap("refused", "poison", "1") + configMap("refused", "a", "1") + configMap("refused", "b", "1"))
	w.config.Namespaces.Include = []string{"refused"}
	w.log.SetFault(func(_ string, events []pipeline.Event) memlog.Fault {
		for _, e := range events {
			if e.Ref.Name == "poison" && strings.Contains(string(e.Body), `"value":"1"`) {
				return memlog.Fault{Err: pipeline.ErrTooLarge}
			}
		}
		return memlog.Fault{}
	})
	w.start()
	w.eventually("the others are in the log, the one is named", func() string {
		if got := w.inLog(); got["configmaps refused/a"] == "" || got["configmaps refused/b"] == "" {
			return "not in the log"
		}
		if h := w.heartbeat(); !strings.Contains(h.Failing["configmaps"], "refused/poison") {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
	w.put("refused", "poison", "2") // heals
	w.caughtUp()
	w.eventually("nothing fails", func() string {
		if h := w.heartbeat(); len(h.Failing) != 0 {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		return ""
	})
}

func TestEveryChangeIsOneTrace(t *testing.T) {
	spans := telemetrytest.Spans(t)
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("traced"))
	w.config.Namespaces.Include = []string{"traced"}
	w.start()
	w.caughtUp()
	before := w.position()
	for i := range 50 {
		w.put("traced", fmt.Sprintf("c%02d", i), "1")
	}
	w.caughtUp()
	w.stop()
	traces := spans.Traces()
	events := w.eventsAfter(before)
	if len(events) < 50 {
		t.Fatalf("%d events", len(events))
	}
	for _, e := range events {
		parts := strings.Split(e.Trace.Parent, "-")
		if len(parts) != 4 {
			t.Fatalf("event of %s has no trace: %q", e.Ref, e.Trace.Parent)
		}
		var names []string
		for _, s := range traces[parts[1]] {
			names = append(names, s.Name)
			if s.Failed {
				t.Errorf("span %s of %s failed", s.Name, e.Ref)
			}
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{telemetry.SpanCollect, telemetry.SpanPublish}, names); diff != "" {
			t.Errorf("spans of %s (-want +got):\n%s", e.Ref, diff)
		}
	}
}
