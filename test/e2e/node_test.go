//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestNodesRunPods shows that the stage itself stands: Pods of a Deployment run, and
// one has a volume of its own.
func TestNodesRunPods(t *testing.T) {
	const app = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk, namespace: default}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: default}
spec:
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      containers: [{name: idle, image: "dr-syncer.test/pause:lab", volumeMounts: [{name: disk, mountPath: /disk}]}]
      volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
`
	if err := prod.Apply(app); err != nil {
		t.Fatal(err)
	}
	if out, err := prod.Kubectl("rollout", "status", "deployment/idle", "--timeout=2m"); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, prod.Tail(30))
	}
	if err := prod.Remove(app); err != nil {
		t.Fatal(err)
	}
	if out, err := prod.Kubectl("wait", "--for=delete", "persistentvolumes", "--all", "--timeout=2m"); err != nil && !strings.Contains(err.Error(), "no matching resources") {
		t.Fatalf("the claim is gone and its volume is not: %v\n%s", err, out)
	}
}
