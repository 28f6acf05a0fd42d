package replay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

// counted is a client that counts its writes.
type counted struct {
	*kube.Client
	writes atomic.Int64
}

func (c *counted) Apply(ctx context.Context, k kube.Kind, namespace, name string, body []byte) (kube.Meta, bool, error) {
	c.writes.Add(1)
	return c.Client.Apply(ctx, k, namespace, name, body)
}

func (c *counted) Delete(ctx context.Context, k kube.Kind, namespace, name, uid string) error {
	c.writes.Add(1)
	return c.Client.Delete(ctx, k, namespace, name, uid)
}

// site is a source that a test writes into the log for, and a real destination.
type site struct {
	*bench
	cluster *kubetest.Cluster
	ns      string
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{bench: newBench(t), cluster: kubetest.Shared(t), ns: strings.ToLower(t.Name())}
}

// object makes the put of an object in YAML.
func (s *site) object(resource, text string) pipeline.Event {
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
	group, _, grouped := strings.Cut(o.APIVersion, "/")
	if !grouped {
		group = ""
	}
	s.n++
	return pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Group: group, Resource: resource, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name},
		Op:  pipeline.OpPut, UID: "source-" + o.Metadata.Name, Version: fmt.Sprint(s.n), APIVersion: o.APIVersion, Kind: o.Kind,
		Observed: time.Now(), Digest: pipeline.DigestOf(body), Body: body,
	}
}

func (s *site) deleted(e pipeline.Event) pipeline.Event {
	s.n++
	e.Op, e.Evidence, e.Body, e.Digest, e.Version = pipeline.OpDelete, pipeline.EvidenceWatch, nil, pipeline.Digest{}, fmt.Sprint(s.n)
	return e
}

func (s *site) configMap(name, value string) pipeline.Event {
	return s.object("configmaps", fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS}, data: {value: %q}}", name, value))
}

func (s *site) namespace() pipeline.Event {
	return s.object("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
}

// process is an applier's process: one inventory, any number of runs.
type process struct {
	s         *site
	client    *counted
	inventory *apply.Inventory
	ctx       context.Context //nolint:containedctx // the process's life, ended by stop
	stop      func()
	wg        sync.WaitGroup
}

func (s *site) process() *process {
	s.t.Helper()
	p := &process{s: s, client: &counted{Client: s.cluster.Client()}}
	p.inventory = apply.NewInventory(p.client.Client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(s.t.Context())
	p.ctx = ctx
	p.wg.Go(func() {
		if err := p.inventory.Run(ctx); err != nil {
			s.t.Errorf("run inventory: %v", err)
		}
	})
	p.stop = func() {
		cancel()
		p.wg.Wait()
	}
	s.t.Cleanup(p.stop)
	return p
}

// replicate runs one Replication in the process.
func (p *process) replicate(name string, change ...func(*v1alpha1.ReplicationSpec)) (*replay.Run, *apply.Applier) {
	t := p.s.t
	t.Helper()
	spec := v1alpha1.ReplicationSpec{
		Source: v1alpha1.Source{Site: "prod"}, IncludeClusterScoped: true,
		Namespaces: &v1alpha1.NamespaceSelector{Names: []string{p.s.ns}},
	}
	for _, c := range change {
		c(&spec)
	}
	a, err := apply.New(apply.Settings{
		Namespace: "dr", Name: name, Spec: spec, Client: p.client, Inventory: p.inventory, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	settings := p.s.settings(a)
	settings.Waves, settings.Consumer = apply.Wave, "dr-"+name
	settings.Pump = pipeline.DefaultPumpConfig()
	settings.Pump.Owner = "dr/" + name
	r, err := replay.Continuous(settings)
	if err != nil {
		t.Fatal(err)
	}
	p.wg.Go(func() {
		if err := r.Run(p.ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return r, a
}

func (s *site) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.cluster.Kubectl(args...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// values are data.value of the ConfigMaps in a namespace, without the cluster's own.
func (s *site) values(namespace string) map[string]string {
	s.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(s.kubectl("get", "configmaps", "-n", namespace, "-o", "json")), &list); err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range list.Items {
		if i.Metadata.Name != "kube-root-ca.crt" {
			out[i.Metadata.Name] = i.Data["value"]
		}
	}
	return out
}

// settled waits until a run has settled everything up to p.
func settled(t *testing.T, r *replay.Run, p pipeline.Position) {
	t.Helper()
	eventually(t, "everything is settled", func() bool {
		s := r.Stats()
		return s.Phase == replay.Replicating && s.Position.Compare(p) >= 0 && s.LagEvents == 0
	})
}

const widgets = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.NS.example.com}, spec: {group: NS.example.com, scope: Namespaced,
  names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]}}`

// TestLife takes an application from its first copy through changes, restarts, drift
// and deletions.
func TestLife(t *testing.T) {
	s := newSite(t)
	role := s.object("roles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: NS}, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}")
	binding := s.object("rolebindings", "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{kind: ServiceAccount, name: sa, namespace: NS}]}")
	widget := s.object("widgets", "{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 1}}")
	// In the log everything stands before what it needs.
	last := s.append(widget, binding, role, s.configMap("a", "1"), s.configMap("b", "1"), s.object("customresourcedefinitions", widgets), s.namespace())

	p := s.process()
	r, a := p.replicate("life")
	settled(t, r, last)
	if st := r.Stats(); st.Pump.Results[pipeline.ResultCreated] != 7 || st.Pump.Parked != 0 || st.Pump.LastError.Ref.Name != "" {
		t.Fatalf("the first copy: %v, %d parked, last error %q; want 7 created at the first attempt", st.Pump.Results, st.Pump.Parked, st.Pump.LastError.Message)
	}
	var total int64
	for _, n := range a.Synced() {
		total += n
	}
	if total != 7 {
		t.Errorf("synced are %d, want 7: %v", total, a.Synced())
	}

	t.Run("changes", func(t *testing.T) {
		last = s.append(s.configMap("a", "2"), s.configMap("c", "1"), s.deleted(s.configMap("b", "")))
		settled(t, r, last)
		if diff := cmp.Diff(map[string]string{"a": "2", "c": "1"}, s.values(s.ns)); diff != "" {
			t.Errorf("config maps (-want +got):\n%s", diff)
		}
	})
	t.Run("a burst ends in its last state", func(t *testing.T) {
		before := p.client.writes.Load()
		for i := range 50 {
			last = s.append(s.configMap("a", fmt.Sprint("burst ", i)))
		}
		settled(t, r, last)
		if got := s.values(s.ns)["a"]; got != "burst 49" {
			t.Errorf("value is %q, want the last", got)
		}
		if n := p.client.writes.Load() - before; n > 49 {
			t.Errorf("%d writes for 50 changes of one object, want fewer", n)
		}
	})
	t.Run("drift is repaired", func(t *testing.T) {
		s.kubectl("patch", "configmap", "-n", s.ns, "a", "--type=merge", "-p", `{"data":{"value":"edited"}}`)
		s.kubectl("delete", "configmap", "-n", s.ns, "c")
		eventually(t, "both are back", func() bool {
			return maps.Equal(s.values(s.ns), map[string]string{"a": "burst 49", "c": "1"})
		})
	})
	t.Run("a restart writes nothing", func(t *testing.T) {
		p.stop()
		p = s.process()
		r, _ = p.replicate("life")
		settled(t, r, last)
		if n := p.client.writes.Load(); n != 0 {
			t.Errorf("%d writes, want none", n)
		}
	})
	t.Run("what happened while it was down", func(t *testing.T) {
		p.stop()
		s.kubectl("delete", "configmap", "-n", s.ns, "a")
		s.kubectl("delete", "rolebinding", "-n", s.ns, "r")
		last = s.append(s.deleted(s.configMap("c", "")), s.configMap("d", "1"), s.deleted(role))
		p = s.process()
		r, _ = p.replicate("life")
		settled(t, r, last)
		if diff := cmp.Diff(map[string]string{"a": "burst 49", "d": "1"}, s.values(s.ns)); diff != "" {
			t.Errorf("config maps (-want +got):\n%s", diff)
		}
		if got := s.kubectl("get", "role,rolebinding", "-n", s.ns, "-o", "name"); strings.TrimSpace(got) != "rolebinding.rbac.authorization.k8s.io/r" {
			t.Errorf("there are %q, want the binding only", got)
		}
	})
}

func TestOnePoisonAmongThousand(t *testing.T) {
	s := newSite(t)
	s.append(s.namespace())
	var events []pipeline.Event
	for i := range 1000 {
		if i == 500 {
			events = append(events, s.object("services", "{apiVersion: v1, kind: Service, metadata: {name: poison, namespace: NS}, spec: {ports: [{port: 0}]}}"))
			continue
		}
		events = append(events, s.configMap(fmt.Sprintf("c%d", i), "1"))
	}
	last := s.append(events...)
	r, a := s.process().replicate("poison")
	settled(t, r, last)
	if n := len(s.values(s.ns)); n != 999 {
		t.Errorf("%d config maps arrived, want 999", n)
	}
	var parked []string
	for d, err := range s.log.DeadLetters("dr").List(t.Context(), "dr/poison") {
		if err != nil {
			t.Fatal(err)
		}
		parked = append(parked, fmt.Sprintf("%s %s", d.Class, d.Ref))
	}
	if diff := cmp.Diff([]string{"Invalid prod services " + s.ns + "/poison"}, parked); diff != "" {
		t.Errorf("parked (-want +got):\n%s", diff)
	}
	if n := a.Synced()[pipeline.GroupResource{Resource: "configmaps"}]; n != 999 {
		t.Errorf("synced are %d, want 999", n)
	}
	settled(t, r, s.append(s.object("services", "{apiVersion: v1, kind: Service, metadata: {name: poison, namespace: NS}, spec: {ports: [{port: 80}]}}")))
	eventually(t, "a newer version has healed it", func() bool { return r.Stats().Pump.Parked == 0 })
}

func TestTwoReplicationsFromOneSource(t *testing.T) {
	s := newSite(t)
	s.append(s.namespace(), s.configMap("a", "1"))
	p := s.process()
	straight, _ := p.replicate("straight")
	mapped, _ := p.replicate("mapped", func(spec *v1alpha1.ReplicationSpec) {
		spec.NamespaceMapping = &v1alpha1.NamespaceMapping{Suffix: "-copy"}
	})
	last := s.append(s.configMap("b", "2"), s.deleted(s.configMap("a", "")))
	settled(t, straight, last)
	settled(t, mapped, last)
	for _, namespace := range []string{s.ns, s.ns + "-copy"} {
		if diff := cmp.Diff(map[string]string{"b": "2"}, s.values(namespace)); diff != "" {
			t.Errorf("config maps in %s (-want +got):\n%s", namespace, diff)
		}
	}
}

func TestNamespaceIsSelectedLater(t *testing.T) {
	s := newSite(t)
	s.append(s.namespace(), s.configMap("a", "1"))
	p := s.process()
	r, _ := p.replicate("later", func(spec *v1alpha1.ReplicationSpec) {
		spec.Namespaces = &v1alpha1.NamespaceSelector{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"later": s.ns}}}
	})
	settled(t, r, s.append(s.configMap("b", "1")))
	if got := s.kubectl("get", "namespace", s.ns, "--ignore-not-found", "-o", "name"); got != "" {
		t.Fatalf("%s is there before it is selected", got)
	}
	s.append(s.object("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS, labels: {later: NS}}}"))
	eventually(t, "its objects have come", func() bool {
		return s.kubectl("get", "configmaps", "-n", s.ns, "-o", "name", "--ignore-not-found") != "" && len(s.values(s.ns)) == 2
	})
	t.Run("objects may come before their namespace", func(t *testing.T) {
		early := s.configMap("early", "1")
		early.Ref.Namespace += "-new"
		early.Body = []byte(strings.ReplaceAll(string(early.Body), `"`+s.ns+`"`, `"`+s.ns+`-new"`))
		early.Digest = pipeline.DigestOf(early.Body)
		s.append(early)
		eventually(t, "it waits", func() bool { return r.Stats().Pump.Retrying == 1 })
		s.append(s.object("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: NS-new, labels: {later: NS}}}"))
		eventually(t, "it has come", func() bool { return r.Stats().Pump.Retrying == 0 && len(s.values(s.ns+"-new")) == 1 })
	})
}

// TestTraces follows changes through the applier's half of their traces.
func TestTraces(t *testing.T) {
	s := newSite(t)
	s.append(s.namespace())
	r, _ := s.process().replicate("traces")
	eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
	spans := telemetrytest.Spans(t)
	want := map[string]bool{}
	var last pipeline.Position
	for i := range 20 {
		ctx, span := telemetry.StartSpan(t.Context(), telemetry.SpanCollect, nil)
		e := s.configMap(fmt.Sprintf("c%d", i), "1")
		e.Trace = telemetry.Inject(ctx)
		want[strings.Split(e.Trace.Parent, "-")[1]] = true
		last = s.append(e)
		span.End(nil)
	}
	settled(t, r, last)
	eventually(t, "every change has its spans", func() bool {
		whole := 0
		for id, trace := range spans.Traces() {
			var names []string
			for _, span := range trace {
				names = append(names, span.Name)
			}
			if want[id] && slices.Contains(names, telemetry.SpanConsume) && slices.Contains(names, telemetry.SpanTransform) && slices.Contains(names, telemetry.SpanApply) {
				whole++
			}
		}
		return whole == len(want)
	})
}
