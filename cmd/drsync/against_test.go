package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/transform"
)

// replicate brings the cluster to what a Replication should make of the log now.
func (h *history) replicate(t *testing.T, c *cli, name string) {
	t.Helper()
	client, err := c.cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	book := &ruleBook{values: map[string]map[string]string{}, mask: &mask{}}
	if err := book.addReplication(t.Context(), client, name, c.namespace); err != nil {
		t.Fatal(err)
	}
	rules, err := book.compile(string(transform.AtDestination))
	if err != nil {
		t.Fatal(err)
	}
	past := pastOf(h.conn, "prod")
	now, err := locate(t.Context(), past, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	quiet := slog.New(slog.DiscardHandler)
	inventory := apply.NewInventory(client, quiet)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { _ = inventory.Run(ctx) })
	engine := &control.Replays{Client: client, Inventory: inventory, Destination: "default", Log: quiet, Past: func(string) *replay.Past { return past }}
	owner := types.NamespacedName{Namespace: book.replication.Namespace, Name: book.replication.Name}
	run, err := engine.Replay(control.ReplayWish{
		Name: owner, Owner: owner, Spec: book.replication.Spec, Rules: rules, At: now, Prune: true, Approved: true,
		Orphaned: func(string) bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDiffAgainstDestination(t *testing.T) {
	c, h := kubetest.Shared(t), newHistory(t)
	install(t, c)
	const rules = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rules, namespace: against}\n" +
		"data: {r.yaml: 'rules: [{name: site, match: {kinds: [configmaps]}, jq: .data.site = \"dr\"}]'}\n"
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: against}\n---\n" + rules + `---
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: shop, namespace: against}
spec:
  source: {site: prod}
  namespaces: {names: [against-shop]}
  namespaceMapping: {suffix: -dr}
  standby: {enabled: false}
  transforms: {names: [rules]}
`); err != nil {
		t.Fatal(err)
	}
	const ns = "against-shop"
	config := func(name, value string) {
		t.Helper()
		h.put(t, "configmaps", ns, name, "v1", "ConfigMap", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`+name+`","namespace":"`+ns+`"},"data":{"value":"`+value+`"}}`)
	}
	secret := func(value string) pipeline.Position {
		t.Helper()
		return h.put(t, "secrets", ns, "login", "v1", "Secret", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"login","namespace":"`+ns+`"},"data":{"password":"`+value+`"}}`)
	}
	h.namespace(t, ns, `{}`)
	for _, name := range []string{"same", "edited", "removed", "gone"} {
		config(name, "1")
	}
	before := secret("aHVudGVyMg==")
	tool := newCLI(streams{})
	tool.kube.Kubeconfig = c.Kubeconfig()
	h.replicate(t, tool, "against/shop")

	args := func(more ...string) []string {
		return append([]string{"diff", "--against=destination", "--replication=against/shop", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + h.server.URL()}, more...)
	}
	if got := drsync(t, "", args()...); got.code != app.ExitOK || !strings.HasSuffix(got.out, ", 0 differ at the destination\n") || !strings.HasPrefix(got.out, "6 objects as of ") {
		t.Fatalf("right after, it ended with %d:\n%s%s", got.code, got.out, got.err)
	}

	if out, err := c.Kubectl("delete", "configmap", "removed", "-n", ns+"-dr"); err != nil {
		t.Fatal(out, err)
	}
	if out, err := c.Kubectl("patch", "configmap", "edited", "-n", ns+"-dr", "--type=merge", "-p", `{"data":{"value":"by hand","more":"of others"}}`); err != nil {
		t.Fatal(out, err)
	}
	config("added", "1")
	secret("c2VjcmV0")
	if _, err := h.writer.Append(t.Context(), []pipeline.Event{{
		Ref: pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: ns, Name: "gone"}, Op: pipeline.OpDelete, Evidence: pipeline.EvidenceWatch,
		UID: "uid-gone", Version: "2", APIVersion: "v1", Kind: "ConfigMap", Observed: time.Now(),
	}}); err != nil {
		t.Fatal(err)
	}
	want := []againstView{
		{Object: "configmaps " + ns + "/added", Action: "missing"},
		{Object: "configmaps " + ns + "/edited", Action: "different", Diff: []string{`-data.value: "by hand"`, `+data.value: "1"`}},
		{Object: "configmaps " + ns + "/gone", Action: "extra"},
		{Object: "configmaps " + ns + "/removed", Action: "missing"},
		{Object: "secrets " + ns + "/login", Action: "different", Diff: []string{"-data.password: (hidden)", "+data.password: (hidden)"}},
	}
	got := drsync(t, "", args("-o", "json")...)
	var r againstReport
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != exitNo {
		t.Fatalf("ended with %d, %v:\n%s%s", got.code, err, got.out, got.err)
	}
	if diff := cmp.Diff(want, r.Differences); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	text := drsync(t, "", args()...)
	for _, line := range []string{
		"+ configmaps " + ns + "/added: is missing\n", "~ configmaps " + ns + "/edited\n    -data.value: \"by hand\"\n", "- configmaps " + ns + "/gone: the source does not have it\n",
		"5 differ at the destination\n",
	} {
		if !strings.Contains(text.out, line) {
			t.Errorf("the text lacks %q:\n%s%s", line, text.out, text.err)
		}
	}
	if strings.Contains(got.out+text.out, "aHVudGVyMg") || strings.Contains(got.out+text.out, "c2VjcmV0") {
		t.Error("it shows what a Secret holds")
	}
	// It has written nothing.
	if out, err := c.Kubectl("get", "configmaps", "-n", ns+"-dr", "-o", "jsonpath={.items[*].metadata.name}"); err != nil || !strings.Contains(out, "gone") || strings.Contains(out, "added") {
		t.Errorf("the destination has %q, %v", out, err)
	}

	// As of a moment when those two were not yet.
	past := drsync(t, "", args("-o", "json", "--at", before.String())...)
	var then againstReport
	if err := json.Unmarshal([]byte(past.out), &then); err != nil {
		t.Fatal(err, past.err)
	}
	var objects []string
	for _, d := range then.Differences {
		objects = append(objects, d.Action+" "+strings.TrimPrefix(d.Object, "configmaps "+ns+"/"))
	}
	if diff := cmp.Diff([]string{"different edited", "missing removed"}, objects); diff != "" {
		t.Errorf("as of before (-want +got):\n%s", diff)
	}

	h.replicate(t, tool, "against/shop")
	if got := drsync(t, "", args()...); got.code != app.ExitOK {
		t.Errorf("after another run it ended with %d:\n%s%s", got.code, got.out, got.err)
	}
	for _, bad := range [][]string{
		{"diff", "--against=source", "--replication=a/b"},
		{"diff", "--against=destination"},
		{"diff", "--against=destination", "--replication=a/b", "--from=1h"},
		{"diff", "--against=destination", "--replication=a/b", "--to=1h"},
	} {
		if got := drsync(t, "", bad...); got.code != app.ExitUsage {
			t.Errorf("%v ended with %d: %s", bad, got.code, got.err)
		}
	}
}

func TestDeletions(t *testing.T) {
	c := kubetest.Shared(t)
	install(t, c)
	cluster := "--kubeconfig=" + c.Kubeconfig()
	if err := c.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: deletions}
---
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: held, namespace: deletions}
spec: {source: {site: prod}}
---
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: fine, namespace: deletions}
spec: {source: {site: prod}}
---
apiVersion: dr-syncer.io/v1alpha1
kind: Replay
metadata: {name: back, namespace: deletions}
spec: {replication: {name: held}}
`); err != nil {
		t.Fatal(err)
	}
	if got := drsync(t, "", "deletions", "list", "-n", "deletions", cluster); got.code != app.ExitOK || got.out != "No deletions are held back.\n" {
		t.Errorf("none: %v", got)
	}
	for of, why := range map[string]string{"replication/held": "", "replay/back": `"afterReset":3,"emptied":9,`} {
		if out, err := c.Kubectl("patch", of, "-n", "deletions", "--subresource=status", "--type=merge",
			"-p", `{"status":{"deletions":{"held":12,`+why+`"scopes":[{"kind":"configmaps","held":12},{"namespace":"shop","held":11}]}}}`); err != nil {
			t.Fatal(out, err)
		}
	}
	want := ended{exitNo, "KIND          NAME             HELD   WHERE                                  WHY\n" +
		"Replication   deletions/held   12     configmaps (12), namespace shop (11)   too many at once\n" +
		"Replay        deletions/back   12     configmaps (12), namespace shop (11)   the source was reset (3), the source lists nothing of the kind or namespace (9)\n", "drsync: deletions are held back by 2: approve or discard them\n"}
	if diff := cmp.Diff(want, drsync(t, "", "deletions", "list", "-n", "deletions", cluster), cmp.AllowUnexported(ended{})); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	annotation := func(of, name string) string {
		t.Helper()
		out, err := c.Kubectl("get", of, "-n", "deletions", "-o", `jsonpath={.metadata.annotations.dr-syncer\.io/`+name+`}`)
		if err != nil {
			t.Fatal(out, err)
		}
		return strings.TrimSpace(out)
	}
	for _, tc := range []struct {
		args       []string
		of, name   string
		code       int
		out, error string
	}{
		{[]string{"approve", "deletions/held"}, "replication/held", "approve-deletions", app.ExitOK, "deletions/held: 12 deletions are made\n", ""},
		{[]string{"discard", "deletions/held"}, "replication/held", "discard-deletions", app.ExitOK, "deletions/held: 12 deletions are not made, the copies stay\n", ""},
		{[]string{"approve", "--replay", "deletions/back"}, "replay/back", "approve-deletions", app.ExitOK, "deletions/back: 12 deletions are made\n", ""},
		{[]string{"approve", "deletions/fine"}, "", "", exitNo, "", "drsync: replication deletions/fine holds no deletions back\n"},
		{[]string{"approve", "fine"}, "", "", app.ExitUsage, "", "NAMESPACE/NAME"},
		{[]string{"discard", "deletions/none"}, "", "", app.ExitFailed, "", `"none"`},
	} {
		got := drsync(t, "", append(append([]string{"deletions"}, tc.args...), cluster)...)
		if got.code != tc.code || got.out != tc.out || !strings.Contains(got.err, tc.error) {
			t.Errorf("%v: %+v", tc.args, got)
		}
		if tc.of == "" {
			continue
		}
		if _, err := time.Parse(time.RFC3339Nano, annotation(tc.of, tc.name)); err != nil {
			t.Errorf("%v: %v", tc.args, err)
		}
	}
	// One decision does not take back another, and asking for a run neither.
	approved, discarded := annotation("replication/held", "approve-deletions"), annotation("replication/held", "discard-deletions")
	if got := drsync(t, "", "parked", "retry", "deletions/held", cluster); got.code != app.ExitOK {
		t.Fatal(got)
	}
	if a, d := annotation("replication/held", "approve-deletions"), annotation("replication/held", "discard-deletions"); approved == "" || a != approved || d != discarded {
		t.Errorf("after asking for a run: approve %q, discard %q, before %q, %q", a, d, approved, discarded)
	}
}
