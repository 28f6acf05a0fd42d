package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Transforms names and selects ConfigMaps with rules; docs/transforms.md says what is in them. No other ConfigMap is read
// for this Replication, and rules take their parameters from the namespace of their ConfigMap only.
type Transforms struct {
	// Names are ConfigMaps in this Replication's own namespace, in the order in which their rules run.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",message="name a ConfigMap of this namespace, with lower-case letters, digits, - and ."
	Names []string `json:"names,omitempty"`
	// Shared are ConfigMaps in the namespace of DR-Syncer itself. They must have the label dr-syncer.io/transform: "true".
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",message="name a ConfigMap of DR-Syncer's namespace, with lower-case letters, digits, - and ."
	Shared []string `json:"shared,omitempty"`
	// Selector matches labels of ConfigMaps with the label dr-syncer.io/transform: "true", in this namespace and in that of
	// DR-Syncer itself.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// Name is what something is called in one of the clusters.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:MinLength=1
type Name = string // an alias: only the schema needs to tell it from other strings

// AccessMode is how a volume may be mounted.
//
// +kubebuilder:validation:Enum=ReadWriteOnce;ReadOnlyMany;ReadWriteMany;ReadWriteOncePod
type AccessMode = string

// Mapping gives things inside objects the names that they have here. Each map goes from the source's name to ours.
//
// +kubebuilder:object:generate=false
type Mapping struct {
	// StorageClasses are for claims, volumes and claim templates; "*" stands for all that are not named.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	StorageClasses map[string]Name `json:"storageClasses,omitempty"`
	// AccessModes are for claims, volumes and claim templates; "*" stands for all that are not named.
	// +optional
	// +kubebuilder:validation:MaxProperties=5
	// +kubebuilder:validation:XValidation:rule="self.all(m, m in ['*', 'ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'])",message="map from ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod or, for all others, *"
	AccessModes map[string]AccessMode `json:"accessModes,omitempty"`
	// IngressClasses are for Ingresses and Gateways; "*" stands for all that are not named.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	IngressClasses map[string]Name `json:"ingressClasses,omitempty"`
	// Hosts maps domains in Services, Ingresses, Routes, Gateways and certificates: "example.com" stands for all below it too.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(h, size(h) < 254 && size(self[h]) < 254 && h.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$') && self[h].matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))",message="map a domain to a domain, such as example.com to dr.example.com: lower-case letters, digits, - and ., no wildcard and no scheme"
	Hosts map[string]Name `json:"hosts,omitempty"`
	// Registries maps image registries, or longer beginnings of image names, in everything that has Pods.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(r, r != '' && !r.contains('://') && !self[r].contains('://'))",message="map a registry to a registry, such as registry.example.com to mirror.example.com/prod, without a scheme"
	Registries map[string]Name `json:"registries,omitempty"`
	// KeepNodePorts keeps the node ports of Services; this cluster gives its own otherwise.
	// +optional
	KeepNodePorts bool `json:"keepNodePorts,omitempty"`
}

// StandbySetting says what to do with one part of a standby.
// +kubebuilder:validation:Enum=Sleep;Keep
type StandbySetting string

// ExposureSetting says what to do with what the world reaches the application by.
// +kubebuilder:validation:Enum=Sleep;Keep;Rewrite
type ExposureSetting string

const (
	// StandbySleep keeps the part from having effects.
	StandbySleep StandbySetting = "Sleep"
	// StandbyKeep leaves the part as it is at the source.
	StandbyKeep StandbySetting = "Keep"
	// ExposureSleep, ExposureKeep are the same for ways in.
	ExposureSleep ExposureSetting = "Sleep"
	// ExposureKeep leaves them as they are at the source.
	ExposureKeep ExposureSetting = "Keep"
	// ExposureRewrite keeps them working, under the names of spec.standby.hosts.
	ExposureRewrite ExposureSetting = "Rewrite"
)

// Standby keeps copies from doing anything that has effects until they are woken. Each part is put to sleep unless it says
// Keep; docs/transforms.md says how. Setting enabled to false wakes all: they become as they are at the source.
//
// +kubebuilder:object:generate=false
// +kubebuilder:validation:XValidation:rule="!(has(self.ingresses) && self.ingresses == 'Rewrite' || has(self.gateways) && self.gateways == 'Rewrite') || has(self.hosts) && size(self.hosts) > 0",message="Rewrite needs spec.standby.hosts: the names under which the copies are to work"
type Standby struct {
	// Enabled is true if not set.
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`
	// Workloads are Deployments, StatefulSets, ReplicaSets, ReplicationControllers and Argo Rollouts: no replicas, or as the
	// label dr-syncer.io/scale-override says.
	// +optional
	Workloads StandbySetting `json:"workloads,omitempty"`
	// CronJobs are suspended.
	// +optional
	CronJobs StandbySetting `json:"cronJobs,omitempty"`
	// Jobs are suspended.
	// +optional
	Jobs StandbySetting `json:"jobs,omitempty"`
	// DaemonSets are given a node selector that no node has.
	// +optional
	DaemonSets StandbySetting `json:"daemonSets,omitempty"`
	// Pods, those on their own, are gated.
	// +optional
	Pods StandbySetting `json:"pods,omitempty"`
	// Autoscalers are HPAs and KEDA's ScaledObjects and ScaledJobs: paused.
	// +optional
	Autoscalers StandbySetting `json:"autoscalers,omitempty"`
	// Services of type LoadBalancer become ClusterIP.
	// +optional
	Services StandbySetting `json:"services,omitempty"`
	// Ingresses, and OpenShift's Routes, get a class that nobody serves.
	// +optional
	Ingresses ExposureSetting `json:"ingresses,omitempty"`
	// Gateways of the Gateway API and of Istio, with their routes.
	// +optional
	Gateways ExposureSetting `json:"gateways,omitempty"`
	// Certificates of cert-manager are not ordered; the copied Secrets are used.
	// +optional
	Certificates StandbySetting `json:"certificates,omitempty"`
	// ExternalDNS: external-dns leaves the copies alone.
	// +optional
	ExternalDNS StandbySetting `json:"externalDNS,omitempty"`
	// VirtualMachines of KubeVirt are halted, their sets and pools have no replicas.
	// +optional
	VirtualMachines StandbySetting `json:"virtualMachines,omitempty"`
	// Webhooks that are served from the cluster do not block writes.
	// +optional
	Webhooks StandbySetting `json:"webhooks,omitempty"`
	// Operators are custom resources whose operators would start databases, brokers and jobs, of CloudNativePG, Zalando,
	// Crunchy, Percona, Strimzi, Elastic, RabbitMQ and Flink: hibernated, paused or shut down, as each operator has it.
	// +optional
	Operators StandbySetting `json:"operators,omitempty"`
	// DisruptionBudgets keep nobody from draining a node.
	// +optional
	DisruptionBudgets StandbySetting `json:"disruptionBudgets,omitempty"`
	// Injection: Namespaces do not ask for the sidecars of Istio, Linkerd, Kuma and Consul.
	// +optional
	Injection StandbySetting `json:"injection,omitempty"`
	// Hosts maps domains, for Rewrite: "example.com" stands for all below it too.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(h, size(h) < 254 && size(self[h]) < 254 && h.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$') && self[h].matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))",message="map a domain to a domain, such as example.com to dr.example.com: lower-case letters, digits, - and ., no wildcard and no scheme"
	Hosts map[string]Name `json:"hosts,omitempty"`
}

// Asleep reports whether the copies are to sleep. A nil Standby is one that says nothing: they do.
func (in *Standby) Asleep() bool { return in == nil || in.Enabled == nil || *in.Enabled }
