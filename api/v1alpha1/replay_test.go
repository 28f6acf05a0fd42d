package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// withReplays returns an API server that knows Replays.
func withReplays(t *testing.T) *kubetest.Cluster {
	t.Helper()
	c := cluster(t)
	serve(t, c, "replays")
	return c
}

func createReplay(t *testing.T, c *kubetest.Cluster, name, spec string) error {
	t.Helper()
	return apply(t, c, fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: Replay\nmetadata: {name: %s, namespace: default}\nspec: %s\n", name, spec))
}

func TestReplayIsValidated(t *testing.T) {
	c := withReplays(t)
	for name, tc := range map[string]struct{ spec, want string }{
		"template":  {`{template: {source: {site: a}}}`, ""},
		"reference": {`{replication: {name: all}, prune: true, mode: DryRun, ttlSecondsAfterFinished: 60}`, ""},
		"time":      {`{replication: {name: all}, upTo: {time: "2026-01-01T00:00:00Z"}}`, ""},
		"position":  {`{replication: {name: all}, upTo: {position: {epoch: E, sequence: 4}}}`, ""},
		"snapshot":  {`{replication: {name: all}, upTo: {snapshot: s}}`, ""},
		"neither":   {`{prune: true}`, "give either replication"},
		"both":      {`{replication: {name: all}, template: {source: {site: a}}}`, "give either replication"},
		"twomoments": {
			`{replication: {name: all}, upTo: {snapshot: s, time: "2026-01-01T00:00:00Z"}}`, "give one of time, position and snapshot",
		},
		"mode":   {`{replication: {name: all}, mode: Maybe}`, "Unsupported value"},
		"noname": {`{replication: {name: ""}}`, "spec.replication.name"},
		"site":   {`{template: {source: {site: Prod}}}`, "a site's name is made of"},
	} {
		t.Run(name, func(t *testing.T) {
			err := createReplay(t, c, "validated-"+name, tc.spec)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("a good spec was refused: %v", err)
			case tc.want != "" && err == nil:
				t.Errorf("accepted, want a refusal with %q", tc.want)
			case tc.want != "" && !strings.Contains(flat(err.Error()), tc.want):
				t.Errorf("refused with %q, want %q", flat(err.Error()), tc.want)
			}
		})
	}
	if err := createReplay(t, c, "validated-template", `{template: {source: {site: a}}, prune: true}`); err == nil || !strings.Contains(err.Error(), "make another one") {
		t.Errorf("changing a Replay: %v", err)
	}
}

// TestReplayColumns looks at a Replay as a person does.
func TestReplayColumns(t *testing.T) {
	c := withReplays(t)
	if err := createReplay(t, c, "shown", `{replication: {name: all}}`); err != nil {
		t.Fatal(err)
	}
	status := `{"status":{"phase":"Complete","source":"prod","positionTime":"2026-01-01T00:00:00Z","position":{"epoch":"E","sequence":7},` +
		`"counts":{"total":21,"created":1,"changed":2,"unchanged":3,"deleted":4,"skipped":0,"held":5,"failed":6}}}`
	if out, err := c.Kubectl("patch", "replay", "-n", "default", "shown", "--subresource=status", "--type=merge", "-p", status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := c.Kubectl("get", "rpl", "-n", "default", "shown", "-owide")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	words := strings.Fields(lines[len(lines)-1])
	if len(words) != 14 {
		t.Fatalf("shown as %q", out)
	}
	words[4] = "AGE"
	if diff := cmp.Diff("NAME SOURCE MODE PHASE AS OF CREATED CHANGED DELETED HELD FAILED AGE UNCHANGED POSITION REPLICATION", strings.Join(strings.Fields(lines[0]), " ")); diff != "" {
		t.Errorf("columns (-want +got)\n%s", diff)
	}
	if got := strings.Join(words, " "); !strings.HasPrefix(got, "shown prod Apply Complete AGE 1 2 4 5 ") || !strings.HasSuffix(got, " 3 7 all") {
		t.Errorf("shown as %q", got)
	}
}
