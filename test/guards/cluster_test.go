package guards

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// The kinds that the clusters serve.
var (
	namespaces = kind("", "namespaces", "Namespace", false)
	configMaps = kind("", "configmaps", "ConfigMap", true)
	secrets    = kind("", "secrets", "Secret", true)
	widgets    = kind("example.com", "widgets", "Widget", true)
	kinds      = []kube.Kind{namespaces, configMaps, secrets, widgets}
)

func kind(group, resource, name string, namespaced bool) kube.Kind {
	return kube.Kind{
		GroupResource: pipeline.GroupResource{Group: group, Resource: resource}, Version: "v1", Kind: name, Namespaced: namespaced,
		Verbs: []string{"get", "list", "watch", "create", "patch", "delete"},
	}
}

// id names an object in a cluster.
type id struct {
	kind            pipeline.GroupResource
	namespace, name string
}

// thing is an object of a cluster.
type thing struct {
	id      id
	uid     string
	version uint64
	body    map[string]any
}

// metaOf is the metadata of an object.
func metaOf(body map[string]any) map[string]any {
	meta, _ := body["metadata"].(map[string]any)
	return meta
}

func (o thing) object(k kube.Kind) kube.Object {
	body := maps.Clone(o.body)
	meta := maps.Clone(metaOf(body))
	meta["uid"], meta["resourceVersion"] = o.uid, fmt.Sprint(o.version)
	body["metadata"] = meta
	raw, err := json.Marshal(body)
	if err != nil {
		raw = nil // of a map of strings it cannot be
	}
	return kube.Object{
		Namespace: o.id.namespace, Name: o.id.name, UID: o.uid, Version: fmt.Sprint(o.version), APIVersion: k.APIVersion(), Kind: k.Kind, Raw: raw,
	}
}

// event is a change that watches are told of.
type event struct {
	thing
	deleted bool
}

// cluster is an API server in memory, with faults.
type cluster struct {
	mu      sync.Mutex
	objects map[id]thing
	version uint64
	uids    int
	uid     string
	events  []event
	// session differs when every watch has to list anew.
	session int
	// refused are the kinds that cannot be read, with the error.
	refused map[pipeline.GroupResource]error
	// lie, if not nil, says what lists do not show; what is asked for by name is there, unless unseen.
	lie    func(id) bool
	unseen bool
	// onDelete is told of every delete that is asked for.
	onDelete func(id)
}

func newCluster(uid string) *cluster {
	return &cluster{
		objects: map[id]thing{}, version: 1000, uid: uid,
		refused: map[pipeline.GroupResource]error{},
	}
}

var (
	errForbidden = pipeline.WithClass(pipeline.Forbidden, errors.New("forbidden"))
	errGone      = pipeline.WithClass(pipeline.Dependency, apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, ""))
)

// put makes or changes an object.
func (c *cluster) put(k kube.Kind, namespace, name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	meta := map[string]any{"name": name}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	c.write(id{k.GroupResource, namespace, name}, map[string]any{
		"apiVersion": k.APIVersion(), "kind": k.Kind, "metadata": meta, "data": map[string]any{"value": value},
	})
}

// write is called with the lock held.
func (c *cluster) write(i id, body map[string]any) (o thing, created bool) {
	o, exists := c.objects[i]
	if !exists {
		o = thing{id: i, uid: c.nextUID()}
	}
	c.version++
	o.version, o.body = c.version, body
	c.objects[i] = o
	c.events = append(c.events, event{thing: o})
	return o, !exists
}

// nextUID is called with the lock held.
func (c *cluster) nextUID() string {
	c.uids++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", c.uids)
}

// remove deletes an object, and with a Namespace what is in it.
func (c *cluster) remove(i id) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(i)
}

func (c *cluster) drop(i id) {
	if i.kind == namespaces.GroupResource {
		for _, other := range slices.SortedFunc(maps.Keys(c.objects), compare) {
			if other.namespace == i.name {
				c.drop(other)
			}
		}
	}
	o, exists := c.objects[i]
	if !exists {
		return
	}
	c.version++
	o.version = c.version
	delete(c.objects, i)
	c.events = append(c.events, event{o, true})
}

func compare(a, b id) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }

func (c *cluster) has(i id) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.objects[i]
	return ok
}

// values are the objects, by name.
func (c *cluster) values() map[id]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[id]any{}
	for i, o := range c.objects {
		out[i] = o.body["data"]
	}
	return out
}

// change changes the cluster under its lock.
func (c *cluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// ClusterUID implements collect.Source.
func (c *cluster) ClusterUID(context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uid, nil
}

// ForgetKinds implements apply.Watcher.
func (c *cluster) ForgetKinds() {}

// Kind implements apply.Watcher.
func (c *cluster) Kind(_ context.Context, gr pipeline.GroupResource) (kube.Kind, error) {
	for _, k := range kinds {
		if k.GroupResource == gr {
			return k, nil
		}
	}
	return kube.Kind{}, errGone
}

// Kinds implements collect.Source.
func (c *cluster) Kinds(context.Context) ([]kube.Kind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(kinds), func(k kube.Kind) bool { return kube.IsNotFound(c.refused[k.GroupResource]) }), nil
}

// Get implements collect.Source.
func (c *cluster) Get(_ context.Context, k kube.Kind, namespace, name string) (kube.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refused[k.GroupResource]; err != nil {
		return kube.Object{}, err
	}
	o, ok := c.objects[id{k.GroupResource, namespace, name}]
	if !ok || c.unseen && c.lie(o.id) {
		return kube.Object{}, errGone
	}
	return o.object(k), nil
}

// poll is how often a watch looks for news.
const poll = 100 * time.Millisecond

// Watch implements collect.Source: it lists, tells what comes, and lists anew in a new session.
func (c *cluster) Watch(ctx context.Context, k kube.Kind, opts kube.WatchOptions, h kube.Handler) {
	session, next := -1, 0
	for ctx.Err() == nil {
		c.mu.Lock()
		refused := c.refused[k.GroupResource]
		var list []kube.Object
		var news []event
		listing, version := session != c.session && refused == nil, c.version
		if listing {
			session, next = c.session, len(c.events)
			for _, i := range slices.SortedFunc(maps.Keys(c.objects), compare) {
				if i.kind == k.GroupResource && (c.lie == nil || !c.lie(i)) {
					list = append(list, c.objects[i].object(k))
				}
			}
		} else if refused == nil {
			news, next = c.events[next:], len(c.events)
		} else {
			session = -1
		}
		c.mu.Unlock()
		if opts.OnError != nil {
			opts.OnError(refused)
		}
		if listing {
			for i := range list {
				h.Observe(list[i])
				list[i].Raw = nil
			}
			h.Replace(list, fmt.Sprint(version))
		}
		for _, e := range news {
			switch o := e.object(k); {
			case e.id.kind != k.GroupResource:
			case e.deleted:
				h.Delete(o)
			default:
				h.Observe(o)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
}

// Apply implements apply.Client.
func (c *cluster) Apply(_ context.Context, k kube.Kind, namespace, name string, body []byte) (kube.Meta, bool, error) {
	var wanted map[string]any
	if err := json.Unmarshal(body, &wanted); err != nil {
		return kube.Meta{}, false, err
	}
	meta := metaOf(wanted)
	uid, _ := meta["uid"].(string)
	delete(meta, "uid")
	delete(meta, "resourceVersion")
	c.mu.Lock()
	defer c.mu.Unlock()
	i := id{k.GroupResource, namespace, name}
	if former, ok := c.objects[i]; uid != "" && (!ok || former.uid != uid) {
		return kube.Meta{}, false, conflict(i)
	}
	if namespace != "" {
		if _, ok := c.objects[id{namespaces.GroupResource, "", namespace}]; !ok {
			return kube.Meta{}, false, errGone
		}
	}
	meta["managedFields"] = []any{map[string]any{"manager": v1alpha1.FieldManager, "operation": "Apply", "fieldsV1": fields(wanted)}}
	o, created := c.write(i, wanted)
	m, err := kube.MetaOf(o.object(k))
	return m, created, err
}

// fields are all that an object sets, as managed fields.
func fields(v any) map[string]any {
	out := map[string]any{}
	if m, ok := v.(map[string]any); ok {
		for key, value := range m {
			out["f:"+key] = fields(value)
		}
	}
	return out
}

func conflict(i id) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: fmt.Sprint(i)}}
}

// Delete implements apply.Client.
func (c *cluster) Delete(_ context.Context, k kube.Kind, namespace, name, uid string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := id{k.GroupResource, namespace, name}
	o, ok := c.objects[i]
	switch {
	case !ok:
		return nil
	case o.uid != uid:
		return conflict(i)
	}
	if c.onDelete != nil {
		for other := range c.objects {
			if other == i || i.kind == namespaces.GroupResource && other.namespace == i.name {
				c.onDelete(other)
			}
		}
	}
	c.drop(i)
	return nil
}
