package collect

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// everyKind are the rules for objects of every kind.
var everyKind = []rule{
	// Assigned by the API server.
	{path: "metadata|uid"},
	{path: "metadata|resourceVersion"},
	{path: "metadata|generation"},
	{path: "metadata|creationTimestamp"},
	{path: "metadata|deletionTimestamp"},
	{path: "metadata|deletionGracePeriodSeconds"},
	{path: "metadata|selfLink"},
	{path: "metadata|managedFields"},
	{path: "metadata|generateName"},
	{path: "metadata|clusterName"},
	// UIDs differ between clusters: a reference to one that does not exist has the
	// garbage collector delete the object.
	{path: "metadata|ownerReferences"},
	// A finalizer whose controller is absent can never be removed.
	{path: "metadata|finalizers|[]", when: func(f *find) bool { return !matchesGlob(f.clean.finalizers, f.value.Str) }},
	{path: "metadata|annotations|*", when: func(f *find) bool { return trackingAnnotations.match(f.key) }},
	{path: "metadata|labels|*", when: func(f *find) bool { return trackingLabels.match(f.key) }},
	// helm refuses to work with objects that carry its marks without its release.
	{path: "metadata|annotations|meta.helm.sh/release-name", when: withoutHelm},
	{path: "metadata|annotations|meta.helm.sh/release-namespace", when: withoutHelm},
}

func withoutHelm(f *find) bool { return !f.clean.cleaner.cfg.HelmReleases }

// marks are keys of labels or annotations.
type marks struct {
	keys     []string
	prefixes []string // of keys; each ends in "/" or "."
}

func (m *marks) match(key string) bool {
	return slices.Contains(m.keys, key) ||
		slices.ContainsFunc(m.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// Marks by which other managers know what is theirs: at the destination they
// would take the copy for theirs too, and prune it.
var (
	trackingAnnotations = marks{
		keys: []string{
			"kubectl.kubernetes.io/last-applied-configuration",
			v1alpha1.AnnotationOrigin, v1alpha1.AnnotationDigest,
			"argocd.argoproj.io/tracking-id", "argocd.argoproj.io/installation-id",
			"objectset.rio.cattle.io/applied", "objectset.rio.cattle.io/id", "objectset.rio.cattle.io/owner-gvk",
			"objectset.rio.cattle.io/owner-name", "objectset.rio.cattle.io/owner-namespace",
			"cattle.io/status", "field.cattle.io/projectId",
			"deprecated.daemonset.template.generation",
			"autoscaling.alpha.kubernetes.io/conditions", "autoscaling.alpha.kubernetes.io/current-metrics",
		},
		prefixes: []string{
			"kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/",
			"work.karmada.io/", "resourcebinding.karmada.io/", "clusterresourcebinding.karmada.io/", "resourcetemplate.karmada.io/",
			"propagationpolicy.karmada.io/", "clusterpropagationpolicy.karmada.io/", "policy.karmada.io/",
			"work.open-cluster-management.io/", "transport.kubestellar.io/", "lifecycle.cattle.io/",
		},
	}
	trackingLabels = marks{
		keys: []string{
			"argocd.argoproj.io/instance", "objectset.rio.cattle.io/hash", "field.cattle.io/projectId",
			"olm.owner", "olm.owner.kind", "olm.owner.namespace", "olm.managed", "olm.copiedFrom",
			"velero.io/backup-name", "velero.io/restore-name", "velero.io/schedule-name",
			"karmada.io/managed", "managed-by.kubestellar.io/cluster",
		},
		prefixes: []string{
			"kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/", "operators.coreos.com/",
			"work.karmada.io/", "resourcebinding.karmada.io/", "clusterresourcebinding.karmada.io/",
			"propagationpolicy.karmada.io/", "clusterpropagationpolicy.karmada.io/",
			"work.open-cluster-management.io/", "transport.kubestellar.io/",
		},
	}
)

// kindOf is short for the keys of ofKind.
func kindOf(group, resource string) pipeline.GroupResource {
	return pipeline.GroupResource{Group: group, Resource: resource}
}

// ofKind are the rules for single kinds, beside everyKind.
var ofKind = map[pipeline.GroupResource][]rule{
	kindOf("", "services"): {
		{path: "spec|clusterIP", when: isNot("None")},
		{path: "spec|clusterIPs", when: func(f *find) bool { return f.value.Get("0").Str != "None" }},
		{path: "spec|ports|[]|nodePort", when: allocatedPort},
		{path: "spec|healthCheckNodePort"},
	},
	kindOf("", "persistentvolumeclaims"): {
		{path: "spec|volumeName"},
		// The data comes by another way; what it once came from need not be there.
		{path: "spec|dataSource"},
		{path: "spec|dataSourceRef"},
		{path: "metadata|annotations|*", when: keyHasPrefix("pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/")},
	},
	kindOf("", "persistentvolumes"): {
		{path: "spec|claimRef|uid"},
		{path: "spec|claimRef|resourceVersion"},
		{path: "metadata|annotations|*", when: keyHasPrefix("pv.kubernetes.io/", "volume.kubernetes.io/")},
	},
	kindOf("", "pods"): append(podRules("spec"),
		rule{path: "spec|nodeName"},
		// Also without a class: the default one of the destination may be another.
		rule{path: "spec|priority"},
		rule{path: "spec|preemptionPolicy"},
		rule{path: "spec|imagePullSecrets|[]", when: func(f *find) bool {
			return strings.HasPrefix(field(f.value, "name").Str, f.object.at("spec", "serviceAccountName").Str+"-dockercfg-")
		}},
		rule{path: "spec|ephemeralContainers"},
		rule{path: "metadata|annotations|*", when: keyHasPrefix("cni.projectcalico.org/", "k8s.ovn.org/", "k8s.v1.cni.cncf.io/network-status")},
	),
	kindOf("", "podtemplates"):           templateRules("template"),
	kindOf("", "replicationcontrollers"): templateRules("spec|template"),
	kindOf("apps", "deployments"): append(templateRules("spec|template"),
		rule{path: "metadata|annotations|*", when: keyHasPrefix("deployment.kubernetes.io/")}),
	kindOf("apps", "replicasets"): append(templateRules("spec|template"),
		rule{path: "metadata|annotations|*", when: keyHasPrefix("deployment.kubernetes.io/")}),
	kindOf("apps", "daemonsets"): templateRules("spec|template"),
	kindOf("apps", "statefulsets"): append(templateRules("spec|template"),
		rule{path: "spec|volumeClaimTemplates|[]|status"},
		rule{path: "spec|volumeClaimTemplates|[]|metadata|creationTimestamp"}),
	kindOf("batch", "jobs"): append(templateRules("spec|template"),
		rule{path: "spec|selector", when: generatedSelector},
		rule{path: "spec|template|metadata|labels|*", when: jobLabel},
		rule{path: "metadata|labels|*", when: jobLabel},
		rule{path: "metadata|annotations|batch.kubernetes.io/job-tracking"},
		// The destination would delete the copy by its own clock, and we make it anew.
		rule{path: "spec|ttlSecondsAfterFinished"}),
	kindOf("batch", "cronjobs"): append(templateRules("spec|jobTemplate|spec|template"),
		rule{path: "spec|jobTemplate|metadata|creationTimestamp"}),
	kindOf("", "serviceaccounts"): {
		{path: "secrets"},
		{path: "imagePullSecrets|[]", when: func(f *find) bool {
			return strings.HasPrefix(field(f.value, "name").Str, f.object.name+"-dockercfg-")
		}},
		{path: "metadata|annotations|openshift.io/internal-registry-pull-secret-ref"},
	},
	kindOf("", "namespaces"): {
		{path: "spec|finalizers"},
		{path: "metadata|annotations|*", when: keyHasPrefix("openshift.io/sa.scc.")},
		{path: "metadata|labels|kubernetes.io/metadata.name"},
	},
	kindOf("", "endpoints"): {
		{path: "metadata|annotations|endpoints.kubernetes.io/last-change-trigger-time"},
		{path: "subsets|[]|addresses|[]|targetRef"},
		{path: "subsets|[]|addresses|[]|nodeName"},
		{path: "subsets|[]|notReadyAddresses|[]|targetRef"},
		{path: "subsets|[]|notReadyAddresses|[]|nodeName"},
	},
	kindOf("discovery.k8s.io", "endpointslices"): {
		{path: "metadata|annotations|endpoints.kubernetes.io/last-change-trigger-time"},
		{path: "endpoints|[]|targetRef"},
		{path: "endpoints|[]|nodeName"},
	},
	kindOf("rbac.authorization.k8s.io", "clusterroles"): {
		{path: "rules", when: func(f *find) bool { return f.object.at("aggregationRule").IsObject() }},
	},
	kindOf("apiextensions.k8s.io", "customresourcedefinitions"): {
		{path: "spec|conversion|webhook|clientConfig|caBundle", when: injected},
		{path: "spec|preserveUnknownFields", when: func(f *find) bool { return f.value.Type == gjson.False }},
	},
	kindOf("admissionregistration.k8s.io", "validatingwebhookconfigurations"): {{path: "webhooks|[]|clientConfig|caBundle", when: injected}},
	kindOf("admissionregistration.k8s.io", "mutatingwebhookconfigurations"):   {{path: "webhooks|[]|clientConfig|caBundle", when: injected}},
	kindOf("apiregistration.k8s.io", "apiservices"):                           {{path: "spec|caBundle", when: injected}},
}

// templateRules are the rules for a pod template at path.
func templateRules(path string) []rule {
	return append(podRules(path+"|spec"), rule{path: path + "|metadata|creationTimestamp"})
}

// podRules are the rules for a pod's spec at path.
func podRules(path string) []rule {
	return []rule{
		// Computed from the class when the pod is created.
		{path: path + "|priority", when: hasClass},
		{path: path + "|preemptionPolicy", when: hasClass},
		// The token of the service account is mounted anew.
		{path: path + "|volumes|[]", when: func(f *find) bool { return tokenVolume(field(f.value, "name").Str) }},
		{path: path + "|containers|[]|volumeMounts|[]", when: tokenMount},
		{path: path + "|initContainers|[]|volumeMounts|[]", when: tokenMount},
	}
}

func hasClass(f *find) bool { return field(f.parent, "priorityClassName").Exists() }

func tokenVolume(name string) bool { return strings.HasPrefix(name, "kube-api-access-") }

func tokenMount(f *find) bool {
	return tokenVolume(field(f.value, "name").Str) &&
		field(f.value, "mountPath").Str == "/var/run/secrets/kubernetes.io/serviceaccount"
}

func isNot(value string) func(*find) bool {
	return func(f *find) bool { return f.value.Str != value }
}

func keyHasPrefix(prefixes ...string) func(*find) bool {
	return func(f *find) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.key, p) })
	}
}

// allocatedPort reports whether a node port was chosen by the API server: it is
// if the fields' managers are on record and nobody claims it. Without a record it stays.
func allocatedPort(f *find) bool {
	v := f.object
	if !v.managers.IsArray() {
		return false
	}
	port, protocol := field(f.parent, "port").Raw, field(f.parent, "protocol").Str
	if protocol == "" {
		protocol = "TCP"
	}
	if applied, ok := v.annotation("kubectl.kubernetes.io/last-applied-configuration"); ok && gjson.Valid(applied) {
		chosen := false
		gjson.Get(applied, "spec.ports").ForEach(func(_, p gjson.Result) bool {
			chosen = field(p, "nodePort").Raw == f.value.Raw
			return !chosen
		})
		if chosen {
			return false
		}
	}
	key := `k:{"port":` + port + `,"protocol":"` + protocol + `"}`
	claimed := false
	v.managers.ForEach(func(_, entry gjson.Result) bool {
		ports := field(field(field(entry, "fieldsV1"), "f:spec"), "f:ports")
		claimed = field(field(ports, key), "f:nodePort").Exists()
		return !claimed
	})
	return !claimed
}

// generatedSelector reports whether the API server made the Job's selector.
func generatedSelector(f *find) bool { return field(f.parent, "manualSelector").Type != gjson.True }

func jobLabel(f *find) bool {
	switch f.key {
	case "controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name":
		return f.object.at("spec", "manualSelector").Type != gjson.True
	}
	return false
}

// injected reports whether a CA bundle was put in by another tool: by its
// annotation, or because the manager that set the bundle did not set the address it
// is for. The destination's own tool puts in its own.
func injected(f *find) bool {
	v := f.object
	for _, key := range []string{
		"cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret", "cert-manager.io/inject-apiserver-ca",
		"service.beta.openshift.io/inject-cabundle",
	} {
		if _, ok := v.annotation(key); ok {
			return true
		}
	}
	foreign := false
	if v.managers.IsArray() {
		v.managers.ForEach(func(_, entry gjson.Result) bool {
			fields := field(entry, "fieldsV1").Raw
			foreign = strings.Contains(fields, `"f:caBundle"`) && !strings.Contains(fields, `"f:service"`) && !strings.Contains(fields, `"f:url"`)
			return !foreign
		})
	}
	return foreign
}
