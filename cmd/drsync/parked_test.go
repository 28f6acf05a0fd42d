package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// letters opens the dead letters of the destination "default".
func (h *history) letters(t *testing.T) *natslog.DeadLetters {
	t.Helper()
	letters, err := h.conn.DeadLetters(t.Context(), "default", natslog.DefaultDeadLetterOptions())
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

// park puts a put that was tried three times into the dead letters.
func (h *history) park(t *testing.T, l pipeline.DeadLetter) {
	t.Helper()
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l.Op, l.Class, l.Attempts, l.First, l.Last = pipeline.OpPut, pipeline.Invalid, 3, when, when.Add(time.Minute)
	if err := h.letters(t).Park(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func TestParked(t *testing.T) {
	h := newHistory(t)
	url := "--nats-url=" + h.server.URL()
	if got := drsync(t, "", "parked", "list", url); got.code != app.ExitUsage || !strings.Contains(got.err, "check --destination") {
		t.Errorf("an unknown destination: %d %s", got.code, got.err)
	}
	h.letters(t)
	if got := drsync(t, "", "parked", "list", url); got.out != "Nothing is parked.\n" {
		t.Errorf("nothing: %v", got)
	}
	at := pipeline.Position{Epoch: "E", Seq: 7}
	for _, l := range []pipeline.DeadLetter{
		{Owner: "default/shop", Ref: pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}, Message: "no quota\nat all", Position: at},
		{Owner: "default/all", Ref: pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "shop"}, Message: "taken", Position: at},
	} {
		h.park(t, l)
	}
	for _, tc := range []struct {
		name string
		args []string
		want ended
	}{
		{"List", []string{"list"}, ended{app.ExitOK, "REPLICATION    KIND               OBJECT     REASON    ATTEMPTS   LAST                   MESSAGE\n" +
			"default/all    namespaces         shop       Invalid   3          2026-01-02T03:05:05Z   taken\n" +
			"default/shop   apps/deployments   shop/web   Invalid   3          2026-01-02T03:05:05Z   no quota\n", ""}},
		{"ListOne", []string{"list", "--replication=default/all"}, ended{app.ExitOK, "REPLICATION   KIND         OBJECT   REASON    ATTEMPTS   LAST                   MESSAGE\n" +
			"default/all   namespaces   shop     Invalid   3          2026-01-02T03:05:05Z   taken\n", ""}},
		{"Show", []string{"show", "apps/deployments", "shop/web"}, ended{app.ExitOK, "apps/deployments shop/web of site prod\n  Replication: default/shop\n  Operation:   put\n  Position:    E/7\n" +
			"  Reason:      Invalid\n  Attempts:    3, from 2026-01-02T03:04:05Z to 2026-01-02T03:05:05Z\n  Message:     no quota\n               at all\n", ""}},
		{"ShowNone", []string{"show", "pods", "shop/web"}, ended{exitNo, "", "drsync: pods shop/web is not parked\n"}},
		{"DropNone", []string{"drop", "pods", "shop/web"}, ended{exitNo, "", "drsync: pods shop/web is not parked\n"}},
		{"Drop", []string{"drop", "namespaces", "shop"}, ended{app.ExitOK, "namespaces shop: dropped from what default/all has parked\n", ""}},
		{"Dropped", []string{"show", "namespaces", "shop"}, ended{exitNo, "", "drsync: namespaces shop is not parked\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, drsync(t, "", append(append([]string{"parked"}, tc.args...), url)...), cmp.AllowUnexported(ended{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := drsync(t, "", "parked", "list", "-o", "json", url); !strings.Contains(got.out, `"kind": "apps/deployments"`) || !strings.Contains(got.out, `"message": "no quota\nat all"`) {
		t.Errorf("as JSON:\n%s%s", got.out, got.err)
	}
}

func TestStatusAndRetry(t *testing.T) {
	c := kubetest.Shared(t)
	install(t, c)
	cluster := "--kubeconfig=" + c.Kubeconfig()
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: status}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: status-none}\n"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bad", "good", "new"} {
		if err := c.Apply("apiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: " + name + ", namespace: status}\nspec: {source: {site: prod}}\n"); err != nil {
			t.Fatal(err)
		}
	}
	status := func(name, text string) {
		t.Helper()
		if out, err := c.Kubectl("patch", "replication", name, "-n", "status", "--subresource=status", "--type=merge", "-p", text); err != nil {
			t.Fatal(out, err)
		}
	}
	condition := func(name, status, reason, message string) string {
		return `{"type":"` + name + `","status":"` + status + `","reason":"` + reason + `","message":"` + message + `","lastTransitionTime":"2026-01-02T03:04:05Z"}`
	}
	status("good", `{"status":{"phase":"Replicating","counts":{"synced":12,"pending":0,"failed":0,"parked":0},"lag":{"events":0,"seconds":90},"conditions":[`+
		condition("Ready", "True", "Replicating", "All is well.")+`,`+condition("Degraded", "False", "Replicating", "Nothing fails.")+`]}}`)
	status("bad", `{"status":{"phase":"Replicating","counts":{"synced":1,"pending":2,"failed":3,"parked":4},"conditions":[`+
		condition("Ready", "True", "Replicating", "All is well.")+`,`+condition("Degraded", "True", "ObjectsParked", "4 objects are parked: drsync parked list.")+`]}}`)
	got := drsync(t, "", "status", "-n", "status", cluster)
	want := ended{exitNo, "REPLICATION   SOURCE   PHASE         SYNCED   PENDING   FAILED   PARKED   LAG\n" +
		"status/bad    prod     Replicating   1        2         3        4        -\n" +
		"status/good   prod     Replicating   12       0         0        0        1m30s\n" +
		"status/new    prod                   0        0         0        0        -\n" +
		"\nstatus/bad: Degraded, ObjectsParked\n    4 objects are parked: drsync parked list.\n" +
		"\nstatus/new: Ready, Unknown\n    no applier has taken it up: is one running in this cluster?\n", "drsync: 2 of 3 Replications need attention\n"}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(ended{})); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if got := drsync(t, "", "status", "-n", "status-none", cluster); got.code != app.ExitOK || got.out != "There are no Replications.\n" {
		t.Errorf("none: %v", got)
	}
	if got := drsync(t, "", "status", "--kubeconfig="+c.User("status-nobody")); got.code != app.ExitFailed || !strings.Contains(got.err, "forbidden") {
		t.Errorf("not permitted: %v", got)
	}

	before, err := c.Kubectl("get", "replication", "good", "-n", "status", "-o", "jsonpath={.spec}")
	if err != nil {
		t.Fatal(err)
	}
	if got := drsync(t, "", "parked", "retry", "status/good", cluster); got.code != app.ExitOK || got.out != "status/good goes over everything again\n" {
		t.Errorf("retry: %v", got)
	}
	after, err := c.Kubectl("get", "replication", "good", "-n", "status", "-o", `jsonpath={.spec}{"\n"}{.metadata.annotations.dr-syncer\.io/sync-now}`)
	if err != nil {
		t.Fatal(err)
	}
	spec, asked, _ := strings.Cut(after, "\n")
	if _, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(asked)); err != nil || spec != strings.TrimSpace(before) {
		t.Errorf("after retry: %s, before %s: %v", after, before, err)
	}
	if got := drsync(t, "", "parked", "retry", "status/none", cluster); got.code != app.ExitFailed {
		t.Errorf("retry of none: %v", got)
	}
}
