package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/transform"
)

func TestExplain(t *testing.T) {
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: shop}\ndata: {password: aHVudGVyMg==}\n"
	values := "apiVersion: v1\nkind: Secret\nmetadata: {name: standby, namespace: dr}\nstringData: {password: \"correct \\\"horse\\\"\"}\n"
	withParam := "rules:\n- name: password\n  params: {password: {fromSecret: {name: standby, key: password}}}\n  jq: .data.password = ($params.password | @base64) | .metadata.annotations.p = $params.password\n"
	inConfigMap := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rules, namespace: dr, labels: {dr-syncer.io/transform: \"true\"}}\ndata:\n" +
		"  shop.jq: 'def up: .spec.replicas += 1;'\n  one.yaml: |\n    rules:\n    - {name: up, jq: 'import \"shop\" as shop; shop::up'}\n"
	for name, tc := range map[string]struct {
		object, rules string
		more          []string
		want          ended
	}{
		"Changed": {deployment, scaleRule, nil, ended{app.ExitOK, "apps/deployments shop/web: changed\n  file RULES, rule \"scale\":\n    ~ .spec.replicas: 3 -> 1\n" +
			"  file RULES, rule \"other\": not for it: kind apps/deployments is none of secrets\n", ""}},
		"Matched": {deployment, scaleRule, []string{"--matched"}, ended{app.ExitOK, "apps/deployments shop/web: changed\n  file RULES, rule \"scale\":\n    ~ .spec.replicas: 3 -> 1\n", ""}},
		"Dropped": {deployment, "rules: [{name: drop, jq: empty}]", nil, ended{app.ExitOK, "apps/deployments shop/web: dropped\n  file RULES, rule \"drop\": drops it\n", ""}},
		"Nothing": {deployment, "rules: [{name: same, jq: .}]", nil, ended{app.ExitOK, "apps/deployments shop/web: unchanged\n  file RULES, rule \"same\": changes nothing\n", ""}},
		"Several": {
			deployment, "rules: [{name: two, jq: '., (.metadata.name = \"b\")'}]", nil,
			ended{app.ExitOK, "apps/deployments shop/web: becomes apps/deployments shop/web, apps/deployments shop/b\n  file RULES, rule \"two\":\n    object 1:\n    object 2:\n    ~ .metadata.name: \"web\" -> \"b\"\n", ""},
		},
		"Failing": {
			deployment, "rules: [{name: fails, jq: error(\"no\")}]", nil,
			ended{exitNo, "apps/deployments shop/web: failed\n  file RULES, rule \"fails\": transform object: file RULES, rule \"fails\": no\n", "drsync: rules fail on 1 of 1 objects\n"},
		},
		"NotCompiling": {
			deployment, "rules:\n- name: a\n  jq: .x = count\n- name: b\n  jq: .x = = 1\n", nil,
			ended{exitNo, "", "file RULES, rule \"a\", line 3, column 12: function not defined: count/0\n    .x = count\n         ^\nfile RULES, rule \"b\", line 5, column 12: unexpected token \"=\"\n    .x = = 1\n         ^\ndrsync: the rules do not compile: 2 problems\n"},
		},
		"Secret": {
			secret, "rules: [{name: s, jq: '.data.password = \"bmV3\" | .metadata.labels.a = \"b\"'}]", nil,
			ended{app.ExitOK, "secrets shop/db: changed\n  file RULES, rule \"s\":\n    ~ .data.password: \"(masked)\" -> \"(masked)\"\n    + .metadata.labels: {\"a\":\"b\"}\n", ""},
		},
		"SecretShown": {
			secret, "rules: [{name: s, jq: '.data.password = \"bmV3\"'}]",
			[]string{"--show-secrets"},
			ended{app.ExitOK, "secrets shop/db: changed\n  file RULES, rule \"s\":\n    ~ .data.password: \"aHVudGVyMg==\" -> \"bmV3\"\n", ""},
		},
		"SecretParam": {
			deployment, withParam,
			[]string{"-r", file(t, "values.yaml", values)},
			ended{app.ExitOK, "apps/deployments shop/web: changed\n  file RULES, rule \"password\":\n    + .data: {\"password\":\"(masked)\"}\n    + .metadata.annotations: {\"p\":\"(masked)\"}\n", ""},
		},
		"NoParam": {deployment, withParam, nil, ended{exitNo, "", "file RULES, rule \"password\", line 3, column 23: param \"password\": secret standby, key password: not found: create it, or give its manifest with --rules\n" +
			"      params: {password: {fromSecret: {name: standby, key: password}}}\n                          ^\ndrsync: the rules do not compile: 1 problem\n"}},
		"ConfigMapAndModule": {deployment, inConfigMap, nil, ended{app.ExitOK, "apps/deployments shop/web: changed\n  configmap dr/rules, key one.yaml, rule \"up\":\n    ~ .spec.replicas: 3 -> 4\n", ""}},
		"NoLabel":            {deployment, strings.Replace(inConfigMap, "dr-syncer.io/transform", "other", 1), nil, ended{app.ExitOK, "apps/deployments shop/web: changed\n  configmap dr/rules, key one.yaml, rule \"up\":\n    ~ .spec.replicas: 3 -> 4\n", ""}},
		"NoRules":            {deployment, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n", nil, ended{app.ExitUsage, "", "drsync: there are no rules: give --rules, --configmap, --replication or --standby\n"}},
		"Kind":               {deployment, scaleRule, []string{"--kind=secrets", "--matched"}, ended{app.ExitOK, "secrets shop/web: unchanged\n  file RULES, rule \"other\": changes nothing\n", ""}},
		"Source":             {deployment, "rules: [{name: here, stage: source, jq: '.s = $source.site'}, {name: there, jq: .d = 1}]", []string{"--stage=source", "--site=nyc"}, ended{app.ExitOK, "apps/deployments shop/web: changed\n  file RULES, rule \"here\":\n    + .s: \"nyc\"\n", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			rules := file(t, "rules.yaml", tc.rules)
			got := drsync(t, tc.object, append([]string{"transform", "explain", "-f", "-", "-r", rules}, tc.more...)...)
			want := ended{tc.want.code, strings.ReplaceAll(tc.want.out, "RULES", rules), strings.ReplaceAll(tc.want.err, "RULES", rules)}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(ended{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExplainAsData(t *testing.T) {
	got := drsync(t, deployment, "transform", "explain", "-f", "-", "-r", file(t, "r.yaml", scaleRule), "-o", "json")
	var views []explained
	if err := json.Unmarshal([]byte(got.out), &views); err != nil || got.code != app.ExitOK {
		t.Fatalf("%d %v:\n%s%s", got.code, err, got.out, got.err)
	}
	want := []changeView{{Path: ".spec.replicas", Before: json.RawMessage("3"), After: json.RawMessage("1")}}
	if diff := cmp.Diff(want, views[0].Steps[0].Outputs[0]); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	yaml := drsync(t, deployment, "transform", "explain", "-f", "-", "-r", file(t, "r.yaml", scaleRule), "-o", "yaml")
	if !strings.Contains(yaml.out, "result: changed") {
		t.Errorf("as YAML:\n%s%s", yaml.out, yaml.err)
	}
}

func TestExplainWithTheCluster(t *testing.T) {
	c := kubetest.Shared(t)
	if err := c.Apply(`apiVersion: v1
kind: Namespace
metadata: {name: explain}
---
apiVersion: v1
kind: Secret
metadata: {name: standby, namespace: explain}
stringData: {password: correct-horse}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: rules, namespace: explain}
data:
  r.yaml: |
    rules:
    - name: password
      params: {p: {fromSecret: {name: standby, key: password}}}
      jq: .metadata.annotations.p = $params.p
`); err != nil {
		t.Fatal(err)
	}
	args := []string{"transform", "explain", "-f", "-", "--configmap=explain/rules", "--kubeconfig=" + c.Kubeconfig()}
	got := drsync(t, deployment, args...)
	want := "apps/deployments shop/web: changed\n  configmap explain/rules, key r.yaml, rule \"password\":\n    + .metadata.annotations: {\"p\":\"(masked)\"}\n"
	if diff := cmp.Diff(ended{app.ExitOK, want, ""}, got, cmp.AllowUnexported(ended{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got = drsync(t, deployment, append(args, "--show-secrets")...); !strings.Contains(got.out, "correct-horse") {
		t.Errorf("--show-secrets:\n%s%s", got.out, got.err)
	}
}

func TestShow(t *testing.T) {
	lib := readLibrary()
	if len(lib.parts()) < 13 || len(lib.public()) < 20 {
		t.Fatalf("parts %v, %d functions", lib.parts(), len(lib.public()))
	}
	// Whatever is shown must be jq that stands by itself.
	for _, name := range append(lib.parts(), "images", "hosts", "sleep", "wake", "suspend", "standby", "library") {
		got := drsync(t, "", "transform", "show", name)
		if got.code != app.ExitOK {
			t.Errorf("%s: %d %s", name, got.code, got.err)
			continue
		}
		if name == "standby" { // uses what is before it in the library
			continue
		}
		docs := []transform.Document{{Key: "shown.jq", Text: got.out}, {Key: "rules.yaml", Text: "rules: [{name: r, jq: 'import \"shown\" as shown; .'}]"}}
		if _, err := transform.Compile(docs, transform.Options{}); err != nil {
			t.Errorf("%s is not whole: %v\n%s", name, err, got.out)
		}
	}
	for name, want := range map[string]string{
		"workloads": "def _workloads:", "daemonSets": "# For apps/DaemonSet\n", "standby": "def sleep($parts):", "images": "def image($map):",
		"certificates": "# For cert-manager.io/Certificate\n",
	} {
		if got := drsync(t, "", "transform", "show", name); !strings.Contains(got.out, want) {
			t.Errorf("%s is shown without %q:\n%s", name, want, got.out)
		}
	}
	got := drsync(t, "", "transform", "show", "scale", "-r", file(t, "r.yaml", scaleRule))
	if !strings.Contains(got.out, `rule "scale", order 0, stage destination`) || !strings.HasSuffix(got.out, "\n.spec.replicas = 1\n") {
		t.Errorf("a rule is shown as:\n%s%s", got.out, got.err)
	}
	if got = drsync(t, "", "transform", "show", "--standby"); !strings.HasPrefix(got.out, "NAME") || !strings.Contains(got.out, "\nstandby ") {
		t.Errorf("the list:\n%s", got.out)
	}
}
