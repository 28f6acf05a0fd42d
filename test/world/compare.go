package world

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Comparison is what differs between two clusters.
type Comparison struct {
	// Equal is how many objects are there on both sides and the same.
	Equal int
	// Missing, Extra and Different name objects as "group/resource namespace/name":
	// not at the destination, at the destination only, and there but not the same.
	Missing, Extra []string
	// Different maps the object's name to a diff, source lines marked "-".
	Different map[string]string
}

// OK reports whether nothing differs.
func (c Comparison) OK() bool {
	return len(c.Missing) == 0 && len(c.Extra) == 0 && len(c.Different) == 0
}

// String lists at most a few of each difference.
func (c Comparison) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d equal, %d missing, %d extra, %d different", c.Equal, len(c.Missing), len(c.Extra), len(c.Different))
	list := func(title string, names []string) {
		for i, n := range names {
			if i == 8 {
				fmt.Fprintf(&b, "\n  %s: and %d more", title, len(names)-i)
				break
			}
			fmt.Fprintf(&b, "\n  %s: %s", title, n)
		}
	}
	list("missing", c.Missing)
	list("extra", c.Extra)
	for i, n := range slices.Sorted(maps.Keys(c.Different)) {
		if i == 3 {
			break
		}
		fmt.Fprintf(&b, "\n  different: %s\n%s", n, c.Different[n])
	}
	return b.String()
}

// Scope is what Compare looks at.
type Scope struct {
	// Namespaces maps source namespaces to destination namespaces. Objects elsewhere are not compared.
	Namespaces map[string]string
	// ClusterScoped names cluster-scoped objects to compare as "group/resource name".
	ClusterScoped []string
	// Awake says that spec.standby is disabled: the copies are to be as the source is. Otherwise
	// they are to sleep.
	Awake bool
}

// never are the resources that no replication should copy, so that they say
// nothing about equality.
var never = map[string]bool{
	"events": true, "events.k8s.io/events": true, "endpoints": true, "discovery.k8s.io/endpointslices": true, "pods": true,
	"coordination.k8s.io/leases": true, "apps/replicasets": true, "apps/controllerrevisions": true,
}

// Compare compares two clusters object by object. It knows by itself what two
// clusters cannot share (identities, addresses, status) and what a standby keeps from
// working, and shares no code with the product.
func Compare(ctx context.Context, source, destination *rest.Config, scope Scope) (Comparison, error) {
	expect := asleep
	if scope.Awake {
		expect = asItIs
	}
	src, err := contents(ctx, source, scope, expect, func(ns string) (string, bool) { to, ok := scope.Namespaces[ns]; return to, ok })
	if err != nil {
		return Comparison{}, fmt.Errorf("read the source: %w", err)
	}
	wanted := make(map[string]bool)
	for _, to := range scope.Namespaces {
		wanted[to] = true
	}
	dst, err := contents(ctx, destination, scope, asItIs, func(ns string) (string, bool) { return ns, wanted[ns] })
	if err != nil {
		return Comparison{}, fmt.Errorf("read the destination: %w", err)
	}
	c := Comparison{Different: make(map[string]string)}
	for name, want := range src {
		got, ok := dst[name]
		if !ok {
			c.Missing = append(c.Missing, name)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			c.Different[name] = diff
			continue
		}
		c.Equal++
	}
	for name := range dst {
		if _, ok := src[name]; !ok {
			c.Extra = append(c.Extra, name)
		}
	}
	slices.Sort(c.Missing)
	slices.Sort(c.Extra)
	return c, nil
}

func asItIs(string, *unstructured.Unstructured) {}

// contents reads all objects in scope, named by their destination names. expect is given each
// as it was read.
func contents(ctx context.Context, cfg *rest.Config, scope Scope, expect func(kind string, o *unstructured.Unstructured), namespace func(string) (string, bool),
) (map[string]map[string]any, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	lists, err := disco.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	out := make(map[string]map[string]any)
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			kind := r.Name
			if gv.Group != "" {
				kind = gv.Group + "/" + r.Name
			}
			if strings.Contains(r.Name, "/") || never[kind] || !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "watch") {
				continue
			}
			objects, err := client.Resource(gv.WithResource(r.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", kind, err)
			}
			for i := range objects.Items {
				o := &objects.Items[i]
				name := o.GetName()
				switch {
				case r.Namespaced:
					to, ok := namespace(o.GetNamespace())
					if !ok || generated(kind, o) {
						continue
					}
					o.SetNamespace(to)
					name = to + "/" + name
				case kind == "namespaces":
					to, ok := namespace(name)
					if !ok {
						continue
					}
					o.SetName(to)
					name = to
				case !slices.Contains(scope.ClusterScoped, kind+" "+name):
					continue
				}
				expect(kind, o)
				out[kind+" "+name] = normalize(kind, o, namespace)
			}
		}
	}
	return out, nil
}

// generated reports what every cluster makes for itself.
func generated(kind string, o *unstructured.Unstructured) bool {
	switch kind {
	case "configmaps":
		return o.GetName() == "kube-root-ca.crt"
	case "serviceaccounts":
		return o.GetName() == "default"
	case "secrets":
		t, _, _ := unstructured.NestedString(o.Object, "type")
		return t == "kubernetes.io/service-account-token"
	}
	return metav1.GetControllerOf(o) != nil
}

// normalize takes out what two clusters cannot have in common.
func normalize(kind string, o *unstructured.Unstructured, namespace func(string) (string, bool)) map[string]any {
	for _, f := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences", "selfLink", "finalizers"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	annotations, labels := o.GetAnnotations(), o.GetLabels()
	ours := func(key, _ string) bool { return strings.HasPrefix(key, "dr-syncer.io/") }
	maps.DeleteFunc(annotations, ours)
	maps.DeleteFunc(labels, ours)
	for _, a := range []string{
		"kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation",
		"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/storage-provisioner", "volume.kubernetes.io/selected-node",
		"volume.beta.kubernetes.io/storage-provisioner",
	} {
		delete(annotations, a)
	}
	o.SetAnnotations(nilIfEmpty(annotations))
	switch kind {
	case "namespaces":
		delete(labels, "kubernetes.io/metadata.name")
		unstructured.RemoveNestedField(o.Object, "spec")
	case "services":
		if ip, _, _ := unstructured.NestedString(o.Object, "spec", "clusterIP"); ip != "None" {
			unstructured.RemoveNestedField(o.Object, "spec", "clusterIP")
			unstructured.RemoveNestedField(o.Object, "spec", "clusterIPs")
		}
		unstructured.RemoveNestedField(o.Object, "spec", "healthCheckNodePort")
		ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
		for _, p := range ports {
			if m, ok := p.(map[string]any); ok {
				delete(m, "nodePort")
			}
		}
		_ = unstructured.SetNestedSlice(o.Object, ports, "spec", "ports")
	case "autoscaling/horizontalpodautoscalers":
		policiesOnly(o)
	case "persistentvolumeclaims":
		unstructured.RemoveNestedField(o.Object, "spec", "volumeName")
	case "batch/jobs":
		unstructured.RemoveNestedField(o.Object, "spec", "selector")
		unstructured.RemoveNestedField(o.Object, "spec", "template", "metadata", "labels")
		// A Job without labels is given those of its Pods.
		for _, l := range []string{"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"} {
			delete(labels, l)
		}
	case "rbac.authorization.k8s.io/rolebindings", "rbac.authorization.k8s.io/clusterrolebindings":
		subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
		for _, s := range subjects {
			if m, ok := s.(map[string]any); ok {
				if ns, ok := m["namespace"].(string); ok {
					if to, ok := namespace(ns); ok {
						m["namespace"] = to
					}
				}
			}
		}
		_ = unstructured.SetNestedSlice(o.Object, subjects, "subjects")
	case "serviceaccounts":
		unstructured.RemoveNestedField(o.Object, "secrets")
	}
	o.SetLabels(nilIfEmpty(labels))
	return o.Object
}

func nilIfEmpty(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
