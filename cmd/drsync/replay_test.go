package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// TestReplayResults reads what a log has of a Replay that a cluster has.
func TestReplayResults(t *testing.T) {
	c := kubetest.Shared(t)
	install(t, c)
	if err := c.Apply(`
apiVersion: v1
kind: Namespace
metadata: {name: results}
---
apiVersion: dr-syncer.io/v1alpha1
kind: Replay
metadata: {name: back, namespace: results}
spec: {replication: {name: shop}}
---
apiVersion: dr-syncer.io/v1alpha1
kind: Replay
metadata: {name: idle, namespace: results}
spec: {replication: {name: shop}}
`); err != nil {
		t.Fatal(err)
	}
	uid, err := c.Kubectl("get", "replay/back", "-n", "results", "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		t.Fatal(uid, err)
	}
	s := tell(t)
	log, err := s.conn.Results(t.Context(), "default", natslog.DefaultResultOptions())
	if err != nil {
		t.Fatal(err)
	}
	ref := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "a"}
	other := pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}
	at := pipeline.Position{Epoch: "E", Seq: 1}
	failed := pipeline.ObjectResult{Ref: other, Class: pipeline.Invalid, Message: "two\nlines", Attempts: 3, Position: at, Time: time.Unix(1, 0).UTC()}
	for run, results := range map[string][]pipeline.ObjectResult{
		strings.TrimSpace(uid): {
			{Ref: ref, Class: pipeline.Transient, Message: "at first", Position: at},
			{Ref: ref, Result: pipeline.ResultConfigured, Diff: []string{`-data.v: "1"`, `+data.v: "2"`}, Position: at},
			failed,
		},
		"another": {{Ref: ref, Result: pipeline.ResultDeleted, Position: at}},
	} {
		if err := log.Add(t.Context(), run, results); err != nil {
			t.Fatal(err)
		}
	}
	results := func(args ...string) ended {
		t.Helper()
		return drsync(t, "", append([]string{"replay", "results", "-n", "results", "--nats-url", s.url, "--kubeconfig", c.Kubeconfig()}, args...)...)
	}
	want := `RESULT       KIND               NAMESPACE   NAME   REASON
configured   configmaps         shop        a
    -data.v: "1"
    +data.v: "2"
failed       apps/deployments   shop        web    Invalid: two lines
`
	if got := results("back"); got.code != app.ExitOK || got.out != want {
		t.Errorf("ended with %d, %s (-want +got)\n%s", got.code, got.err, cmp.Diff(want, got.out))
	}
	var shown []pipeline.ObjectResult
	if got := results("back", "--failed", "-o", "json"); got.code != app.ExitOK || json.Unmarshal([]byte(got.out), &shown) != nil {
		t.Errorf("as JSON: %v", got)
	}
	if diff := cmp.Diff([]pipeline.ObjectResult{failed}, shown); diff != "" {
		t.Errorf("what failed (-want +got)\n%s", diff)
	}
	if got := results("idle"); got.code != app.ExitOK || got.out != "No results.\n" {
		t.Errorf("of one that has none: %v", got)
	}
	if got := results("nobody"); got.code != app.ExitUsage || !strings.Contains(got.err, `there is no Replay "nobody"`) {
		t.Errorf("of none: %v", got)
	}
}
