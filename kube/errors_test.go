package kube_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// secret is in every object that a server refuses here; no error may hold it.
const secret = "hunter2hunter2"

const thingCRD = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.classes.example.com}
spec:
  group: classes.example.com
  scope: Namespaced
  names: {plural: things, kind: Thing, singular: thing, listKind: ThingList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          fixed: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: "Value is immutable"}]}
          same: {type: string, x-kubernetes-validations: [{rule: self == oldSelf}]}
          count: {type: integer, maximum: 5}
          text: {type: string}
`

// object is JSON of an object with the given head and further fields.
func object(apiVersion, kind, fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"x"}%s}`, apiVersion, kind, fields)
}

func template(label, image, policy string) string {
	return fmt.Sprintf(`{"metadata":{"labels":{"a":%q}},"spec":{"restartPolicy":%q,"containers":[{"name":"c","image":%q}]}}`, label, policy, image)
}

func TestErrorsHaveTheirClass(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	if err := cluster.Apply(thingCRD); err != nil {
		t.Fatal(err)
	}
	things := awaitKind(t, c, "classes.example.com", "things")
	thing := func(fields string) string { return object(things.APIVersion(), things.Kind, fields) }
	long := strings.Repeat("x", 1100<<10)

	for _, tt := range []struct {
		name            string
		group, resource string
		cluster         bool   // cluster-scoped
		before, body    string // before, if set, is applied first and accepted
		want            pipeline.Class
	}{
		{
			name: "service cluster IP", resource: "services",
			before: object("v1", "Service", `"spec":{"clusterIP":"10.96.77.4","ports":[{"port":80}]}`),
			body:   object("v1", "Service", `"spec":{"clusterIP":"10.96.77.5","ports":[{"port":80}]}`), want: pipeline.Immutable,
		},
		{
			name: "job template", group: "batch", resource: "jobs",
			before: object("batch/v1", "Job", `"spec":{"template":`+template("a", "one", "Never")+`}`),
			body:   object("batch/v1", "Job", `"spec":{"template":`+template("a", secret, "Never")+`}`), want: pipeline.Immutable,
		},
		{
			name: "stateful set claim templates", group: "apps", resource: "statefulsets",
			before: statefulSet("1Gi"), body: statefulSet("2Gi"), want: pipeline.Immutable,
		},
		{
			name: "deployment selector", group: "apps", resource: "deployments",
			before: object("apps/v1", "Deployment", `"spec":{"selector":{"matchLabels":{"a":"one"}},"template":`+template("one", "i", "Always")+`}`),
			body:   object("apps/v1", "Deployment", `"spec":{"selector":{"matchLabels":{"a":"`+secret+`"}},"template":`+template(secret, "i", "Always")+`}`), want: pipeline.Immutable,
		},
		{
			name: "role reference", group: "rbac.authorization.k8s.io", resource: "rolebindings",
			before: roleBinding("one"), body: roleBinding(secret), want: pipeline.Immutable,
		},
		{
			name: "secret type", resource: "secrets",
			before: object("v1", "Secret", `"type":"example.com/one"`),
			body:   object("v1", "Secret", `"type":"example.com/`+secret+`"`), want: pipeline.Immutable,
		},
		{
			name: "immutable secret", resource: "secrets",
			before: object("v1", "Secret", `"immutable":true,"stringData":{"a":"one"}`),
			body:   object("v1", "Secret", `"immutable":true,"stringData":{"a":"`+secret+`"}`), want: pipeline.Immutable,
		},
		{
			name: "immutable config map", resource: "configmaps",
			before: object("v1", "ConfigMap", `"immutable":true,"data":{"a":"one"}`),
			body:   object("v1", "ConfigMap", `"immutable":true,"data":{"a":"`+secret+`"}`), want: pipeline.Immutable,
		},
		{
			name: "immutable config map that is invalid too", resource: "configmaps",
			before: object("v1", "ConfigMap", `"immutable":true,"data":{"a":"one"}`),
			body:   object("v1", "ConfigMap", `"immutable":true,"data":{"a":"`+long+`"}`), want: pipeline.Invalid,
		},
		{
			name: "claim spec", resource: "persistentvolumeclaims",
			before: claim("one"), body: claim(secret), want: pipeline.Immutable,
		},
		{
			name: "storage class provisioner", group: "storage.k8s.io", resource: "storageclasses", cluster: true,
			before: object("storage.k8s.io/v1", "StorageClass", `"provisioner":"one"`),
			body:   object("storage.k8s.io/v1", "StorageClass", `"provisioner":"`+secret+`"`), want: pipeline.Immutable,
		},
		{
			name: "priority class value", group: "scheduling.k8s.io", resource: "priorityclasses", cluster: true,
			before: object("scheduling.k8s.io/v1", "PriorityClass", `"value":1`),
			body:   object("scheduling.k8s.io/v1", "PriorityClass", `"value":2`), want: pipeline.Immutable,
		},
		{
			name: "custom field with a message", group: things.Group, resource: "things",
			before: thing(`"fixed":"one"`), body: thing(`"fixed":"` + secret + `"`), want: pipeline.Immutable,
		},
		{
			name: "custom field without a message", group: things.Group, resource: "things",
			before: thing(`"same":"one"`), body: thing(`"same":"` + secret + `"`), want: pipeline.Immutable,
		},

		{
			name: "value out of range", resource: "services",
			body: object("v1", "Service", `"spec":{"ports":[{"port":987654321}]}`), want: pipeline.Invalid,
		},
		{
			name: "custom value out of range", group: things.Group, resource: "things",
			body: thing(`"count":7777777777`), want: pipeline.Invalid,
		},
		{
			name: "value of the wrong type", resource: "configmaps",
			body: object("v1", "ConfigMap", `"data":{"a":["`+secret+`"]}`), want: pipeline.Invalid,
		},
		{
			name: "unknown field", resource: "configmaps",
			body: object("v1", "ConfigMap", `"extra":"`+secret+`"`), want: pipeline.Invalid,
		},
		{name: "wrong kind", resource: "configmaps", body: object("v1", "Secret", ""), want: pipeline.Invalid},
		{name: "no JSON", resource: "configmaps", body: `{"apiVersion":"v1","` + secret, want: pipeline.Invalid},
		{
			name: "label that is none", resource: "configmaps",
			body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"a":"` + secret + ` !"}}}`, want: pipeline.Invalid,
		},
		{
			name: "too large for the kind", resource: "configmaps",
			body: object("v1", "ConfigMap", `"data":{"a":"`+long+`"}`), want: pipeline.Invalid,
		},
		{
			name: "too large for the server", resource: "configmaps",
			body: object("v1", "ConfigMap", `"data":{"a":"`+long+long+long+`"}`), want: pipeline.Invalid,
		},
		{
			name: "too large for the store", group: things.Group, resource: "things",
			body: thing(`"text":"` + long + long + `"`), want: pipeline.Invalid,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := kindOf(t, c, tt.group, tt.resource)
			ns := ""
			if !tt.cluster {
				ns = namespace(t, c)
			}
			if tt.before != "" {
				if _, _, err := c.Apply(t.Context(), k, ns, "x", []byte(tt.before)); err != nil {
					t.Fatalf("before: %v", err)
				}
			}
			_, _, err := c.Apply(t.Context(), k, ns, "x", []byte(tt.body))
			checkClass(t, err, tt.want)
		})
	}
}

// checkClass checks an error's class, and that it names what failed and holds no content.
func checkClass(t *testing.T, err error, want pipeline.Class) {
	t.Helper()
	if err == nil {
		t.Fatal("the server accepts it")
	}
	if got := pipeline.ClassOf(err); got != want {
		t.Errorf("class %s, want %s: %v", got, want, err)
	}
	for _, content := range []string{secret, "xxxxxxxx", "7777777777", "987654321"} {
		if strings.Contains(err.Error(), content) {
			t.Errorf("the error holds content of the object: %.200v", err)
		}
	}
	if len(err.Error()) > 1024 {
		t.Errorf("the error is %d bytes long", len(err.Error()))
	}
}

func statefulSet(size string) string {
	return object("apps/v1", "StatefulSet", `"spec":{"serviceName":"s","selector":{"matchLabels":{"a":"a"}},"template":`+template("a", "i", "Always")+
		`,"volumeClaimTemplates":[{"metadata":{"name":"v"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"`+size+`"}}}}]}`)
}

func roleBinding(role string) string {
	return object("rbac.authorization.k8s.io/v1", "RoleBinding", `"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"`+role+`"}`)
}

func claim(class string) string {
	return object("v1", "PersistentVolumeClaim", `"spec":{"storageClassName":"`+class+`","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}`)
}

// awaitKind waits until a kind just defined is served.
func awaitKind(t *testing.T, c *kube.Client, group, resource string) kube.Kind {
	t.Helper()
	var k kube.Kind
	eventually(t, resource+" is served", func() bool {
		c.ForgetKinds()
		var err error
		k, err = c.Kind(t.Context(), pipeline.GroupResource{Group: group, Resource: resource})
		return err == nil && listable(t.Context(), c, k)
	})
	return k
}

// listable reports whether the server answers for the kind, which it does a little after it announces it.
func listable(ctx context.Context, c *kube.Client, k kube.Kind) bool {
	_, err := c.Get(ctx, k, "default", "none")
	return kube.IsNotFound(err) && !strings.Contains(err.Error(), "the server could not find the requested resource")
}

func TestMissingThingsAreDependencies(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	configMaps := kindOf(t, c, "", "configmaps")
	ns := namespace(t, c)
	apply := func(k kube.Kind, ns, name, body string) error {
		_, _, err := c.Apply(t.Context(), k, ns, name, []byte(body))
		return err
	}

	t.Run("namespace", func(t *testing.T) {
		checkClass(t, apply(configMaps, "nowhere", "x", object("v1", "ConfigMap", "")), pipeline.Dependency)
	})
	t.Run("kind unknown to discovery", func(t *testing.T) {
		_, err := c.Kind(t.Context(), pipeline.GroupResource{Group: "example.com", Resource: "nothings"})
		checkClass(t, err, pipeline.Dependency)
	})
	t.Run("kind gone since discovery", func(t *testing.T) {
		gone := kube.Kind{GroupResource: pipeline.GroupResource{Group: "example.com", Resource: "nothings"}, Version: "v1", Kind: "Nothing", Namespaced: true}
		err := apply(gone, ns, "x", object("example.com/v1", "Nothing", ""))
		checkClass(t, err, pipeline.Dependency)
		if !kube.IsNotFound(err) {
			t.Errorf("IsNotFound is false for %v", err)
		}
	})
	t.Run("namespace is terminating", func(t *testing.T) {
		dying := namespace(t, c)
		// There is no controller that would finish the deletion.
		if err := c.Delete(t.Context(), kindOf(t, c, "", "namespaces"), "", dying, ""); err != nil {
			t.Fatal(err)
		}
		checkClass(t, apply(configMaps, dying, "x", object("v1", "ConfigMap", "")), pipeline.Dependency)
	})
	t.Run("quota is used up", func(t *testing.T) {
		full := namespace(t, c)
		if err := cluster.Apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none, namespace: " + full + "}\nspec: {hard: {count/secrets: \"0\"}}\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Kubectl("patch", "resourcequota", "none", "-n", full, "--subresource=status", "--type=merge",
			"-p", `{"status":{"hard":{"count/secrets":"0"},"used":{"count/secrets":"0"}}}`); err != nil {
			t.Fatal(err)
		}
		var err error
		n := 0
		eventually(t, "the quota is in force", func() bool {
			n++
			name := fmt.Sprintf("secret-%d", n)
			err = apply(kindOf(t, c, "", "secrets"), full, name, fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q}}`, name))
			return err != nil
		})
		checkClass(t, err, pipeline.Dependency)
	})
	t.Run("webhook does not answer", func(t *testing.T) {
		hooked := namespace(t, c)
		if err := cluster.Apply(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: dead}
webhooks:
- name: dead.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: "https://127.0.0.1:1/"}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + hooked + `}}
  rules: [{apiGroups: [""], apiVersions: ["*"], operations: ["*"], resources: [configmaps]}]
`); err != nil {
			t.Fatal(err)
		}
		var err error
		n := 0
		eventually(t, "the webhook is called", func() bool {
			n++
			err = apply(configMaps, hooked, "x", object("v1", "ConfigMap", fmt.Sprintf(`"data":{"n":"%d"}`, n)))
			return err != nil
		})
		checkClass(t, err, pipeline.Dependency)
	})
}

func TestForbidden(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	k, ns := kindOf(t, c, "", "configmaps"), namespace(t, c)
	stranger := connect(t, cluster.User("stranger"))
	_, _, err := stranger.Apply(t.Context(), k, ns, "x", []byte(object("v1", "ConfigMap", "")))
	checkClass(t, err, pipeline.Forbidden)
	if !kube.IsForbidden(err) || kube.IsUnauthorized(err) {
		t.Errorf("wrong predicates for %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	cluster := kubetest.Shared(t)
	k, ns := kindOf(t, cluster.Client(), "", "configmaps"), namespace(t, cluster.Client())
	config := cluster.Kubeconfig()
	nobody := connect(t, rewrite(t, config, line(t, config, "server:"), "server: https://127.0.0.1:1"))
	_, _, err := nobody.Apply(t.Context(), k, ns, "x", []byte(object("v1", "ConfigMap", "")))
	checkClass(t, err, pipeline.Transient)
	if !errors.Is(err, pipeline.ErrUnreachable) {
		t.Errorf("nobody listens there: %v", err)
	}
}

func TestUnauthorizedPasses(t *testing.T) {
	cluster := kubetest.Shared(t)
	k, ns := kindOf(t, cluster.Client(), "", "configmaps"), namespace(t, cluster.Client())
	config := cluster.User("rotated")
	config = rewrite(t, config, line(t, config, "client-key-data:"), "")
	c := connect(t, rewrite(t, config, line(t, config, "client-certificate-data:"), "token: expired"))
	_, _, err := c.Apply(t.Context(), k, ns, "x", []byte(object("v1", "ConfigMap", "")))
	checkClass(t, err, pipeline.Transient)
	if !kube.IsUnauthorized(err) {
		t.Errorf("wrong predicates for %v", err)
	}
}

func TestWritesHitOnlyTheObjectThatIsMeant(t *testing.T) {
	c := kubetest.Shared(t).Client()
	k, ns := kindOf(t, c, "", "configmaps"), namespace(t, c)
	withUID := func(uid string) []byte {
		return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","uid":%q},"data":{"text":"new"}}`, uid)
	}
	conflict := func(what string, err error) {
		t.Helper()
		if !kube.IsConflict(err) {
			t.Errorf("%s: %v, want a conflict", what, err)
		}
		if got := pipeline.ClassOf(err); got != pipeline.Transient {
			t.Errorf("%s has class %s, want Transient", what, got)
		}
	}
	const other = "00000000-0000-0000-0000-000000000000"

	_, _, err := c.Apply(t.Context(), k, ns, "x", withUID(other))
	conflict("applying to an object that is gone", err)

	m := put(t, c, ns, "x", "old")
	_, _, err = c.Apply(t.Context(), k, ns, "x", withUID(other))
	conflict("applying to an object with another UID", err)
	conflict("deleting an object with another UID", c.Delete(t.Context(), k, ns, "x", other))
	o, err := c.Get(t.Context(), k, ns, "x")
	if err != nil {
		t.Fatal(err)
	}
	if o.UID != m.UID || o.Version != m.Version {
		t.Errorf("the object is %s at %s, want %s at %s", o.UID, o.Version, m.UID, m.Version)
	}

	if _, created, err := c.Apply(t.Context(), k, ns, "x", withUID(m.UID)); err != nil || created {
		t.Errorf("applying to the object that is meant: created %v, %v", created, err)
	}
	for range 2 { // gone already is no error
		if err := c.Delete(t.Context(), k, ns, "x", m.UID); err != nil {
			t.Error(err)
		}
	}
}

func TestUnreachableIsTransient(t *testing.T) {
	cluster := kubetest.Shared(t)
	proxy := cluster.Proxy()
	c := connect(t, proxy.Kubeconfig())
	k := kindOf(t, c, "", "configmaps")
	proxy.Cut()
	_, err := c.Get(t.Context(), k, "default", "x")
	checkClass(t, err, pipeline.Transient)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, k, "default", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled call fails with %v, want context.Canceled", err)
	}
}
