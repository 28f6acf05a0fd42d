package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// counting is a Client that counts its requests for objects.
type counting struct {
	*kube.Client
	applies, deletes, gets atomic.Int64
}

func (c *counting) Get(ctx context.Context, k kube.Kind, namespace, name string) (kube.Object, error) {
	c.gets.Add(1)
	return c.Client.Get(ctx, k, namespace, name)
}

func (c *counting) Apply(ctx context.Context, k kube.Kind, namespace, name string, body []byte) (kube.Meta, bool, error) {
	c.applies.Add(1)
	return c.Client.Apply(ctx, k, namespace, name, body)
}

func (c *counting) Delete(ctx context.Context, k kube.Kind, namespace, name, uid string) error {
	c.deletes.Add(1)
	return c.Client.Delete(ctx, k, namespace, name, uid)
}

func (c *counting) requests() int64 { return c.applies.Load() + c.deletes.Load() + c.gets.Load() }

// stand is a destination with one process's inventory.
type stand struct {
	t         *testing.T
	cluster   *kubetest.Cluster
	client    *counting
	inventory *Inventory
	seq       *uint64
	ns        string
	stop      func()
}

func newStand(t *testing.T) *stand {
	t.Helper()
	return on(t, kubetest.Shared(t))
}

func on(t *testing.T, c *kubetest.Cluster) *stand {
	t.Helper()
	s := &stand{t: t, cluster: c, seq: new(uint64), ns: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))}
	s.restart()
	return s
}

// restart gives the stand a new process: nothing is remembered.
func (s *stand) restart() {
	s.t.Helper()
	if s.stop != nil {
		s.stop()
	}
	s.client = &counting{Client: s.cluster.Client()}
	s.inventory = NewInventory(s.client.Client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.inventory.Run(ctx); err != nil {
			s.t.Errorf("run inventory: %v", err)
		}
	})
	s.stop = func() {
		cancel()
		wg.Wait()
	}
	s.t.Cleanup(s.stop)
}

func (s *stand) applier(name string, change ...func(*Settings)) *Applier {
	s.t.Helper()
	set := Settings{
		Namespace: "dr", Name: name, Client: s.client, Inventory: s.inventory, Log: slog.New(slog.DiscardHandler),
		Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}, IncludeClusterScoped: true},
	}
	for _, c := range change {
		c(&set)
	}
	a, err := New(set)
	if err != nil {
		s.t.Fatalf("new applier: %v", err)
	}
	return a
}

// put makes a record of an object in YAML, of a kind by its resource.
func (s *stand) put(resource, text string) pipeline.Record {
	s.t.Helper()
	body, err := yaml.YAMLToJSON([]byte(kubetest.In(s.ns, text)))
	if err != nil {
		s.t.Fatal(err)
	}
	var o struct {
		APIVersion, Kind string
		Metadata         struct{ Namespace, Name string }
	}
	if err := json.Unmarshal(body, &o); err != nil {
		s.t.Fatal(err)
	}
	group, _, ok := strings.Cut(o.APIVersion, "/")
	if !ok {
		group = ""
	}
	*s.seq++
	ref := pipeline.Ref{Site: "prod", Group: group, Resource: resource, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
	return pipeline.Record{
		Event: pipeline.Event{
			Ref: ref, Op: pipeline.OpPut, UID: "source-" + o.Metadata.Name, APIVersion: o.APIVersion, Kind: o.Kind,
			Digest: pipeline.DigestOf(body), Body: body, Observed: time.Now(),
		},
		Position: pipeline.Position{Epoch: "E", Seq: *s.seq},
	}
}

// gone makes the tombstone of a record.
func (s *stand) gone(r pipeline.Record) pipeline.Record {
	*s.seq++
	r.Op, r.Evidence, r.Body = pipeline.OpDelete, pipeline.EvidenceWatch, nil
	r.Position.Seq = *s.seq
	return r
}

func (s *stand) configMap(name, value string) pipeline.Record {
	return s.put("configmaps", fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS}, data: {value: %q}}", name, value))
}

func (s *stand) namespace() pipeline.Record {
	return s.put("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
}

// apply wants a result.
func (s *stand) apply(a *Applier, r pipeline.Record, want pipeline.Result) {
	s.t.Helper()
	got, err := a.Apply(s.t.Context(), r)
	if err != nil || got != want {
		s.t.Fatalf("apply %s: %q, %v; want %q", r.Ref, got, err, want)
	}
}

// fail wants an error of a class that mentions what.
func (s *stand) fail(a *Applier, r pipeline.Record, class pipeline.Class, what string) {
	s.t.Helper()
	got, err := a.Apply(s.t.Context(), r)
	if err == nil || pipeline.ClassOf(err) != class || !strings.Contains(err.Error(), what) {
		s.t.Fatalf("apply %s: %q, %v (%s); want %s with %q", r.Ref, got, err, pipeline.ClassOf(err), class, what)
	}
}

// kubectl runs and wants success.
func (s *stand) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.cluster.Kubectl(args...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// value is data.value of a ConfigMap in the stand's namespace, or "" if there is none.
func (s *stand) value(name string) string {
	s.t.Helper()
	return s.kubectl("get", "configmap", "-n", s.ns, name, "--ignore-not-found", "-o", "jsonpath={.data.value}")
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// zoo is one object of many kinds, as collected.
const zoo = `
services {apiVersion: v1, kind: Service, metadata: {name: web, namespace: NS}, spec: {selector: {app: web}, ports: [{port: 80, name: http, targetPort: http}, {port: 443, name: tls, protocol: TCP}]}}
services {apiVersion: v1, kind: Service, metadata: {name: one, namespace: NS}, spec: {type: ExternalName, externalName: example.com}}
secrets {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, type: Opaque, data: {a: YQ==, b: ""}}
serviceaccounts {apiVersion: v1, kind: ServiceAccount, metadata: {name: sa, namespace: NS}, imagePullSecrets: [{name: s}]}
persistentvolumeclaims {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: NS}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}}
limitranges {apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: NS}, spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: "0.1"}}]}}
resourcequotas {apiVersion: v1, kind: ResourceQuota, metadata: {name: q, namespace: NS}, spec: {hard: {pods: "10", requests.cpu: "4"}}}
deployments {apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS, labels: {app: web}, annotations: {note: x}}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "nginx:1", ports: [{containerPort: 80, name: http}], env: [{name: A, value: "1"}, {name: B, valueFrom: {secretKeyRef: {name: s, key: a}}}], resources: {limits: {memory: 1Gi}}, volumeMounts: [{name: tmp, mountPath: /tmp}], readinessProbe: {httpGet: {path: /, port: http}}, command: [a, b]}], volumes: [{name: tmp, emptyDir: {}}], tolerations: [{key: a, operator: Exists}], affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: h, labelSelector: {matchLabels: {app: web}}}}]}}}}}}
statefulsets {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: NS}, spec: {serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: db}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}
daemonsets {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, namespace: NS}, spec: {selector: {matchLabels: {app: d}}, template: {metadata: {labels: {app: d}}, spec: {hostNetwork: true, containers: [{name: d, image: d, securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]}}}]}}}}
cronjobs {apiVersion: batch/v1, kind: CronJob, metadata: {name: c, namespace: NS}, spec: {schedule: "* * * * *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}}}
horizontalpodautoscalers {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h, namespace: NS}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}]}}
ingresses {apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: NS}, spec: {tls: [{hosts: [a.example.com], secretName: s}], rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
networkpolicies {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: NS}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {a: b}}}], ports: [{port: 80}]}], egress: [{}]}}
poddisruptionbudgets {apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p, namespace: NS}, spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}}
roles {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: NS}, rules: [{apiGroups: [""], resources: [pods, pods/log], verbs: [get, list]}]}
rolebindings {apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{kind: ServiceAccount, name: sa, namespace: NS}]}
clusterroles {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: NS}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}}
priorityclasses {apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: NS}, value: 1000, description: x}
storageclasses {apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: NS}, provisioner: x/y, parameters: {a: b}, allowVolumeExpansion: true}
configmaps {apiVersion: v1, kind: ConfigMap, metadata: {name: odd, namespace: NS, finalizers: [example.com/hold]}, binaryData: {x: AAEC}, data: {a.b: "1"}}
`

func TestUnchangedCostsNothing(t *testing.T) {
	s := newStand(t)
	a := s.applier("zoo")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	var records []pipeline.Record
	for line := range strings.Lines(strings.TrimSpace(zoo)) {
		resource, text, _ := strings.Cut(line, " ")
		r := s.put(resource, text)
		s.apply(a, r, pipeline.ResultCreated)
		records = append(records, r)
	}
	before := s.client.requests()
	for _, r := range records {
		s.apply(a, r, pipeline.ResultUnchanged)
		r.Position.Seq += 1000
		s.apply(a, r, pipeline.ResultUnchanged)
	}
	if n := s.client.requests() - before; n != 0 {
		t.Errorf("%d requests for unchanged objects, want 0", n)
	}

	s.restart()
	a = s.applier("zoo")
	for _, r := range records {
		got, err := a.Apply(t.Context(), r)
		if err != nil || got != pipeline.ResultUnchanged {
			fields := s.kubectl("get", r.Ref.Resource, "-n", s.ns, r.Ref.Name, "-o", "jsonpath={.metadata.managedFields}", "--show-managed-fields")
			t.Errorf("after a restart, %s: %q, %v; want unchanged\n%s", r.Ref, got, err, fields)
		}
	}
	if n := s.client.requests(); n != 0 {
		t.Errorf("%d requests for unchanged objects after a restart, want 0", n)
	}
	want := map[pipeline.GroupResource]int64{}
	for _, r := range records {
		want[r.Ref.GroupResource()]++
	}
	if diff := cmp.Diff(want, a.Synced()); diff != "" {
		t.Errorf("synced (-want +got):\n%s", diff)
	}
}

func TestAppliesInOrder(t *testing.T) {
	s := newStand(t)
	a := s.applier("order")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	stale := s.configMap("a", "stale")
	first := s.configMap("a", "one")
	s.apply(a, first, pipeline.ResultCreated)
	s.apply(a, stale, pipeline.ResultSkipped)
	s.apply(a, s.configMap("a", "two"), pipeline.ResultConfigured)
	if got := s.value("a"); got != "two" {
		t.Fatalf("value is %q, want two", got)
	}
	s.apply(a, first, pipeline.ResultSkipped)

	t.Run("fields that vanish at the source vanish here", func(*testing.T) {
		s.apply(a, s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: {other: x}}"), pipeline.ResultConfigured)
		if got := s.value("a"); got != "" {
			t.Errorf("value is %q, want none", got)
		}
	})
	t.Run("a stale put after a restart", func(*testing.T) {
		s.restart()
		s.apply(s.applier("order"), first, pipeline.ResultSkipped)
	})
}

func TestTombstones(t *testing.T) {
	s := newStand(t)
	a := s.applier("tombs")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "1")
	s.apply(a, r, pipeline.ResultCreated)
	late := s.gone(r)

	t.Run("retain", func(*testing.T) {
		retaining := s.applier("tombs", func(set *Settings) { set.Spec.DeletionPolicy = v1alpha1.DeletionRetain })
		s.apply(retaining, late, pipeline.ResultSkipped)
	})
	t.Run("another Replication's tombstone", func(*testing.T) {
		s.apply(s.applier("other"), late, pipeline.ResultSkipped)
	})
	t.Run("no evidence", func(*testing.T) {
		bad := late
		bad.Evidence = pipeline.EvidenceNone
		s.fail(a, bad, pipeline.Malformed, "evidence")
	})
	released := late
	released.Op = pipeline.OpRelease
	s.apply(a, released, pipeline.ResultSkipped)
	if s.value("a") != "1" {
		t.Fatal("the copy is gone")
	}
	s.apply(a, late, pipeline.ResultDeleted)
	s.apply(a, late, pipeline.ResultUnchanged)
	if s.value("a") != "" {
		t.Fatal("the copy is still there")
	}
	again := s.configMap("a", "2")
	again.UID = "source-a-2"
	s.apply(a, again, pipeline.ResultCreated)
	s.apply(a, late, pipeline.ResultSkipped)
	if s.value("a") != "2" {
		t.Fatal("a tombstone of the former object has hit the new one")
	}
	t.Run("of a kind that is not served", func(*testing.T) {
		gone := late
		gone.Ref.Group, gone.Ref.Resource = "nowhere.example.com", "widgets"
		s.apply(a, gone, pipeline.ResultUnchanged)
	})
}

func TestForeignIsUntouched(t *testing.T) {
	s := newStand(t)
	s.kubectl("create", "namespace", s.ns)
	s.kubectl("create", "configmap", "-n", s.ns, "a", "--from-literal=value=mine")
	version := s.kubectl("get", "configmap", "-n", s.ns, "a", "-o", "jsonpath={.metadata.resourceVersion}")
	a := s.applier("foreign")
	r := s.configMap("a", "theirs")
	s.fail(a, r, pipeline.Foreign, "conflictPolicy: Adopt")
	s.fail(a, s.namespace(), pipeline.Foreign, "not a copy")
	s.apply(a, s.gone(r), pipeline.ResultSkipped)
	if got := s.kubectl("get", "configmap", "-n", s.ns, "a", "-o", "jsonpath={.metadata.resourceVersion}"); got != version {
		t.Fatalf("the foreign object was written: version %s, was %s", got, version)
	}
	if n := s.client.requests(); n != 0 {
		t.Errorf("%d requests to know a foreign object, want 0", n)
	}

	adopting := s.applier("foreign", func(set *Settings) { set.Spec.ConflictPolicy = v1alpha1.ConflictAdopt })
	s.apply(adopting, s.configMap("a", "theirs"), pipeline.ResultConfigured)
	if got := s.value("a"); got != "theirs" {
		t.Errorf("value is %q, want theirs", got)
	}

	t.Run("one that the watch has not shown yet", func(t *testing.T) {
		s.kubectl("create", "configmap", "-n", s.ns, "unseen", "--from-literal=value=mine")
		shelf, err := s.inventory.shelf(t.Context(), pipeline.GroupResource{Resource: "configmaps"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the watch has passed it", func() bool { return shelf.look(key{s.ns, "unseen"}).holder == foreign })
		shelf.refresh(key{s.ns, "unseen"}, nil) // as if it had not
		s.fail(a, s.configMap("unseen", "theirs"), pipeline.Foreign, "not a copy")
		if got := s.value("unseen"); got != "mine" {
			t.Errorf("value is %q, want mine", got)
		}
		shelf.refresh(key{s.ns, "unseen"}, nil)
		s.apply(adopting, s.configMap("unseen", "theirs"), pipeline.ResultConfigured)
	})
	t.Run("one that appears while we run", func(t *testing.T) {
		s.kubectl("create", "configmap", "-n", s.ns, "b", "--from-literal=value=mine")
		shelf, err := s.inventory.shelf(t.Context(), pipeline.GroupResource{Resource: "configmaps"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the watch shows the object", func() bool { return shelf.look(key{s.ns, "b"}).holder == foreign })
		s.fail(a, s.configMap("b", "theirs"), pipeline.Foreign, "not a copy")
	})
}

// TestInheritedLabels has what a controller makes from a copy: an object with the copy's
// label, annotations even, that we have not applied.
func TestInheritedLabels(t *testing.T) {
	s := newStand(t)
	a := s.applier("heirs")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	s.apply(a, s.configMap("ours", "1"), pipeline.ResultCreated)
	marks := func(name string) string {
		return kubetest.In(s.ns, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS, labels: {%s: %s}, annotations: {%s: %q}}, data: {value: theirs}}",
			name, v1alpha1.LabelReplication, Mark("dr", "heirs"), v1alpha1.AnnotationOrigin, originOf(s.configMap(name, "")).String()))
	}
	if err := s.cluster.Apply(marks("made")); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"watched", "listed"} {
		t.Run(kind, func(*testing.T) {
			s.restart()
			a := s.applier("heirs")
			if kind == "watched" {
				r := s.configMap("made", "ours")
				s.fail(a, r, pipeline.Foreign, "not a copy")
				s.apply(a, s.gone(r), pipeline.ResultSkipped)
			}
			s.fail(a, s.gone(s.namespace()), pipeline.Foreign, "configmaps "+s.ns+"/made")
		})
	}
	got, err := DeleteCopies(t.Context(), Deletion{Namespace: "dr", Name: "heirs", Client: s.client, Inventory: s.inventory, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Deleted{Deleted: 1, Kept: []string{"namespaces " + s.ns}}, got); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	if s.value("made") != "theirs" || s.value("ours") != "" {
		t.Errorf("left are made %q, ours %q; want only the first", s.value("made"), s.value("ours"))
	}
}

func TestTwoReplications(t *testing.T) {
	s := newStand(t)
	a, b := s.applier("one"), s.applier("two", func(set *Settings) { set.Spec.ConflictPolicy = v1alpha1.ConflictAdopt })
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	s.apply(a, s.configMap("a", "1"), pipeline.ResultCreated)
	s.fail(b, s.configMap("a", "2"), pipeline.Foreign, `Replication "dr.one"`)
	s.apply(b, s.configMap("b", "2"), pipeline.ResultCreated)
	configMaps := pipeline.GroupResource{Resource: "configmaps"}
	if n, m := a.Synced()[configMaps], b.Synced()[configMaps]; n != 1 || m != 1 {
		t.Errorf("synced are %d and %d, want 1 and 1", n, m)
	}
	t.Run("the namespace that they share goes when the copies of both are gone", func(t *testing.T) {
		shared := s.put("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS-shared}}")
		inside := s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: NS-shared}}")
		s.apply(a, shared, pipeline.ResultCreated)
		s.apply(b, shared, pipeline.ResultSkipped)
		s.apply(b, inside, pipeline.ResultCreated)
		gone := s.gone(shared)
		s.fail(a, gone, pipeline.Dependency, "configmaps "+s.ns+"-shared/b")
		s.apply(b, s.gone(inside), pipeline.ResultDeleted)
		eventually(t, "the namespace goes", func() bool {
			res, err := a.Apply(t.Context(), gone)
			return err == nil && res == pipeline.ResultDeleted
		})
	})
	t.Run("the first is deleted, its copies stay", func(*testing.T) {
		heir := s.applier("two", func(set *Settings) {
			set.Spec.ConflictPolicy = v1alpha1.ConflictAdopt
			set.Orphaned = func(mark string) bool { return mark == "dr.one" }
		})
		s.apply(heir, s.configMap("a", "2"), pipeline.ResultConfigured)
		if s.value("a") != "2" {
			t.Error("the orphan was not taken over")
		}
		refusing := s.applier("three", func(set *Settings) { set.Orphaned = func(mark string) bool { return mark == "dr.one" } })
		s.apply(refusing, s.namespace(), pipeline.ResultConfigured)
		if got, want := s.kubectl("get", "namespace", s.ns, "-o", `jsonpath={.metadata.labels.dr-syncer\.io/replication}`), "dr.three"; got != want {
			t.Errorf("the namespace without a Replication has the mark %q, want %q", got, want)
		}
	})
}

func TestMapping(t *testing.T) {
	s := newStand(t)
	a := s.applier("map", func(set *Settings) {
		set.Spec.Namespaces = &v1alpha1.NamespaceSelector{Names: []string{s.ns, s.ns + "-twin"}}
		set.Spec.NamespaceMapping = &v1alpha1.NamespaceMapping{Names: map[string]string{s.ns: s.ns + "-copy"}}
	})
	r := s.configMap("a", "1")
	s.fail(a, r, pipeline.Dependency, "not found")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	s.apply(a, r, pipeline.ResultCreated)
	if got := s.kubectl("get", "configmap", "-n", s.ns+"-copy", "a", "-o", "jsonpath={.data.value}"); got != "1" {
		t.Errorf("value is %q, want 1", got)
	}
	s.apply(a, s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: elsewhere}}"), pipeline.ResultSkipped)
	s.apply(a, s.gone(r), pipeline.ResultDeleted)

	t.Run("two sources for one copy", func(*testing.T) {
		s.apply(a, s.configMap("b", "1"), pipeline.ResultCreated)
		twin := s.applier("map", func(set *Settings) {
			set.Spec.NamespaceMapping = &v1alpha1.NamespaceMapping{Prefix: ""}
			set.Spec.NamespaceMapping.Names = map[string]string{s.ns: s.ns + "-copy"}
		})
		other := s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: NS-copy}, data: {value: other}}")
		s.fail(twin, other, pipeline.Foreign, "map them to two")
		s.apply(twin, s.gone(other), pipeline.ResultSkipped)
	})
	t.Run("into a namespace of the cluster itself", func(*testing.T) {
		into := s.applier("map", func(set *Settings) { set.Protected = []string{s.ns + "-own"} })
		s.fail(into, s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: kube-system}}"), pipeline.Forbidden, "belongs to this cluster itself")
		s.fail(into, s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: NS-own}}"), pipeline.Forbidden, "belongs to this cluster itself")
	})
}

func TestImmutable(t *testing.T) {
	s := newStand(t)
	a := s.applier("immutable")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	frozen := func(name, value string) pipeline.Record {
		return s.put("configmaps", fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, immutable: true, metadata: {name: %s, namespace: NS}, data: {value: %q}}", name, value))
	}
	claim := func(size string) pipeline.Record {
		return s.put("persistentvolumeclaims", "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: NS}, spec: {accessModes: ["+size+"], resources: {requests: {storage: 1Gi}}}}")
	}
	with := func(p v1alpha1.ImmutablePolicy) *Applier {
		return s.applier("immutable", func(set *Settings) { set.Spec.ImmutablePolicy = &p })
	}
	s.apply(a, frozen("a", "1"), pipeline.ResultCreated)
	s.apply(a, claim("ReadWriteOnce"), pipeline.ResultCreated)

	s.apply(with(v1alpha1.ImmutablePolicy{Default: v1alpha1.ImmutableSkip}), frozen("a", "2"), pipeline.ResultSkipped)
	s.fail(with(v1alpha1.ImmutablePolicy{Kinds: map[string]v1alpha1.ImmutableAction{"configmaps": v1alpha1.ImmutablePark}}), frozen("a", "2"), pipeline.Immutable, "immutable")
	if s.value("a") != "1" {
		t.Fatal("the copy was changed")
	}
	s.apply(a, frozen("a", "3"), pipeline.ResultRecreated)
	if s.value("a") != "3" {
		t.Fatal("the copy was not recreated")
	}
	s.apply(a, s.put("rolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}}"), pipeline.ResultCreated)
	s.apply(a, s.put("rolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: b}}"), pipeline.ResultRecreated)
	s.fail(a, claim("ReadWriteMany"), pipeline.Immutable, "")

	t.Run("a copy that does not go away", func(*testing.T) {
		s.kubectl("patch", "configmap", "-n", s.ns, "a", "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
		next := frozen("a", "4")
		s.fail(a, next, pipeline.Dependency, "still being deleted")
		s.kubectl("patch", "configmap", "-n", s.ns, "a", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		eventually(t, "it is made anew", func() bool {
			res, err := a.Apply(t.Context(), next)
			return err == nil && res == pipeline.ResultCreated
		})
	})
}

func TestDrift(t *testing.T) {
	s := newStand(t)
	a := s.applier("drift")
	var mu sync.Mutex
	seen := map[pipeline.Ref]int{}
	defer a.OnDrift(func(ref pipeline.Ref) {
		mu.Lock()
		defer mu.Unlock()
		seen[ref]++
	})()
	count := func(ref pipeline.Ref) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[ref]
	}
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "1")
	s.apply(a, r, pipeline.ResultCreated)
	for i := range 20 { // our own writes, of changing shape, are no drift
		r = s.put("configmaps", fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: {value: \"1\", k%d: x}}", i))
		s.apply(a, r, pipeline.ResultConfigured)
	}
	for name, edit := range map[string][]string{
		"a value":         {"patch", "configmap", "-n", s.ns, "a", "--type=merge", "-p", `{"data":{"value":"edited"}}`},
		"a removed field": {"patch", "configmap", "-n", s.ns, "a", "--type=json", "-p", `[{"op":"remove","path":"/data/value"}]`},
		"our annotation":  {"annotate", "configmap", "-n", s.ns, "a", "--overwrite", v1alpha1.AnnotationDigest + "=x"},
	} {
		before := count(r.Ref)
		s.kubectl(edit...)
		eventually(t, name+" is noticed", func() bool { return count(r.Ref) > before })
		s.apply(a, r, pipeline.ResultConfigured)
		if got := s.value("a"); got != "1" {
			t.Errorf("%s: value is %q, want 1", name, got)
		}
		s.apply(a, r, pipeline.ResultUnchanged)
	}
	t.Run("a field of somebody else's is none", func(t *testing.T) {
		before := count(r.Ref)
		s.kubectl("annotate", "configmap", "-n", s.ns, "a", "mine=x")
		shelf, err := s.inventory.shelf(t.Context(), r.Ref.GroupResource())
		if err != nil {
			t.Fatal(err)
		}
		version := number(s.kubectl("get", "configmap", "-n", s.ns, "a", "-o", "jsonpath={.metadata.resourceVersion}"))
		eventually(t, "the watch shows it", func() bool {
			shelf.mu.Lock()
			defer shelf.mu.Unlock()
			return shelf.ours[key{s.ns, "a"}].version >= version
		})
		s.apply(a, r, pipeline.ResultUnchanged)
		if count(r.Ref) != before {
			t.Error("it is taken for drift")
		}
	})
	t.Run("while nobody watches", func(t *testing.T) {
		s.restart()
		s.kubectl("patch", "configmap", "-n", s.ns, "a", "--type=json", "-p", `[{"op":"remove","path":"/data/value"}]`)
		s.apply(s.applier("drift"), r, pipeline.ResultConfigured)
		if got := s.value("a"); got != "1" {
			t.Errorf("value is %q, want 1", got)
		}
	})
	t.Run("a deleted copy", func(t *testing.T) {
		s.restart()
		a := s.applier("drift")
		defer a.OnDrift(func(ref pipeline.Ref) {
			mu.Lock()
			defer mu.Unlock()
			seen[ref]++
		})()
		s.apply(a, r, pipeline.ResultUnchanged)
		before := count(r.Ref)
		s.kubectl("delete", "configmap", "-n", s.ns, "a")
		eventually(t, "the deletion is noticed", func() bool { return count(r.Ref) > before })
		s.apply(a, r, pipeline.ResultCreated)
		before = count(r.Ref)
		gone := s.gone(r)
		s.apply(a, gone, pipeline.ResultDeleted)
		s.apply(a, s.configMap("a", "again"), pipeline.ResultCreated)
		if count(r.Ref) != before {
			t.Error("our own deletion is taken for drift")
		}
	})
	t.Run("a copy without its mark", func(t *testing.T) {
		b := s.configMap("b", "1")
		a := s.applier("drift")
		s.apply(a, b, pipeline.ResultCreated)
		s.kubectl("label", "configmap", "-n", s.ns, "b", v1alpha1.LabelReplication+"-")
		shelf, err := s.inventory.shelf(t.Context(), b.Ref.GroupResource())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is foreign now", func() bool { return shelf.look(key{s.ns, "b"}).holder == foreign })
		s.fail(a, b, pipeline.Foreign, "not a copy")
	})
}

// late performs the write of a record that an Applier has given up: its request reaches the server now.
func (s *stand) late(a *Applier, r pipeline.Record, to binding) {
	s.t.Helper()
	w, err := a.desire(s.t.Context(), r)
	if err != nil || len(w.copies) != 1 {
		s.t.Fatalf("desire %s: %v, %v", r.Ref, w, err)
	}
	d := w.copies[0]
	kind, err := s.client.Kind(s.t.Context(), r.Ref.GroupResource())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, _, err := s.client.Client.Apply(s.t.Context(), kind, d.namespace, d.name, d.marked(originOf(r), to)); err != nil {
		s.t.Fatal(err)
	}
}

// drifts hands out what an Applier says has drifted.
func (s *stand) drifts(a *Applier) <-chan pipeline.Ref {
	refs := make(chan pipeline.Ref, 1000)
	s.t.Cleanup(a.OnDrift(func(ref pipeline.Ref) { refs <- ref }))
	return refs
}

// wantDrift waits until ref is said to have drifted.
func wantDrift(t *testing.T, refs <-chan pipeline.Ref, ref pipeline.Ref) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case got := <-refs:
			if got == ref {
				return
			}
		case <-timeout:
			t.Fatalf("nobody says that %s has drifted", ref)
		}
	}
}

func TestLateWrites(t *testing.T) {
	s := newStand(t)
	a := s.applier("late")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	refs := s.drifts(a)

	t.Run("an update that a newer one has overtaken", func(t *testing.T) {
		r := s.configMap("a", "1")
		s.apply(a, r, pipeline.ResultCreated)
		older, newer := s.configMap("a", "older"), s.configMap("a", "newer")
		s.apply(a, newer, pipeline.ResultConfigured)
		uid := s.kubectl("get", "configmap", "-n", s.ns, "a", "-o", "jsonpath={.metadata.uid}")
		s.late(a, older, binding{uid: uid})
		wantDrift(t, refs, r.Ref)
		s.apply(a, newer, pipeline.ResultConfigured)
		if got := s.value("a"); got != "newer" {
			t.Errorf("value is %q, want newer", got)
		}
		s.apply(a, newer, pipeline.ResultUnchanged)
	})
	t.Run("a create that the tombstone has overtaken", func(t *testing.T) {
		r := s.configMap("b", "1")
		gone := s.gone(r)
		s.apply(a, gone, pipeline.ResultUnchanged)
		s.late(a, r, binding{fresh: true})
		wantDrift(t, refs, r.Ref)
		s.apply(a, gone, pipeline.ResultDeleted)
		if got := s.value("b"); got != "" {
			t.Errorf("value is %q, want none", got)
		}
	})
	select {
	case ref := <-refs:
		t.Errorf("%s is said to have drifted by our own write", ref)
	default:
	}
}

func TestRestoredDestination(t *testing.T) {
	s := on(t, kubetest.Start(t))
	a := s.applier("restored")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	s.apply(a, s.configMap("changed", "1"), pipeline.ResultCreated)
	deleted := s.configMap("deleted", "1")
	s.apply(a, deleted, pipeline.ResultCreated)
	snapshot, err := s.cluster.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	changed, gone, made := s.configMap("changed", "2"), s.gone(deleted), s.configMap("made", "1")
	s.apply(a, changed, pipeline.ResultConfigured)
	s.apply(a, gone, pipeline.ResultDeleted)
	s.apply(a, made, pipeline.ResultCreated)
	shelf, err := s.inventory.shelf(t.Context(), made.Ref.GroupResource())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch shows the last state", func() bool { return shelf.look(key{s.ns, "deleted"}).holder == absent })
	refs := s.drifts(a)
	if err := s.cluster.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	missing := map[pipeline.Ref]bool{changed.Ref: true, deleted.Ref: true, made.Ref: true}
	timeout := time.After(time.Minute)
	for len(missing) > 0 {
		select {
		case ref := <-refs:
			delete(missing, ref)
		case <-timeout:
			t.Fatalf("nobody says that these have drifted: %v", missing)
		}
	}
	s.apply(a, changed, pipeline.ResultConfigured)
	s.apply(a, gone, pipeline.ResultDeleted)
	s.apply(a, made, pipeline.ResultCreated)
	if s.value("changed") != "2" || s.value("deleted") != "" || s.value("made") != "1" {
		t.Errorf("changed is %q, deleted %q, made %q; want 2, none, 1", s.value("changed"), s.value("deleted"), s.value("made"))
	}
}

func TestSyncedIsWhatIsKeptInStep(t *testing.T) {
	s := newStand(t)
	kind := pipeline.GroupResource{Resource: "configmaps"}
	retain := func(set *Settings) {
		set.Spec.DeletionPolicy = v1alpha1.DeletionRetain
		set.Spec.ExcludeLabels = &metav1.LabelSelector{MatchLabels: map[string]string{"skip": "me"}}
	}
	a := s.applier("synced", retain)
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	want := int64(0)
	check := func(what string) {
		t.Helper()
		if got := a.Synced()[kind]; got != want {
			t.Errorf("%s: synced is %d, want %d", what, got, want)
		}
	}
	var records []pipeline.Record
	for _, name := range []string{"retained", "released", "excluded", "odd", "kept"} {
		r := s.configMap(name, "1")
		s.apply(a, r, pipeline.ResultCreated)
		records = append(records, r)
	}
	want = 5
	check("all are kept in step")
	s.apply(a, s.gone(records[0]), pipeline.ResultSkipped)
	want--
	check("retained")
	released := s.gone(records[1])
	released.Op, released.Evidence = pipeline.OpRelease, pipeline.EvidenceNone
	s.apply(a, released, pipeline.ResultSkipped)
	want--
	check("released")
	s.apply(a, s.put("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: excluded, namespace: NS, labels: {skip: me}}}"), pipeline.ResultSkipped)
	want--
	check("excluded")
	odd := s.configMap("odd", "2")
	odd.Body = odd.Body[:10]
	s.fail(a, odd, pipeline.Malformed, "not a JSON object")
	want--
	check("a body that cannot be read")
	s.apply(a, records[4], pipeline.ResultUnchanged)
	check("what is kept")

	a = s.applier("synced", retain)
	want = 0
	check("a new spec, before anything was looked at")
	s.apply(a, records[4], pipeline.ResultUnchanged)
	want = 1
	check("and after")
}

func TestReplacedBehindOurBack(t *testing.T) {
	s := newStand(t)
	a := s.applier("behind")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	r := s.configMap("a", "1")
	s.apply(a, r, pipeline.ResultCreated)
	shelf, err := s.inventory.shelf(t.Context(), r.Ref.GroupResource())
	if err != nil {
		t.Fatal(err)
	}
	// The inventory believes in a copy that is not there: as if its watch were late.
	pretend := func(uid string) {
		shelf.mu.Lock()
		defer shelf.mu.Unlock()
		shelf.ours[key{s.ns, "a"}].uid, shelf.ours[key{s.ns, "a"}].version = uid, 1
	}
	pretend("no-such-uid")
	s.apply(a, s.configMap("a", "2"), pipeline.ResultConfigured)
	if s.value("a") != "2" {
		t.Error("the copy was not updated")
	}
	pretend("no-such-uid")
	s.apply(a, s.gone(r), pipeline.ResultDeleted)
	if s.value("a") != "" {
		t.Error("the copy was not deleted")
	}
}

const widgets = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.NS.example.com}, spec: {group: NS.example.com, scope: Namespaced,
  names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]}}`

func TestDefinitions(t *testing.T) {
	s := newStand(t)
	a := s.applier("crd")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	widget := s.put("widgets", "{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 3}}")
	crd := s.put("customresourcedefinitions", widgets)
	s.fail(a, widget, pipeline.Dependency, "does not serve")
	s.apply(a, crd, pipeline.ResultCreated)
	s.apply(a, widget, pipeline.ResultCreated)
	s.apply(a, widget, pipeline.ResultUnchanged)

	t.Run("not deleted with foreign objects", func(*testing.T) {
		if err := s.cluster.Apply(kubetest.In(s.ns, "{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: foreign, namespace: NS}}")); err != nil {
			t.Fatal(err)
		}
		shelf, err := s.inventory.shelf(t.Context(), widget.Ref.GroupResource())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the watch shows it", func() bool { return shelf.look(key{s.ns, "foreign"}).holder == foreign })
		s.fail(a, s.gone(crd), pipeline.Foreign, "foreign")
		s.kubectl("delete", "widgets."+s.ns+".example.com", "-n", s.ns, "foreign")
		eventually(t, "the watch shows it gone", func() bool { return shelf.look(key{s.ns, "foreign"}).holder == absent })
	})
	s.apply(a, s.gone(widget), pipeline.ResultDeleted)
	s.apply(a, s.gone(crd), pipeline.ResultDeleted)
	t.Run("comes back", func(*testing.T) {
		eventually(t, "the definition is gone", func() bool {
			return s.kubectl("get", "crd", "widgets."+s.ns+".example.com", "--ignore-not-found", "-o", "name") == ""
		})
		*s.seq += 10
		next := s.put("customresourcedefinitions", widgets)
		eventually(t, "it is made anew", func() bool {
			_, err := a.Apply(t.Context(), next)
			return err == nil
		})
		back := s.put("widgets", "{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 4}}")
		eventually(t, "the object follows", func() bool {
			res, err := a.Apply(t.Context(), back)
			return err == nil && res == pipeline.ResultCreated
		})
	})
}

func TestRefusedByTheServer(t *testing.T) {
	s := newStand(t)
	a := s.applier("refused")
	s.apply(a, s.namespace(), pipeline.ResultCreated)
	s.fail(a, s.put("services", "{apiVersion: v1, kind: Service, metadata: {name: Bad_Name, namespace: NS}, spec: {ports: [{port: 80}]}}"), pipeline.Invalid, "")
	s.fail(a, s.put("services", "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: NS}, spec: {ports: [{port: many}]}}"), pipeline.Invalid, "")
	broken := s.configMap("a", "1")
	broken.Body = broken.Body[:20]
	s.fail(a, broken, pipeline.Malformed, "not a JSON object")
}
