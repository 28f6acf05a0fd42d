package collect

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// deniedNamespaces are not collected unless they are included by name.
var deniedNamespaces = map[string]string{
	"kube-system":     "namespace of the cluster's own infrastructure",
	"kube-public":     "namespace of the cluster's own infrastructure",
	"kube-node-lease": "namespace of the cluster's own infrastructure",
}

// deniedKind keeps kinds out unless the configuration includes them by name.
type deniedKind struct {
	group string
	// resources are the kinds of the group; empty means all.
	resources []string
	reason    string
	// always: not even by name.
	always bool
}

func (d *deniedKind) matches(k pipeline.GroupResource) bool {
	if d.group != k.Group {
		return false
	}
	return len(d.resources) == 0 || slices.Contains(d.resources, k.Resource)
}

const (
	ofMachines   = "describes this cluster's machines"
	ofMoment     = "virtual, or of this moment only"
	generated    = "generated from other objects"
	ofVolumes    = "names storage of this cluster"
	ofInstaller  = "belongs to this cluster's installer"
	ofReplicator = "belongs to another tool that copies clusters"
)

// deniedKinds are the kinds that make no sense, or do harm, in another cluster.
var deniedKinds = []deniedKind{
	{group: "dr-syncer.io", reason: "DR-Syncer's own", always: true},

	{group: "", resources: []string{"events"}, reason: ofMoment},
	{group: "events.k8s.io", reason: ofMoment},
	{group: "", resources: []string{"nodes"}, reason: ofMachines},
	{group: "", resources: []string{"bindings", "componentstatuses"}, reason: ofMoment},
	{group: "", resources: []string{"persistentvolumes"}, reason: ofVolumes},
	{group: "extensions", reason: "served by other groups too"},
	{group: "apps", resources: []string{"controllerrevisions"}, reason: generated},
	{group: "authentication.k8s.io", reason: ofMoment},
	{group: "authorization.k8s.io", reason: ofMoment},
	{group: "certificates.k8s.io", reason: "of this cluster's signers"},
	{group: "coordination.k8s.io", reason: "a copied lock would stall its holder"},
	{group: "internal.apiserver.k8s.io", reason: "of this cluster's API servers"},
	{group: "storagemigration.k8s.io", reason: "of this cluster's API servers"},
	{group: "apiregistration.k8s.io", resources: []string{"apiservices"}, reason: "one whose backend is missing breaks discovery for the whole cluster"},
	{group: "networking.k8s.io", resources: []string{"ipaddresses", "servicecidrs"}, reason: "addresses of this cluster"},
	{group: "resource.k8s.io", resources: []string{"resourceslices", "podschedulingcontexts", "devicetaintrules", "resourcepoolstatusrequests"}, reason: ofMachines},
	{group: "scheduling.k8s.io", resources: []string{"podgroups"}, reason: generated},
	{group: "storage.k8s.io", resources: []string{"csinodes", "csistoragecapacities", "volumeattachments"}, reason: ofMachines},
	{group: "metrics.k8s.io", reason: ofMoment},
	{group: "custom.metrics.k8s.io", reason: ofMoment},
	{group: "external.metrics.k8s.io", reason: ofMoment},

	{group: "snapshot.storage.k8s.io", resources: []string{"volumesnapshots", "volumesnapshotcontents"}, reason: ofVolumes},
	{group: "groupsnapshot.storage.k8s.io", resources: []string{"volumegroupsnapshots", "volumegroupsnapshotcontents"}, reason: ofVolumes},
	{group: "replication.storage.openshift.io", reason: ofVolumes},
	{group: "cbt.storage.k8s.io", reason: ofVolumes},
	{group: "volsync.backube", reason: ofReplicator},
	{group: "ramendr.openshift.io", reason: ofReplicator},
	{group: "velero.io", reason: ofReplicator},
	{group: "work.karmada.io", reason: ofReplicator},
	{group: "policy.karmada.io", reason: ofReplicator},
	{group: "cluster.karmada.io", reason: ofReplicator},
	{group: "work.open-cluster-management.io", reason: ofReplicator},
	{group: "cluster.open-cluster-management.io", reason: ofReplicator},
	{group: "control.kubestellar.io", reason: ofReplicator},
	{group: "argoproj.io", resources: []string{"applications", "applicationsets"}, reason: ofReplicator},

	{group: "wgpolicyk8s.io", reason: generated},
	{group: "openreports.io", reason: generated},
	{group: "reports.kyverno.io", reason: generated},
	{group: "kyverno.io", resources: []string{"admissionreports", "clusteradmissionreports", "backgroundscanreports", "clusterbackgroundscanreports", "updaterequests", "generaterequests"}, reason: generated},
	{group: "aquasecurity.github.io", reason: generated},
	{group: "cilium.io", resources: []string{"ciliumidentities", "ciliumendpoints", "ciliumendpointslices", "ciliumnodes"}, reason: ofMachines},
	{group: "crd.projectcalico.org", resources: []string{"blockaffinities", "clusterinformations", "ipamblocks", "ipamconfigs", "ipamhandles"}, reason: ofMachines},
	{group: "cert-manager.io", resources: []string{"certificaterequests"}, reason: generated},
	{group: "acme.cert-manager.io", resources: []string{"orders", "challenges"}, reason: generated},
	{group: "autoscaling.k8s.io", resources: []string{"verticalpodautoscalercheckpoints"}, reason: generated},
	{group: "operators.coreos.com", reason: ofInstaller},
	{group: "packages.operators.coreos.com", reason: ofInstaller},
}

// denial keeps single objects out, whatever the configuration includes.
type denial struct {
	// kinds are the kinds it is asked about, as in a configuration.
	kinds  []kindPattern
	reason string
	// when reports whether it applies to an object.
	when func(v *view) bool
	// unless, if not nil, reports whether the configuration lifts it.
	unless func(c *Config) bool
	// freeze: see Freeze. Else the object is skipped.
	freeze bool
}

func (d *denial) matches(k pipeline.GroupResource) bool { return matchesKind(d.kinds, k) }

func kindsNamed(names ...string) []kindPattern {
	var patterns []kindPattern
	for _, name := range names {
		p, err := parseKindPattern(name)
		if err != nil {
			continue // a test proves that every name in this file parses
		}
		patterns = append(patterns, p)
	}
	return patterns
}

// deniedObjects are the objects that every cluster has or makes of its own.
var deniedObjects = []denial{
	{kinds: kindsNamed("*"), reason: "a copy that DR-Syncer made", when: hasLabel(v1alpha1.LabelReplication)},
	{kinds: kindsNamed("configmaps", "endpoints"), reason: "lock of a leader election", when: hasAnnotation("control-plane.alpha.kubernetes.io/leader")},

	{kinds: kindsNamed("namespaces"), reason: "every cluster has its own", when: named("default")},
	{kinds: kindsNamed("services", "endpoints", "discovery.k8s.io/endpointslices"), reason: "the API server's own", when: apiServerService},
	{kinds: kindsNamed("configmaps"), reason: "published by each cluster", when: named("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert")},
	{kinds: kindsNamed("serviceaccounts"), reason: "every namespace has its own", when: named("default")},

	{kinds: kindsNamed("secrets"), reason: "token bound to this cluster", when: secretOfType("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token")},
	{kinds: kindsNamed("secrets"), reason: "registry login of a service account of this cluster", when: dockercfgOfServiceAccount},
	{kinds: kindsNamed("secrets"), reason: "release of helm", when: secretOfType("helm.sh/release.v1"), unless: func(c *Config) bool { return c.HelmReleases }},

	{kinds: kindsNamed("rbac.authorization.k8s.io/*"), reason: "made by each API server", when: bootstrapRBAC},
	{kinds: kindsNamed("scheduling.k8s.io/priorityclasses"), reason: "made by each API server", when: named("system-cluster-critical", "system-node-critical")},
	{kinds: kindsNamed("flowcontrol.apiserver.k8s.io/*"), reason: "made by each API server", when: hasAnnotation("apf.kubernetes.io/autoupdate-spec")},
	{kinds: kindsNamed("apiregistration.k8s.io/apiservices"), reason: "registered by each API server", when: hasLabel("kube-aggregator.kubernetes.io/automanaged")},
	{kinds: kindsNamed("admissionregistration.k8s.io/*"), reason: "made by kyverno itself", when: labelIs("webhook.kyverno.io/managed-by", "kyverno")},

	{kinds: kindsNamed("endpoints"), reason: "generated from a Service's selector", when: generatedEndpoints},
	{kinds: kindsNamed("discovery.k8s.io/endpointslices"), reason: "generated from a Service's selector", when: labelIs("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io")},

	{kinds: kindsNamed("pods"), reason: "mirrors a file on a node", when: hasAnnotation("kubernetes.io/config.mirror")},
	{kinds: kindsNamed("pods"), reason: "has completed", when: completedPod, freeze: true},
	{kinds: kindsNamed("batch/jobs"), reason: "has finished: a copy would run again", when: finishedJob, freeze: true},
}

func hasLabel(key string) func(*view) bool {
	return func(v *view) bool { _, ok := v.label(key); return ok }
}

func hasAnnotation(key string) func(*view) bool {
	return func(v *view) bool { _, ok := v.annotation(key); return ok }
}

func labelIs(key string, values ...string) func(*view) bool {
	return func(v *view) bool { value, ok := v.label(key); return ok && slices.Contains(values, value) }
}

func named(names ...string) func(*view) bool {
	return func(v *view) bool { return slices.Contains(names, v.name) }
}

func secretOfType(types ...string) func(*view) bool {
	return func(v *view) bool { return slices.Contains(types, v.at("type").Str) }
}

func apiServerService(v *view) bool {
	return v.namespace == "default" && v.name == "kubernetes"
}

func dockercfgOfServiceAccount(v *view) bool {
	if v.at("type").Str != "kubernetes.io/dockercfg" {
		return false
	}
	_, old := v.annotation("kubernetes.io/service-account.name")
	_, openshift := v.annotation("openshift.io/internal-registry-auth-token.service-account")
	return old || openshift
}

func bootstrapRBAC(v *view) bool {
	_, labeled := v.label("kubernetes.io/bootstrapping")
	return labeled || strings.HasPrefix(v.name, "system:")
}

// generatedEndpoints tells what the endpoints controller wrote from what a
// person did: by its label since Kubernetes 1.33, before by its annotation or
// its name as field manager.
func generatedEndpoints(v *view) bool {
	if _, ok := v.label("endpoints.kubernetes.io/managed-by"); ok {
		return true
	}
	if _, ok := v.annotation("endpoints.kubernetes.io/last-change-trigger-time"); ok {
		return true
	}
	return v.managers.IsArray() && v.manager() == "kube-controller-manager"
}

func completedPod(v *view) bool {
	phase := v.at("status", "phase").Str
	return phase == "Succeeded" || phase == "Failed"
}

func finishedJob(v *view) bool {
	finished := false
	if conditions := v.at("status", "conditions"); conditions.IsArray() {
		conditions.ForEach(func(_, c gjson.Result) bool {
			kind := field(c, "type").Str
			finished = field(c, "status").Str == "True" && (kind == "Complete" || kind == "Failed")
			return !finished
		})
	}
	return finished
}

// builtinGroups are the groups whose controllers run in every cluster: what
// their objects control is generated anew from the copies.
var builtinGroups = map[string]bool{
	"": true, "apps": true, "batch": true, "autoscaling": true, "policy": true, "networking.k8s.io": true,
	"discovery.k8s.io": true, "resource.k8s.io": true, "apiregistration.k8s.io": true, "scheduling.k8s.io": true,
}
