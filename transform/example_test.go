package transform_test

import (
	"context"
	"fmt"
	"os"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

func Example() {
	set, err := transform.Compile([]transform.Document{{
		ConfigMap: "dr-syncer/rules",
		Key:       "shop.yaml",
		Text: `rules:
- name: mirror
  match: {kinds: [apps/deployments], namespaces: [shop-*]}
  params: {registry: mirror.example}
  jq: |
    import "dr" as dr;
    dr::images({"registry.example.com": $params.registry})
`,
	}}, transform.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := set.Run(context.Background(), transform.Env{SourceSite: "prod"}, transform.Object{
		Kind: pipeline.GroupResource{Group: "apps", Resource: "deployments"},
		Body: []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop-eu"},` +
			`"spec":{"template":{"spec":{"containers":[{"name":"web","image":"registry.example.com/web:1"}]}}}}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", result.Objects[0].Body)
	// Output:
	// {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop-eu"},"spec":{"template":{"spec":{"containers":[{"name":"web","image":"mirror.example/web:1"}]}}}}
}

func ExampleCompile_problems() {
	_, err := transform.Compile([]transform.Document{{
		ConfigMap: "dr-syncer/rules",
		Key:       "shop.yaml",
		Text:      "rules:\n- name: scale\n  jq: |\n    .spec.replicas = count\n- name: stamp\n  jq: .metadata.labels.at = now\n",
	}}, transform.Options{})
	fmt.Println(err)
	// Output:
	// configmap dr-syncer/rules, key shop.yaml, rule "scale", line 4, column 22: function not defined: count/0
	//     .spec.replicas = count
	//                      ^
	// configmap dr-syncer/rules, key shop.yaml, rule "stamp", line 6, column 29: now cannot be used: a rule gives the same result whenever it runs: it sees no clock
	//     .metadata.labels.at = now
	//                           ^
}

func ExampleExplain() {
	set, err := transform.Compile(nil, transform.Options{Rules: transform.Mapping{
		StorageClasses: map[string]string{"gp3": "rbd"}, Hosts: map[string]string{"example.com": "dr.example.com"},
	}.Rules()})
	if err != nil {
		fmt.Println(err)
		return
	}
	why, err := transform.Explain(context.Background(), set, transform.Env{}, transform.Object{
		Kind: pipeline.GroupResource{Resource: "persistentvolumeclaims"},
		Body: []byte(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data","namespace":"db"},"spec":{"storageClassName":"gp3"}}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(why)
	// Output:
	// built in, rule "storage-classes":
	//     ~ .spec.storageClassName: "gp3" -> "rbd"
	// built in, rule "hosts": not for this object: kind persistentvolumeclaims is none of services, networking.k8s.io/ingresses, route.openshift.io/routes, gateway.networking.k8s.io/*, networking.istio.io/*, cert-manager.io/certificates, externaldns.k8s.io/dnsendpoints
	// built in, rule "node-ports": not for this object: kind persistentvolumeclaims is none of services
}

func ExampleStandby() {
	object := transform.Object{
		Kind: pipeline.GroupResource{Group: "batch", Resource: "cronjobs"},
		Body: []byte(`{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"report","namespace":"shop"},"spec":{"schedule":"@daily"}}`),
	}
	for _, rules := range [][]transform.Rule{transform.Standby{}.Rules(), transform.WakeRules()} {
		set, err := transform.Compile(nil, transform.Options{Rules: rules})
		if err != nil {
			fmt.Println(err)
			return
		}
		result, err := set.Run(context.Background(), transform.Env{}, object)
		if err != nil {
			fmt.Println(err)
			return
		}
		changes, err := transform.Changes(object.Body, result.Objects[0].Body)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, c := range changes {
			if c.Path == ".spec.suspend" {
				fmt.Println(c)
			}
		}
		object = result.Objects[0]
	}
	fmt.Printf("%s\n", object.Body)
	// Output:
	// + .spec.suspend: true
	// - .spec.suspend: true
	// {"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"report","namespace":"shop"},"spec":{"schedule":"@daily"}}
}

func ExampleRunTests() {
	results, err := transform.RunTests(context.Background(), `name: one replica is enough
jq: .spec.replicas = 1
input: {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3}}
want: |-
  ~ .spec.replicas: 3 -> 1
---
name: none is not
jq: .spec.replicas = 0
input: {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3}}
want: |-
  ~ .spec.replicas: 3 -> 1
`, os.ReadFile)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		fmt.Printf("line %d: %s: %v\n", r.Line, r.Name, r.OK())
	}
	// Output:
	// line 1: one replica is enough: true
	// line 7: none is not: false
}

func ExampleTargets_Claim() {
	var targets transform.Targets
	target := transform.Target{Kind: pipeline.GroupResource{Resource: "configmaps"}, Namespace: "shop", Name: "settings"}
	blue := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop-blue", Name: "settings"}
	green := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop-green", Name: "settings"}
	for _, ref := range []pipeline.Ref{blue, green} {
		if _, holder, ok := targets.Claim(ref, []transform.Target{target}); !ok {
			fmt.Printf("%s is taken by %s\n", target, holder)
		}
	}
	// Output:
	// configmaps shop/settings is taken by prod configmaps shop-blue/settings
}
