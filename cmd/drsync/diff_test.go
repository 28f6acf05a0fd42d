package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

const diffObjects = deployment + `---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {a: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: shop}
data: {password: aHVudGVyMg==}
`

func TestDiffOfFiles(t *testing.T) {
	const former = "rules: [{name: scale, match: {kinds: [apps/deployments]}, jq: .spec.replicas = 1}]"
	for name, tc := range map[string]struct {
		former, next string
		want         []string
		code         int
	}{
		"Same":   {former, former, nil, app.ExitOK},
		"Change": {former, "rules: [{name: scale, match: {kinds: [apps/deployments]}, jq: .spec.replicas = 2}]", []string{"~ apps/deployments shop/web", "    ~ .spec.replicas: 1 -> 2"}, exitNo},
		"Gone":   {former, "rules: []", []string{"~ apps/deployments shop/web", "    ~ .spec.replicas: 1 -> 3"}, exitNo},
		"Drop":   {former, former[:len(former)-1] + ", {name: drop, match: {kinds: [configmaps]}, jq: empty}]", []string{"- configmaps shop/settings: as the deletion policy says"}, exitNo},
		"Fan": {
			former, former[:len(former)-1] + ", {name: two, match: {kinds: [configmaps]}, jq: '., (.metadata.name = \"b\")'}]",
			[]string{"+ configmaps shop/b (of configmaps shop/settings)"},
			exitNo,
		},
		"Rename": {
			former, former[:len(former)-1] + ", {name: other, match: {kinds: [configmaps]}, jq: .metadata.name = \"b\"}]",
			[]string{"+ configmaps shop/b (of configmaps shop/settings)", "- configmaps shop/settings: as the deletion policy says"},
			exitNo,
		},
		"Park": {
			former, former[:len(former)-1] + ", {name: bad, match: {kinds: [configmaps]}, jq: error(\"no\")}]",
			[]string{"! configmaps shop/settings: would be parked: transform object: file NEXT, rule \"bad\": no"},
			exitNo,
		},
		"Hold": {
			former, former[:len(former)-1] + ", {name: bad, onError: skip, match: {kinds: [configmaps]}, jq: error(\"no\")}]",
			[]string{"= configmaps shop/settings: would stay as it is, whatever changes: a rule that fails says so"},
			exitNo,
		},
		"Secret": {former, former[:len(former)-1] + ", {name: s, match: {kinds: [secrets]}, jq: .data.password = \"bmV3\"}]", []string{"~ secrets shop/login", "    ~ .data.password: \"(masked)\" -> \"(masked)\""}, exitNo},
	} {
		t.Run(name, func(t *testing.T) {
			next := file(t, "next.yaml", tc.next)
			got := drsync(t, diffObjects, "transform", "diff", "-f", next, "-r", file(t, "former.yaml", tc.former), "--objects=-", "--exit-code")
			n := 0
			for _, line := range tc.want {
				if !strings.HasPrefix(line, " ") {
					n++
				}
			}
			want := strings.ReplaceAll(strings.Join(append(tc.want, fmt.Sprintf("3 objects, %s\n", counted(n, "copy differs", "copies differ"))), "\n"), "NEXT", next)
			if diff := cmp.Diff(want, got.out); diff != "" || got.code != tc.code {
				t.Errorf("ended with %d (-want +got):\n%s%s", got.code, diff, got.err)
			}
		})
	}
}

func TestDiffCommandLine(t *testing.T) {
	rules, objects := file(t, "r.yaml", scaleRule), file(t, "o.yaml", diffObjects)
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"NoRules":       {nil, app.ExitUsage, "--filename is missing"},
		"NoReplication": {[]string{"-f", rules}, app.ExitUsage, "--replication is missing"},
		"TwoMoments":    {[]string{"-f", rules, "--replication=a/b", "--at=1h", "--position=a/1"}, app.ExitUsage, "--at and --position"},
		"FilesPast":     {[]string{"-f", rules, "--objects", objects, "--at=1h"}, app.ExitUsage, "files have no past"},
		"NewBroken":     {[]string{"-f", file(t, "bad.yaml", "rules: [{name: a, jq: '.x ='}]"), "--objects", objects}, exitNo, "the rules do not compile: 1 problem"},
		"OldBroken":     {[]string{"-f", rules, "-r", file(t, "bad.yaml", "rules: [{name: a, jq: '.x ='}]"), "--objects", objects}, exitNo, "the present rules: the rules do not compile"},
	} {
		t.Run(name, func(t *testing.T) {
			got := drsync(t, "", append([]string{"transform", "diff"}, tc.args...)...)
			if got.code != tc.code || !strings.Contains(got.err, tc.want) {
				t.Errorf("ended with %d: %s, want %d with %q", got.code, got.err, tc.code, tc.want)
			}
		})
	}
}

// history is a log with a site "prod" in it.
type history struct {
	server *natslog.Server
	conn   *natslog.Conn
	writer pipeline.Writer
}

func newHistory(t *testing.T) *history {
	t.Helper()
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.Host, cfg.Port, cfg.SyncAlways, cfg.MinFree = t.TempDir(), "127.0.0.1", -1, false, 1<<20
	server, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{Name: "test", InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	writer, err := conn.Writer(t.Context(), "prod", natslog.DefaultStreamOptions())
	if err != nil {
		t.Fatal(err)
	}
	return &history{server, conn, writer}
}

// put appends an object, given as JSON.
func (h *history) put(t *testing.T, resource, namespace, name, apiVersion, kind, body string) pipeline.Position {
	t.Helper()
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = ""
	}
	at, err := h.writer.Append(t.Context(), []pipeline.Event{{
		Ref: pipeline.Ref{Site: "prod", Group: group, Resource: resource, Namespace: namespace, Name: name}, Op: pipeline.OpPut,
		UID: "uid-" + name, Version: "1", APIVersion: apiVersion, Kind: kind, Observed: time.Now(), Digest: pipeline.DigestOf([]byte(body)), Body: []byte(body),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (h *history) namespace(t *testing.T, name, labels string) {
	t.Helper()
	h.put(t, "namespaces", "", name, "v1", "Namespace", fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q,"labels":%s}}`, name, labels))
}

func (h *history) deployment(t *testing.T, namespace string, replicas int) pipeline.Position {
	t.Helper()
	return h.put(t, "deployments", namespace, "web", "apps/v1", "Deployment",
		fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":%q},"spec":{"replicas":%d}}`, namespace, replicas))
}

// install makes the custom resources known.
func install(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	files, err := filepath.Glob("../../charts/dr-syncer/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(string(text)); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := c.Kubectl("get", "replications", "-A"); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func TestDiffOfTheLog(t *testing.T) {
	c, h := kubetest.Shared(t), newHistory(t)
	install(t, c)
	const rules = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rules, namespace: diff}\n" +
		"data: {r.yaml: 'rules: [{name: scale, match: {kinds: [apps/deployments]}, jq: .spec.replicas += 1}]'}\n"
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: diff}\n---\n" + rules + `---
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: shop, namespace: diff}
spec:
  source: {site: prod}
  namespaces: {labelSelector: {matchLabels: {team: shop}}}
  namespaceMapping: {suffix: -standby}
  standby: {enabled: false}
  transforms: {names: [rules]}
`); err != nil {
		t.Fatal(err)
	}
	h.namespace(t, "shop", `{"team":"shop"}`)
	h.namespace(t, "other", `{}`)
	h.deployment(t, "other", 7)
	past := h.deployment(t, "shop", 3)
	h.deployment(t, "shop", 4)

	args := func(next string, more ...string) []string {
		return append([]string{"transform", "diff", "-f", file(t, "next.yaml", next), "--replication=diff/shop", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + h.server.URL()}, more...)
	}
	next := strings.Replace(rules, "+= 1", "+= 2", 1)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"Present":  {args(next), "~ apps/deployments shop-standby/web (of apps/deployments shop/web)\n    ~ .spec.replicas: 5 -> 6\n2 objects, 1 copy differs\n"},
		"Position": {args(next, "--position="+past.String()), "~ apps/deployments shop-standby/web (of apps/deployments shop/web)\n    ~ .spec.replicas: 4 -> 5\n2 objects as of " + past.String() + ", 1 copy differs\n"},
		"Document": {args("rules: []"), "~ apps/deployments shop-standby/web (of apps/deployments shop/web)\n    ~ .spec.replicas: 5 -> 4\n2 objects, 1 copy differs\n"},
		"Now":      {args(rules, "--at=0s"), "copies differ\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := drsync(t, "", tc.args...)
			if got.code != app.ExitOK || !strings.HasSuffix(got.out, tc.want) {
				t.Errorf("ended with %d:\n%s%swant %s", got.code, got.out, got.err, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"OtherConfigMap": {args(strings.Replace(rules, "name: rules", "name: others", 1)), app.ExitUsage, "diff/others is none that the Replication uses"},
		"BadPosition":    {args(rules, "--position=x"), app.ExitUsage, "EPOCH/SEQUENCE"},
		"BadTime":        {args(rules, "--at=yesterday"), app.ExitUsage, "neither a time such as"},
		"TooOld":         {args(rules, "--at=2001-01-01T00:00:00Z"), app.ExitFailed, "2001-01-01"},
		"NoReplication":  {args(rules, "--replication=diff/none"), app.ExitFailed, `"none"`},
		"NoLog":          {args(rules, "--nats-url="), app.ExitUsage, "--nats-url is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			got := drsync(t, "", tc.args...)
			if got.code != tc.code || !strings.Contains(got.err, tc.want) {
				t.Errorf("ended with %d: %s, want %d with %q", got.code, got.err, tc.code, tc.want)
			}
		})
	}
	got := drsync(t, "", args(next, "-o", "json")...)
	var r diffReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.Objects != 2 || len(r.Differences) != 1 {
		t.Errorf("as JSON (%v):\n%s", err, got.out)
	}
	explained := drsync(t, deployment, "transform", "explain", "-f", "-", "--matched", "--replication=diff/shop", "--kubeconfig="+c.Kubeconfig())
	if !strings.Contains(explained.out, "~ .spec.replicas: 3 -> 4") {
		t.Errorf("explained:\n%s%s", explained.out, explained.err)
	}
}
