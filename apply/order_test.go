package apply

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestWaveOrder(t *testing.T) {
	// Each row must come after the one before.
	rows := [][]pipeline.GroupResource{
		{{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}},
		{{Resource: "namespaces"}},
		{
			{Group: "scheduling.k8s.io", Resource: "priorityclasses"},
			{Group: "storage.k8s.io", Resource: "storageclasses"},
			{Group: "networking.k8s.io", Resource: "ingressclasses"},
			{Group: "node.k8s.io", Resource: "runtimeclasses"},
		},
		{{Resource: "resourcequotas"}, {Resource: "limitranges"}, {Group: "networking.k8s.io", Resource: "networkpolicies"}},
		{{Resource: "serviceaccounts"}, {Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Resource: "rolebindings"}},
		{{Resource: "secrets"}, {Resource: "configmaps"}},
		{{Resource: "persistentvolumeclaims"}, {Resource: "persistentvolumes"}},
		{{Resource: "services"}, {Resource: "endpoints"}, {Group: "discovery.k8s.io", Resource: "endpointslices"}},
		{{Group: "example.com", Resource: "widgets"}, {Group: "cert-manager.io", Resource: "issuers"}},
		{{Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "statefulsets"}, {Group: "policy", Resource: "poddisruptionbudgets"}},
		{{Group: "autoscaling", Resource: "horizontalpodautoscalers"}, {Group: "networking.k8s.io", Resource: "ingresses"}, {Group: "gateway.networking.k8s.io", Resource: "httproutes"}},
		{{Group: "batch", Resource: "cronjobs"}, {Group: "batch", Resource: "jobs"}},
		{{Group: "apiregistration.k8s.io", Resource: "apiservices"}},
		{{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"}},
	}
	for i, row := range rows {
		for _, k := range row {
			if got := Wave(k); got != i {
				t.Errorf("Wave(%s) = %d, want %d", k, got, i)
			}
		}
	}
}
