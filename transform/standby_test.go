package transform_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
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

// TestSleepThenWakeOfAnything does the same with objects of the known kinds
// whose fields are there or not, null, empty, or filled.
func TestSleepThenWakeOfAnything(t *testing.T) {
	sleep, wake := compileRules(t, transform.Standby{}.Rules()), compileRules(t, transform.WakeRules())
	all := fixtures(t)
	files := make([]string, 0, len(all))
	for _, f := range []string{
		"deployment.json", "statefulset.yaml", "daemonset.yaml", "cronjob.yaml", "job.yaml", "pod.yaml", "hpa.yaml",
		"scaledobject.yaml", "service-lb.yaml", "ingress.yaml", "gateway.yaml", "certificate.yaml", "webhook.yaml", "virtualmachine.yaml",
	} {
		if _, ok := all[f]; !ok {
			t.Fatalf("no fixture %s", f)
		}
		files = append(files, f)
	}
	rapid.Check(t, func(t *rapid.T) {
		o := all[rapid.SampledFrom(files).Draw(t, "file")]
		var v map[string]any
		if err := json.Unmarshal(o.Body, &v); err != nil {
			t.Fatalf("%v", err)
		}
		meta, ok := v["metadata"].(map[string]any)
		if !ok {
			t.Fatalf("no metadata")
		}
		vary(t, meta, "annotations", map[string]any{}, map[string]any{"a": "1"}, map[string]any{"cert-manager.io/issuer": "x", "external-dns.alpha.kubernetes.io/ttl": "5"})
		vary(t, meta, "labels", map[string]any{}, map[string]any{"dr-syncer.io/scale-override": rapid.SampledFrom([]string{"true", "2", "", "x"}).Draw(t, "override")})
		if spec, ok := v["spec"].(map[string]any); ok {
			vary(t, spec, "replicas", 0, 1, 9007199254740992)
			vary(t, spec, "suspend", true, false)
			vary(t, spec, "schedulingGates", []any{}, []any{map[string]any{"name": "g"}})
			vary(t, spec, "behavior", map[string]any{}, map[string]any{"scaleUp": map[string]any{"selectPolicy": "Max"}}, map[string]any{"scaleDown": nil})
			vary(t, spec, "ingressClassName", "nginx", "")
			vary(t, spec, "externalTrafficPolicy", "Local")
			vary(t, spec, "loadBalancerSourceRanges", []any{}, []any{"10.0.0.0/8"})
			if template, ok := spec["template"].(map[string]any); ok {
				if pod, ok := template["spec"].(map[string]any); ok {
					vary(t, pod, "nodeSelector", map[string]any{}, map[string]any{"dr-syncer.io/asleep": "no"})
				}
			}
		}
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%v", err)
		}
		o.Body = body
		sameObject(t, body, one(t, wake, one(t, sleep, o)).Body)
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
