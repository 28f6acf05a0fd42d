package control

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// TestExamplesOfDocs runs the examples of docs/replay.md.
func TestExamplesOfDocs(t *testing.T) {
	h := openHouse(t)
	text, err := os.ReadFile("../docs/replay.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for i, part := range strings.Split(string(text), "```") {
		if yaml, ok := strings.CutPrefix(part, "yaml\n"); ok && i%2 == 1 {
			examples = append(examples, yaml)
		}
	}
	if len(examples) != 3 {
		t.Fatalf("%d examples are in the page, want 3", len(examples))
	}
	m := h.append(h.source("shop"), h.settings("shop", "a", "1"))
	for _, e := range examples {
		// Its moment is long past the end of this log, or before its beginning.
		e = strings.ReplaceAll(e, `time: "2026-11-22T18:00:00Z"`, fmt.Sprintf("position: {epoch: %s, sequence: %d}", m.Epoch, m.Seq))
		e = strings.ReplaceAll(e, "namespace: default", "namespace: "+h.namespace)
		if err := h.cluster.Apply(e); err != nil {
			t.Fatalf("%v\n%s", err, e)
		}
	}
	rep := h.ends("before-the-mistake", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(v1alpha1.ReplayCounts{Total: 2, Created: 2}, rep.Status.Counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
	if got := h.values("shop-yesterday"); got != nil {
		t.Errorf("a dry run wrote %v", got)
	}
	h.becomes("nightly", "Idle +Idle")
	h.kubectl("annotate", "--overwrite", "-n", h.namespace, "replication", "nightly", "dr-syncer.io/sync-now=today")
	h.eventually("the run", func() error { return differ(map[string]string{"a": "1"}, h.values("shop-nightly")) })
	h.eventually("the guarded one follows", func() error { return differ(map[string]string{"a": "1"}, h.values("shop-guarded")) })
}
