package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestReplayKilledAtRandom kills the applier, and the log inside it, at twenty random points of a Replay:
// it ends equal, at the moment it was begun for.
func TestReplayKilledAtRandom(t *testing.T) {
	t.Parallel()
	r := random(t)
	w := start(t, world.Options{})
	const objects = 600
	for i := range 3 {
		put(t, w, world.Namespace(fmt.Sprintf("app-%d", i)))
	}
	for i := range objects {
		put(t, w, world.ConfigMap(r, fmt.Sprintf("app-%d", i%3), fmt.Sprintf("c%d", i), 200, i))
	}
	replicate(t, w, "all", `"app-*"`, "")
	converges(t, w, same("app-0", "app-1", "app-2")) // so everything is in the log
	if err := w.DR.Apply(`
apiVersion: dr-syncer.io/v1alpha1
kind: Replay
metadata: {name: killed, namespace: default}
spec:
  prune: true
  template:
    source: {site: prod}
    workers: 1
    namespaces: {names: ["app-*"]}
    namespaceMapping: {suffix: -past}
`); err != nil {
		t.Fatal(err)
	}
	get := func(path string) string {
		out, _ := w.DR.Kubectl("get", "replay", "-n", "default", "killed", "-o", "jsonpath={"+path+"}")
		return strings.TrimSpace(out)
	}
	eventually(t, "the Replay knows its moment", func() bool { return get(".status.position.sequence") != "" })
	position, kills := get(".status.position.sequence"), 0
	for kills < 20 {
		wait(t, time.Duration(r.IntN(400))*time.Millisecond)
		w.Applier.Kill()
		kills++
		if kills == 10 { // after the moment: none of the Replay's business
			put(t, w, world.ConfigMap(r, "app-0", "later", 200, 1))
		}
		if err := w.Applier.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("after %d kills: %s, %s", kills, get(".status.phase"), get(".status.counts"))
	eventually(t, "the Replay ends", func() bool { return get(".status.phase") == "Complete" })
	if got := get(".status.position.sequence"); got != position {
		t.Errorf("the moment has moved from %s to %s", position, got)
	}
	remove(t, w, world.ConfigMap(r, "app-0", "later", 200, 1))
	scope := world.Scope{Namespaces: map[string]string{"app-0": "app-0-past", "app-1": "app-1-past", "app-2": "app-2-past"}}
	t.Logf("%d kills, %s: %s", kills, get(".status.counts"), converges(t, w, scope))
}
