package apply

import "github.com/dr-syncer/dr-syncer/pipeline"

// The kinds that this package treats in a special way.
var (
	namespaces   = pipeline.GroupResource{Resource: "namespaces"}
	crds         = pipeline.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}
	claims       = pipeline.GroupResource{Resource: "persistentvolumeclaims"}
	secrets      = pipeline.GroupResource{Resource: "secrets"}
	statefulSets = pipeline.GroupResource{Group: "apps", Resource: "statefulsets"}
	volumes      = pipeline.GroupResource{Resource: "persistentvolumes"}
)

func isNamespace(k pipeline.GroupResource) bool { return k == namespaces }

// The waves: a kind of an earlier wave may be needed by one of a later wave.
const (
	waveDefinitions = iota
	waveNamespaces
	waveClasses
	waveLimits
	waveAccess
	waveConfig
	waveStorage
	waveServices
	waveCustom
	waveWorkloads
	waveTraffic
	waveJobs
	waveAPIs
	waveAdmission
)

// waves is the order of the first copy. A group's row without a resource is for
// all its other resources; what is in no row is a custom resource.
var waves = map[pipeline.GroupResource]int{
	crds:       waveDefinitions,
	namespaces: waveNamespaces,

	{Group: "scheduling.k8s.io"}:                                     waveClasses,
	{Group: "storage.k8s.io"}:                                        waveClasses,
	{Group: "node.k8s.io"}:                                           waveClasses,
	{Group: "resource.k8s.io"}:                                       waveClasses,
	{Group: "networking.k8s.io"}:                                     waveTraffic,
	{Group: "gateway.networking.k8s.io"}:                             waveTraffic,
	{Group: "networking.k8s.io", Resource: "ingressclasses"}:         waveClasses,
	{Group: "gateway.networking.k8s.io", Resource: "gatewayclasses"}: waveClasses,

	{Resource: "resourcequotas"}:                              waveLimits,
	{Resource: "limitranges"}:                                 waveLimits,
	{Group: "networking.k8s.io", Resource: "networkpolicies"}: waveLimits,
	{Group: "flowcontrol.apiserver.k8s.io"}:                   waveLimits,

	{Resource: "serviceaccounts"}:        waveAccess,
	{Group: "rbac.authorization.k8s.io"}: waveAccess,

	{Resource: "secrets"}:    waveConfig,
	{Resource: "configmaps"}: waveConfig,

	claims:  waveStorage,
	volumes: waveStorage,

	// Hand-made endpoints come with their services: the endpoint controllers leave services without selector alone.
	{Resource: "endpoints"}:     waveServices,
	{Group: "discovery.k8s.io"}: waveServices,
	{Resource: "services"}:      waveServices,

	{Resource: "podtemplates"}:           waveConfig,
	{Resource: "pods"}:                   waveWorkloads,
	{Resource: "replicationcontrollers"}: waveWorkloads,
	{Group: "apps"}:                      waveWorkloads,
	{Group: "policy"}:                    waveWorkloads,

	{Group: "autoscaling"}: waveTraffic,
	{Group: "batch"}:       waveJobs,

	{Group: "apiregistration.k8s.io"}: waveAPIs,
	// A webhook that fails closed blocks every write, so it comes when its backend can be there.
	{Group: "admissionregistration.k8s.io"}: waveAdmission,
}

// Wave is a kind's place in the order of the first copy, from 0; deletes go
// in the reverse order. Kinds of one wave do not depend on one another.
func Wave(k pipeline.GroupResource) int {
	if w, ok := waves[k]; ok {
		return w
	}
	if w, ok := waves[pipeline.GroupResource{Group: k.Group}]; ok && k.Group != "" {
		return w
	}
	return waveCustom
}
