package transform

import (
	"strings"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// AnnotationOriginal on a sleeping copy holds the notes by which it wakes: what
// each changed field was. Beside it, v1alpha1.AnnotationOriginalReplicas tells
// people how many replicas there are at the source.
const AnnotationOriginal = "dr-syncer.io/original"

// Built-in rules run before and after rules without an order.
const (
	mappingOrder = -1000
	standbyOrder = 1000
)

// Setting says what to do with one part of a standby.
type Setting string

const (
	// Sleep keeps the part from having effects. It is what an empty Setting means.
	Sleep Setting = "Sleep"
	// Keep leaves the part as it is at the source.
	Keep Setting = "Keep"
	// Rewrite, for Ingresses and Gateways, keeps them working under the names of
	// Standby.Hosts.
	Rewrite Setting = "Rewrite"
)

// Standby keeps copies asleep until failover. The zero value puts everything to
// sleep that has effects of its own.
type Standby struct {
	// Workloads are Deployments, StatefulSets, ReplicaSets, ReplicationControllers
	// and Argo Rollouts: no replicas, or as v1alpha1.LabelScaleOverride says.
	Workloads Setting
	// CronJobs and Jobs are suspended.
	CronJobs, Jobs Setting
	// DaemonSets are given a node selector that no node has.
	DaemonSets Setting
	// Pods, those on their own, are gated.
	Pods Setting
	// Autoscalers are HPAs (from v2 on) and KEDA's ScaledObjects and ScaledJobs:
	// paused.
	Autoscalers Setting
	// Services of type LoadBalancer become ClusterIP. Headless ones stay headless.
	Services Setting
	// Ingresses, and OpenShift's Routes, get a class that nobody serves.
	Ingresses Setting
	// Gateways of the Gateway API and of Istio, with their routes.
	Gateways Setting
	// Certificates of cert-manager are given an issuer that does not exist, so
	// that the copied Secrets are used and none is ordered.
	Certificates Setting
	// ExternalDNS: external-dns leaves the copies alone.
	ExternalDNS Setting
	// VirtualMachines of KubeVirt are halted, their sets and pools have no replicas.
	VirtualMachines Setting
	// Operators are custom resources whose operators would start databases, brokers
	// and jobs: hibernated, paused or shut down, as each operator has it.
	Operators Setting
	// DisruptionBudgets keep nobody from draining a node.
	DisruptionBudgets Setting
	// Injection: Namespaces do not ask for sidecars.
	Injection Setting
	// Webhooks that are served from the cluster do not block writes.
	Webhooks Setting
	// Hosts maps domains, for Rewrite.
	Hosts map[string]string
}

// standbyKinds are the kinds that dr::sleep knows, as API paths name them.
var standbyKinds = []string{
	"apps/deployments", "apps/statefulsets", "apps/replicasets", "replicationcontrollers", "argoproj.io/rollouts",
	"batch/cronjobs", "batch/jobs", "apps/daemonsets", "pods",
	"autoscaling/horizontalpodautoscalers", "keda.sh/scaledobjects", "keda.sh/scaledjobs",
	"services", "networking.k8s.io/ingresses", "route.openshift.io/routes",
	"gateway.networking.k8s.io/gateways", "gateway.networking.k8s.io/httproutes",
	"gateway.networking.k8s.io/grpcroutes", "gateway.networking.k8s.io/tlsroutes",
	"networking.istio.io/gateways", "networking.istio.io/virtualservices",
	"cert-manager.io/certificates", "externaldns.k8s.io/dnsendpoints",
	"kubevirt.io/virtualmachines", "kubevirt.io/virtualmachineinstancereplicasets", "pool.kubevirt.io/virtualmachinepools",
	"postgresql.cnpg.io/clusters", "acid.zalan.do/postgresqls", "postgres-operator.crunchydata.com/postgresclusters",
	"pgv2.percona.com/perconapgclusters", "pxc.percona.com/perconaxtradbclusters", "psmdb.percona.com/perconaservermongodbs",
	"kafka.strimzi.io/kafkas", "kafka.strimzi.io/kafkaconnects", "kafka.strimzi.io/kafkamirrormaker2s", "kafka.strimzi.io/kafkabridges",
	"kafka.strimzi.io/kafkaconnectors", "elasticsearch.k8s.elastic.co/elasticsearches", "kibana.k8s.elastic.co/kibanas",
	"rabbitmq.com/rabbitmqclusters", "flink.apache.org/flinkdeployments", "policy/poddisruptionbudgets", "namespaces",
	"admissionregistration.k8s.io/validatingwebhookconfigurations", "admissionregistration.k8s.io/mutatingwebhookconfigurations",
}

// Rules are the standby as rules of this engine; the jq is in Library.
func (s Standby) Rules() []Rule {
	params := map[string]Param{}
	for name, setting := range map[string]Setting{
		"workloads": s.Workloads, "cronJobs": s.CronJobs, "jobs": s.Jobs, "daemonSets": s.DaemonSets, "pods": s.Pods,
		"autoscalers": s.Autoscalers, "services": s.Services, "ingresses": s.Ingresses, "gateways": s.Gateways,
		"certificates": s.Certificates, "externalDNS": s.ExternalDNS, "virtualMachines": s.VirtualMachines, "webhooks": s.Webhooks,
		"operators": s.Operators, "disruptionBudgets": s.DisruptionBudgets, "injection": s.Injection,
	} {
		if setting != "" && setting != Sleep {
			params[name] = Param{Value: string(setting)}
		}
	}
	if len(s.Hosts) > 0 {
		params["hosts"] = Param{Value: anyMap(s.Hosts)}
	}
	return []Rule{{
		Name: "standby", Match: Match{Kinds: standbyKinds}, Order: standbyOrder, Params: params,
		JQ: "import \"dr\" as dr;\ndr::sleep($params)",
	}}
}

// WakeRules are the reverse of Standby.Rules, whatever its settings were: what
// sleeps becomes again as it was at the source.
func WakeRules() []Rule {
	rules := []Rule{}
	for _, mark := range []string{AnnotationOriginal, v1alpha1.AnnotationOriginalReplicas} {
		rules = append(rules, Rule{
			Name: "wake-" + mark[strings.LastIndexByte(mark, '/')+1:], Order: standbyOrder,
			Match: Match{Annotations: map[string]string{mark: "*"}},
			JQ:    "import \"dr\" as dr;\ndr::wake",
		})
	}
	return rules
}

// Mapping gives things the names that they have at the destination. Each map
// goes from the source's name; "*" in the first three stands for all others.
type Mapping struct {
	// StorageClasses and AccessModes are for claims, volumes and claim templates.
	StorageClasses, AccessModes map[string]string
	// IngressClasses are for Ingresses and Gateways.
	IngressClasses map[string]string
	// Hosts maps domains: "example.com" stands for all below it too.
	Hosts map[string]string
	// Registries maps registries, or longer beginnings of image names.
	Registries map[string]string
	// KeepNodePorts keeps the node ports of Services; the destination gives its
	// own otherwise.
	KeepNodePorts bool
}

// Rules are the mapping as rules of this engine; the jq is in Library.
func (m Mapping) Rules() []Rule {
	var rules []Rule
	add := func(name, call string, names map[string]string, kinds ...string) {
		if len(names) == 0 {
			return
		}
		rules = append(rules, Rule{
			Name: name, Order: mappingOrder, Match: Match{Kinds: kinds}, Params: map[string]Param{"map": {Value: anyMap(names)}},
			JQ: "import \"dr\" as dr;\ndr::" + call + "($params.map)",
		})
	}
	add("storage-classes", "storage_classes", m.StorageClasses, append([]string{"persistentvolumeclaims", "persistentvolumes"}, podKinds...)...)
	add("access-modes", "access_modes", m.AccessModes, "persistentvolumeclaims", "persistentvolumes", "apps/statefulsets")
	add("ingress-classes", "ingress_classes", m.IngressClasses, "networking.k8s.io/ingresses", "gateway.networking.k8s.io/gateways")
	add("hosts", "hosts", m.Hosts, "services", "networking.k8s.io/ingresses", "route.openshift.io/routes", "gateway.networking.k8s.io/*",
		"networking.istio.io/*", "cert-manager.io/certificates", "externaldns.k8s.io/dnsendpoints")
	add("registries", "images", m.Registries, podKinds...)
	if !m.KeepNodePorts {
		rules = append(rules, Rule{
			Name: "node-ports", Order: mappingOrder, Match: Match{Kinds: []string{"services"}, When: `.spec.type == "NodePort" or .spec.type == "LoadBalancer"`},
			JQ: "import \"dr\" as dr;\ndr::drop_node_ports",
		})
	}
	return rules
}

// podKinds are the kinds with pod specs inside.
var podKinds = []string{
	"pods", "podtemplates", "replicationcontrollers", "apps/deployments", "apps/statefulsets", "apps/replicasets", "apps/daemonsets",
	"batch/jobs", "batch/cronjobs", "argoproj.io/rollouts", "keda.sh/scaledjobs",
}

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
