package transform_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// fixtures are the objects of testdata, by file name.
func fixtures(t *testing.T) map[string]transform.Object {
	t.Helper()
	files, err := filepath.Glob("testdata/objects/*")
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]transform.Object{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		body, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		objects[filepath.Base(file)] = transform.Object{Kind: resourceOf(t, body), Body: body}
	}
	return objects
}

// resourceOf names the resource of the kinds in testdata.
func resourceOf(t *testing.T, body []byte) pipeline.GroupResource {
	t.Helper()
	var o struct{ APIVersion, Kind string }
	if err := json.Unmarshal(body, &o); err != nil {
		t.Fatal(err)
	}
	group, _, grouped := strings.Cut(o.APIVersion, "/")
	if !grouped {
		group = ""
	}
	resource := strings.ToLower(o.Kind)
	switch {
	case strings.HasSuffix(resource, "ss"):
		resource += "es"
	case strings.HasSuffix(resource, "cy"):
		resource = strings.TrimSuffix(resource, "y") + "ies"
	default:
		resource += "s"
	}
	return pipeline.GroupResource{Group: group, Resource: resource}
}

func compileRules(t *testing.T, rules []transform.Rule) *transform.Set {
	t.Helper()
	set, err := transform.Compile(nil, transform.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// one runs a set that makes one object of one.
func one(t interface {
	Helper()
	Fatalf(string, ...any)
	Context() context.Context
}, set *transform.Set, o transform.Object,
) transform.Object {
	t.Helper()
	r, err := set.Run(t.Context(), transform.Env{}, o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(r.Objects) != 1 {
		t.Fatalf("%d objects came out", len(r.Objects))
	}
	return r.Objects[0]
}

// TestSleepThenWake holds waking to be the exact reverse of sleep: the same
// object again, byte for byte but for the order of keys that were taken out.
func TestSleepThenWake(t *testing.T) {
	wake := compileRules(t, transform.WakeRules())
	profiles := map[string]transform.Standby{
		"Default": {},
		"Rewrite": {Ingresses: transform.Rewrite, Gateways: transform.Rewrite, Hosts: map[string]string{"example.com": "dr.example.com"}},
		"Half":    {Workloads: transform.Keep, Services: transform.Keep, Ingresses: transform.Keep, Certificates: transform.Keep},
	}
	for profile, standby := range profiles {
		sleep := compileRules(t, standby.Rules())
		for file, o := range fixtures(t) {
			t.Run(profile+"/"+file, func(t *testing.T) {
				asleep := one(t, sleep, o)
				if again := one(t, sleep, asleep); string(again.Body) != string(asleep.Body) {
					t.Errorf("sleeping twice is not sleeping once:\n%s\n%s", asleep.Body, again.Body)
				}
				sameObject(t, o.Body, one(t, wake, asleep).Body)
			})
		}
	}
}

func sameObject(t interface {
	Helper()
	Errorf(string, ...any)
	Fatalf(string, ...any)
}, want, got []byte,
) {
	t.Helper()
	changes, err := transform.Changes(want, got)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(changes) > 0 {
		t.Errorf("the object differs: %v\n%s", changes, got)
	}
}

// bare are objects of the kinds that have no fixture.
var bare = map[string]string{
	"gateway.networking.k8s.io/grpcroutes":                       `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"GRPCRoute","spec":{"hostnames":["a.example.com"]}}`,
	"gateway.networking.k8s.io/tlsroutes":                        `{"apiVersion":"gateway.networking.k8s.io/v1alpha2","kind":"TLSRoute","spec":{"hostnames":["a.example.com"]}}`,
	"kubevirt.io/virtualmachineinstancereplicasets":              `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstanceReplicaSet","spec":{"replicas":2}}`,
	"pool.kubevirt.io/virtualmachinepools":                       `{"apiVersion":"pool.kubevirt.io/v1alpha1","kind":"VirtualMachinePool","spec":{"replicas":2}}`,
	"acid.zalan.do/postgresqls":                                  `{"apiVersion":"acid.zalan.do/v1","kind":"postgresql","spec":{"numberOfInstances":2}}`,
	"postgres-operator.crunchydata.com/postgresclusters":         `{"apiVersion":"postgres-operator.crunchydata.com/v1beta1","kind":"PostgresCluster","spec":{"instances":[{"replicas":2}]}}`,
	"pgv2.percona.com/perconapgclusters":                         `{"apiVersion":"pgv2.percona.com/v2","kind":"PerconaPGCluster","spec":{"pause":false}}`,
	"pxc.percona.com/perconaxtradbclusters":                      `{"apiVersion":"pxc.percona.com/v1","kind":"PerconaXtraDBCluster","spec":{"pxc":{"size":3}}}`,
	"psmdb.percona.com/perconaservermongodbs":                    `{"apiVersion":"psmdb.percona.com/v1","kind":"PerconaServerMongoDB","spec":{"replsets":[{"size":3}]}}`,
	"kafka.strimzi.io/kafkaconnects":                             `{"apiVersion":"kafka.strimzi.io/v1beta2","kind":"KafkaConnect","spec":{"replicas":1}}`,
	"kafka.strimzi.io/kafkamirrormaker2s":                        `{"apiVersion":"kafka.strimzi.io/v1beta2","kind":"KafkaMirrorMaker2","spec":{"replicas":1}}`,
	"kafka.strimzi.io/kafkabridges":                              `{"apiVersion":"kafka.strimzi.io/v1beta2","kind":"KafkaBridge","spec":{"replicas":1}}`,
	"kafka.strimzi.io/kafkaconnectors":                           `{"apiVersion":"kafka.strimzi.io/v1beta2","kind":"KafkaConnector","spec":{"tasksMax":1}}`,
	"elasticsearch.k8s.elastic.co/elasticsearches":               `{"apiVersion":"elasticsearch.k8s.elastic.co/v1","kind":"Elasticsearch","spec":{"nodeSets":[{"count":3}]}}`,
	"kibana.k8s.elastic.co/kibanas":                              `{"apiVersion":"kibana.k8s.elastic.co/v1","kind":"Kibana","spec":{"count":1}}`,
	"rabbitmq.com/rabbitmqclusters":                              `{"apiVersion":"rabbitmq.com/v1beta1","kind":"RabbitmqCluster","spec":{"replicas":3}}`,
	"flink.apache.org/flinkdeployments":                          `{"apiVersion":"flink.apache.org/v1beta1","kind":"FlinkDeployment","spec":{"job":{"state":"running"}}}`,
	"policy/poddisruptionbudgets":                                `{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","spec":{"minAvailable":2}}`,
	"admissionregistration.k8s.io/mutatingwebhookconfigurations": `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingWebhookConfiguration","webhooks":[{"clientConfig":{"service":{"name":"x"}}}]}`,
}

// sleepers are objects of all kinds that the standby is for, by name.
func sleepers(t *testing.T) map[string]transform.Object {
	t.Helper()
	all, there := fixtures(t), map[string]bool{}
	var kinds []string
	for _, rule := range (transform.Standby{}).Rules() {
		kinds = append(kinds, rule.Match.Kinds...)
	}
	for name, o := range all {
		there[o.Kind.String()] = true
		if !slices.Contains(kinds, o.Kind.String()) {
			delete(all, name)
		}
	}
	for kind, text := range bare {
		group, resource, _ := strings.Cut(kind, "/")
		body := strings.Replace(text, `"spec"`, `"metadata":{"name":"x","namespace":"y"},"spec"`, 1)
		body = strings.Replace(body, `"webhooks"`, `"metadata":{"name":"x"},"webhooks"`, 1)
		all[kind] = transform.Object{Kind: pipeline.GroupResource{Group: group, Resource: resource}, Body: []byte(body)}
		there[kind] = true
	}
	for _, kind := range kinds {
		if !there[kind] {
			t.Errorf("the standby is for %s, and there is no object of it", kind)
		}
	}
	return all
}

// TestEveryKindSleepsByItsPart: each kind of the profile sleeps, stays as it is when just
// its part is switched off, and sleeps when all the others are.
func TestEveryKindSleepsByItsPart(t *testing.T) {
	// These sleep by what they belong to, or do nothing on their own.
	idle := []string{"hpa-v1.yaml", "service.yaml", "service-headless.yaml", "service-external.yaml", "service-nodeport.yaml"}
	used := map[string]bool{}
	all := compileRules(t, transform.Standby{}.Rules())
	alone := keepers(t, transform.Standby{})
	besides := keepers(t, transform.Standby{ExternalDNS: transform.Keep, Certificates: transform.Keep})
	for name, o := range sleepers(t) {
		asleep := one(t, all, o)
		if sleeps := string(asleep.Body) != string(o.Body); sleeps == slices.Contains(idle, name) {
			t.Errorf("%s: sleeps: %t", name, sleeps)
			continue
		}
		if slices.Contains(idle, name) {
			continue
		}
		by := keptBy(t, alone, o)
		if len(by) == 0 { // of an entry the name and the certificates are hidden too
			by = keptBy(t, besides, o)
		}
		if len(by) != 1 {
			t.Errorf("%s: kept awake by %v, want one part", name, by)
			continue
		}
		used[by[0]] = true
	}
	for _, p := range parts {
		if !used[p.name] {
			t.Errorf("no object sleeps by the part %s", p.name)
		}
	}
}

// keepers are, by part, the standby with that part switched off besides.
func keepers(t *testing.T, standby transform.Standby) map[string]*transform.Set {
	t.Helper()
	sets := map[string]*transform.Set{}
	for _, p := range parts {
		changed := standby
		if setting := p.of(&changed); *setting != transform.Keep {
			*setting = transform.Keep
			sets[p.name] = compileRules(t, changed.Rules())
		}
	}
	return sets
}

// keptBy names the parts of which one, switched off, leaves the object as it is.
func keptBy(t *testing.T, keepers map[string]*transform.Set, o transform.Object) (by []string) {
	t.Helper()
	for _, part := range sorted(keepers) {
		if kept := one(t, keepers[part], o); string(kept.Body) == string(o.Body) {
			by = append(by, part)
		}
	}
	return by
}

// parts are those of the profile, as spec.standby names them.
var parts = []struct {
	name string
	of   func(*transform.Standby) *transform.Setting
}{
	{"workloads", func(s *transform.Standby) *transform.Setting { return &s.Workloads }},
	{"cronJobs", func(s *transform.Standby) *transform.Setting { return &s.CronJobs }},
	{"jobs", func(s *transform.Standby) *transform.Setting { return &s.Jobs }},
	{"daemonSets", func(s *transform.Standby) *transform.Setting { return &s.DaemonSets }},
	{"pods", func(s *transform.Standby) *transform.Setting { return &s.Pods }},
	{"autoscalers", func(s *transform.Standby) *transform.Setting { return &s.Autoscalers }},
	{"services", func(s *transform.Standby) *transform.Setting { return &s.Services }},
	{"ingresses", func(s *transform.Standby) *transform.Setting { return &s.Ingresses }},
	{"gateways", func(s *transform.Standby) *transform.Setting { return &s.Gateways }},
	{"certificates", func(s *transform.Standby) *transform.Setting { return &s.Certificates }},
	{"externalDNS", func(s *transform.Standby) *transform.Setting { return &s.ExternalDNS }},
	{"virtualMachines", func(s *transform.Standby) *transform.Setting { return &s.VirtualMachines }},
	{"webhooks", func(s *transform.Standby) *transform.Setting { return &s.Webhooks }},
	{"operators", func(s *transform.Standby) *transform.Setting { return &s.Operators }},
	{"disruptionBudgets", func(s *transform.Standby) *transform.Setting { return &s.DisruptionBudgets }},
	{"injection", func(s *transform.Standby) *transform.Setting { return &s.Injection }},
}

// TestSleepThenWakeOfAnything does the same with objects of all kinds of the profile
// whose fields are there or not, null, empty, or filled, and with any parts of it.
func TestSleepThenWakeOfAnything(t *testing.T) {
	wake := compileRules(t, transform.WakeRules())
	profiles := make([]*transform.Set, 8) // few: compiling takes longer than running
	all := sleepers(t)
	names := sorted(all)
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(profiles)-1).Draw(t, "profile")
		if profiles[at] == nil {
			standby := transform.Standby{Hosts: map[string]string{"example.com": "dr.example.com"}}
			for i, p := range parts {
				if at > 0 && (i*5+at*3)%(at+2) == 0 {
					*p.of(&standby) = transform.Keep
				}
			}
			if at%2 == 1 {
				standby.Ingresses, standby.Gateways = transform.Rewrite, transform.Rewrite
			}
			set, err := transform.Compile(nil, transform.Options{Rules: standby.Rules()})
			if err != nil {
				t.Fatalf("%v", err)
			}
			profiles[at] = set
		}
		o := all[rapid.SampledFrom(names).Draw(t, "object")]
		var v map[string]any
		if err := json.Unmarshal(o.Body, &v); err != nil {
			t.Fatalf("%v", err)
		}
		meta, ok := v["metadata"].(map[string]any)
		if !ok {
			t.Fatalf("no metadata")
		}
		vary(t, meta, "annotations", map[string]any{}, map[string]any{"a": "1"},
			map[string]any{"cert-manager.io/issuer": "x", "external-dns.alpha.kubernetes.io/ttl": "5", "external-dns.alpha.kubernetes.io/controller": "mine"},
			map[string]any{"cnpg.io/hibernation": "off", "strimzi.io/pause-reconciliation": "true", "eck.k8s.elastic.co/managed": "true", "linkerd.io/inject": "enabled"},
			map[string]any{"autoscaling.keda.sh/paused-replicas": "3", "autoscaling.keda.sh/paused": "false", "kubernetes.io/ingress.class": "nginx"})
		vary(t, meta, "labels", map[string]any{}, map[string]any{"dr-syncer.io/scale-override": rapid.SampledFrom([]string{"true", "2", "", "x"}).Draw(t, "override")},
			map[string]any{"istio-injection": "enabled", "istio.io/rev": "1-24", "rabbitmq.com/pauseReconciliation": "false"})
		if spec, ok := v["spec"].(map[string]any); ok {
			vary(t, spec, "replicas", 0, 1, 9007199254740992)
			vary(t, spec, "suspend", true, false)
			vary(t, spec, "schedulingGates", []any{}, []any{map[string]any{"name": "g"}})
			vary(t, spec, "behavior", map[string]any{}, map[string]any{"scaleUp": map[string]any{"selectPolicy": "Max"}}, map[string]any{"scaleDown": nil})
			vary(t, spec, "ingressClassName", "nginx", "")
			vary(t, spec, "externalTrafficPolicy", "Local")
			vary(t, spec, "loadBalancerSourceRanges", []any{}, []any{"10.0.0.0/8"})
			vary(t, spec, "job", map[string]any{}, map[string]any{"state": "running"})
			vary(t, spec, "shutdown", true, false)
			vary(t, spec, "pause", true, false)
			vary(t, spec, "numberOfInstances", 0, 3)
			vary(t, spec, "minAvailable", 1, "50%")
			vary(t, spec, "maxUnavailable", 0, "100%")
			vary(t, spec, "runStrategy", "Always", "Halted")
			if template, ok := spec["template"].(map[string]any); ok {
				if pod, ok := template["spec"].(map[string]any); ok {
					vary(t, pod, "nodeSelector", map[string]any{}, map[string]any{"dr-syncer.io/asleep": "no"})
				}
			}
		}
		if v["kind"] == "Namespace" || strings.HasSuffix(fmt.Sprint(v["kind"]), "WebhookConfiguration") {
			delete(meta, "namespace")
		}
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%v", err)
		}
		o.Body = body
		sameObject(t, body, one(t, wake, one(t, profiles[at], o)).Body)
	})
}

// vary leaves a field as it is, takes it out, makes it null, or gives it a value.
func vary(t *rapid.T, in map[string]any, field string, values ...any) {
	switch n := rapid.IntRange(-3, len(values)-1).Draw(t, field); n {
	case -3:
	case -2:
		delete(in, field)
	case -1:
		in[field] = nil
	default:
		in[field] = values[n]
	}
}
