package world

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Object is a made-up object and where it lives.
type Object struct {
	Kind      kube.Kind
	Namespace string
	Name      string
	Body      []byte
}

// Ref is the object's identity at a site.
func (o Object) Ref(site string) pipeline.Ref {
	return pipeline.Ref{Site: site, Group: o.Kind.Group, Resource: o.Kind.Resource, Namespace: o.Namespace, Name: o.Name}
}

func kindOf(group, resource, kind string, namespaced bool) kube.Kind {
	return kube.Kind{GroupResource: pipeline.GroupResource{Group: group, Resource: resource}, Version: "v1", Kind: kind, Namespaced: namespaced}
}

// Kinds that Mixed and Namespace make.
var (
	Namespaces      = kindOf("", "namespaces", "Namespace", false)
	ConfigMaps      = kindOf("", "configmaps", "ConfigMap", true)
	Secrets         = kindOf("", "secrets", "Secret", true)
	Services        = kindOf("", "services", "Service", true)
	ServiceAccounts = kindOf("", "serviceaccounts", "ServiceAccount", true)
	Deployments     = kindOf("apps", "deployments", "Deployment", true)
	StatefulSets    = kindOf("apps", "statefulsets", "StatefulSet", true)
	Roles           = kindOf("rbac.authorization.k8s.io", "roles", "Role", true)
	RoleBindings    = kindOf("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", true)
	Ingresses       = kindOf("networking.k8s.io", "ingresses", "Ingress", true)
	NetworkPolicies = kindOf("networking.k8s.io", "networkpolicies", "NetworkPolicy", true)
	CronJobs        = kindOf("batch", "cronjobs", "CronJob", true)
)

// MixedKinds are the kinds that Mixed makes.
var MixedKinds = []kube.Kind{
	ConfigMaps, Secrets, Services, ServiceAccounts, Deployments, StatefulSets, Roles, RoleBindings, Ingresses, NetworkPolicies, CronJobs,
}

// Namespace makes a Namespace.
func Namespace(name string) Object {
	return object(Namespaces, "", name, map[string]any{"spec": map[string]any{}})
}

// ConfigMap makes one whose data is size random letters and whose revision tells its versions apart.
func ConfigMap(r *rand.Rand, namespace, name string, size, revision int) Object {
	return object(ConfigMaps, namespace, name, map[string]any{"data": map[string]any{"payload": letters(r, size), "revision": fmt.Sprint(revision)}})
}

// Mixed makes the i-th object of a mixture as an application's namespace holds
// it: mostly configuration, secrets and workloads. The same r state makes the
// same object.
func Mixed(r *rand.Rand, namespace string, i int) Object {
	name := fmt.Sprintf("app-%d", i)
	switch n := i % 20; {
	case n < 6:
		return ConfigMap(r, namespace, name, 500+r.IntN(3000), 0)
	case n < 9:
		secret := base64.StdEncoding.EncodeToString([]byte(letters(r, 200+r.IntN(1500))))
		return object(Secrets, namespace, name, map[string]any{"type": "Opaque", "data": map[string]any{"token": secret}})
	case n < 12:
		return object(Deployments, namespace, name, map[string]any{"spec": map[string]any{
			"replicas": r.IntN(5), "selector": selector(name), "template": podTemplate(r, name),
			"strategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": "25%", "maxUnavailable": 0}},
		}})
	case n == 12:
		return object(StatefulSets, namespace, name, map[string]any{"spec": map[string]any{
			"replicas": r.IntN(3), "serviceName": name, "selector": selector(name), "template": podTemplate(r, name),
			"volumeClaimTemplates": []any{map[string]any{
				"metadata": map[string]any{"name": "data"},
				"spec":     map[string]any{"accessModes": []any{"ReadWriteOnce"}, "resources": map[string]any{"requests": map[string]any{"storage": "1Gi"}}},
			}},
		}})
	case n < 15:
		// Headless, so that 10,000 objects do not use up the service address range.
		return object(Services, namespace, name, map[string]any{"spec": map[string]any{
			"clusterIP": "None", "selector": map[string]any{"app": name},
			"ports": []any{map[string]any{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}},
		}})
	case n == 15:
		return object(ServiceAccounts, namespace, name, map[string]any{"automountServiceAccountToken": false})
	case n == 16:
		return object(Roles, namespace, name, map[string]any{"rules": []any{map[string]any{
			"apiGroups": []any{""}, "resources": []any{"configmaps"}, "verbs": []any{"get", "list", "watch"},
		}}})
	case n == 17:
		return object(RoleBindings, namespace, name, map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "app-16"},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "app-15", "namespace": namespace}},
		})
	case n == 18:
		return object(Ingresses, namespace, name, map[string]any{"spec": map[string]any{"rules": []any{map[string]any{
			"host": name + ".example.org",
			"http": map[string]any{"paths": []any{map[string]any{
				"path": "/", "pathType": "Prefix",
				"backend": map[string]any{"service": map[string]any{"name": name, "port": map[string]any{"number": 80}}},
			}}},
		}}}})
	default:
		if i%40 == 19 {
			return object(CronJobs, namespace, name, map[string]any{"spec": map[string]any{
				"schedule": "*/5 * * * *",
				"jobTemplate": map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
					"restartPolicy": "Never", "containers": []any{container(r, name)},
				}}}},
			}})
		}
		return object(NetworkPolicies, namespace, name, map[string]any{"spec": map[string]any{
			"podSelector": map[string]any{"matchLabels": map[string]any{"app": name}}, "policyTypes": []any{"Ingress"},
		}})
	}
}

func object(k kube.Kind, namespace, name string, fields map[string]any) Object {
	meta := map[string]any{"name": name, "labels": map[string]any{"app": name, "app.kubernetes.io/part-of": "shop"}}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	fields["apiVersion"], fields["kind"], fields["metadata"] = k.APIVersion(), k.Kind, meta
	body, _ := json.Marshal(fields) //nolint:errchkjson // maps of strings and numbers always encode
	return Object{Kind: k, Namespace: namespace, Name: name, Body: body}
}

func selector(name string) map[string]any {
	return map[string]any{"matchLabels": map[string]any{"app": name}}
}

func podTemplate(r *rand.Rand, name string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"app": name}},
		"spec":     map[string]any{"containers": []any{container(r, name)}},
	}
}

func container(r *rand.Rand, name string) map[string]any {
	env := []any{}
	for i := range 3 + r.IntN(6) {
		env = append(env, map[string]any{"name": fmt.Sprintf("SETTING_%d", i), "value": letters(r, 20)})
	}
	return map[string]any{
		"name": name, "image": "registry.example.org/shop/" + name + ":1." + fmt.Sprint(r.IntN(20)), "env": env,
		"ports":     []any{map[string]any{"name": "http", "containerPort": 8080, "protocol": "TCP"}},
		"resources": map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "128Mi"}, "limits": map[string]any{"memory": "256Mi"}},
	}
}

const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

func letters(r *rand.Rand, n int) string {
	var b strings.Builder
	b.Grow(n)
	for range n {
		b.WriteByte(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}
