package collect

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: shop}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 31234, name: a}, {port: 81, name: b}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "shop:reader"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`

func TestLogEqualsCluster(t *testing.T) {
	w := newWorld(t, kubetest.Start(t))
	w.apply(shop)
	w.start()
	w.caughtUp()

	w.kubectl("scale", "-n", "shop", "deployment/web", "--replicas=5")
	w.kubectl("delete", "-n", "shop", "secret/login")
	w.apply(configMap("shop", "settings", "1"))
	w.caughtUp()
	if got := of(w.eventsAfter(beginning(w)), "login"); !cmp.Equal(got, []string{"put", "delete watch"}) {
		t.Errorf("events of the Secret: %v", got)
	}
	if got := of(w.eventsAfter(beginning(w)), "web"); len(got) != 3 {
		t.Errorf("events of Service and Deployment: %v, want two and an update", got)
	}
}
