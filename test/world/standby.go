package world

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// asleep makes of a source object what a standby has to have of it, as the documentation
// says it and not as the product does it: the rules of the product are no part of this.
func asleep(kind string, o *unstructured.Unstructured) {
	override := o.GetLabels()["dr-syncer.io/scale-override"]
	set := func(value any, path ...string) { _ = unstructured.SetNestedField(o.Object, value, path...) }
	remove := func(path ...string) { unstructured.RemoveNestedField(o.Object, path...) }
	switch kind {
	case "apps/deployments", "apps/statefulsets", "replicationcontrollers":
		replicas, err := strconv.ParseInt(override, 10, 32)
		if override == "true" {
			return
		}
		if err != nil {
			replicas = 0
		}
		set(replicas, "spec", "replicas")
	case "batch/cronjobs", "batch/jobs":
		if override != "true" {
			set(true, "spec", "suspend")
		}
	case "apps/daemonsets":
		if override != "true" {
			set("true", "spec", "template", "spec", "nodeSelector", "dr-syncer.io/asleep")
		}
	case "autoscaling/horizontalpodautoscalers":
		set("Disabled", "spec", "behavior", "scaleUp", "selectPolicy")
		set("Disabled", "spec", "behavior", "scaleDown", "selectPolicy")
	case "services":
		if t, _, _ := unstructured.NestedString(o.Object, "spec", "type"); t == "LoadBalancer" {
			set("ClusterIP", "spec", "type")
			for _, f := range []string{"allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy"} {
				remove("spec", f)
			}
		}
		for a := range o.GetAnnotations() {
			if strings.HasPrefix(a, "external-dns.alpha.kubernetes.io/") {
				annotate(o, "external-dns.alpha.kubernetes.io/controller", "dr-syncer-asleep")
			}
		}
	case "policy/poddisruptionbudgets":
		remove("spec", "minAvailable")
		set("100%", "spec", "maxUnavailable")
	case "namespaces":
		for _, l := range []string{"istio-injection", "istio.io/rev", "istio.io/dataplane-mode", "kuma.io/sidecar-injection"} {
			remove("metadata", "labels", l)
		}
		for _, a := range []string{"linkerd.io/inject", "kuma.io/sidecar-injection", "consul.hashicorp.com/connect-inject"} {
			remove("metadata", "annotations", a)
		}
	case "networking.k8s.io/ingresses":
		set("dr-syncer-asleep", "spec", "ingressClassName")
		remove("metadata", "annotations", "kubernetes.io/ingress.class")
		remove("metadata", "annotations", "kubernetes.io/tls-acme")
		for a := range o.GetAnnotations() {
			if strings.HasPrefix(a, "cert-manager.io/") || strings.HasPrefix(a, "acme.cert-manager.io/") {
				remove("metadata", "annotations", a)
			}
		}
		annotate(o, "external-dns.alpha.kubernetes.io/controller", "dr-syncer-asleep")
	}
}

func annotate(o *unstructured.Unstructured, name, value string) {
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[name] = value
	o.SetAnnotations(annotations)
}

// policiesOnly leaves of a HorizontalPodAutoscaler's behavior whether it may scale: each server
// fills in the rest by itself as soon as there is any.
func policiesOnly(o *unstructured.Unstructured) {
	kept := map[string]any{}
	for _, direction := range []string{"scaleUp", "scaleDown"} {
		if p, ok, _ := unstructured.NestedString(o.Object, "spec", "behavior", direction, "selectPolicy"); ok && p != "Max" {
			kept[direction] = p
		}
	}
	unstructured.RemoveNestedField(o.Object, "spec", "behavior")
	if len(kept) > 0 {
		_ = unstructured.SetNestedMap(o.Object, kept, "spec", "behavior")
	}
}
