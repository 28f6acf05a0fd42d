package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Kind is one resource that an API server serves, in the version it prefers.
type Kind struct {
	pipeline.GroupResource
	Version string
	Kind    string
	// Namespaced objects live in a namespace, others in the cluster.
	Namespaced bool
	// StatusSubresource means that status is written apart from the object.
	StatusSubresource bool
	Verbs             []string
}

// Can reports whether the server offers all the verbs for the kind. It does not mean
// that this user may use them.
func (k Kind) Can(verbs ...string) bool {
	for _, v := range verbs {
		if !slices.Contains(k.Verbs, v) {
			return false
		}
	}
	return true
}

// APIVersion is the value of apiVersion in the kind's objects: "v1", "apps/v1".
func (k Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// path is the URL path of the collection (name empty) or of an object.
func (k Kind) path(namespace, name string) string {
	var b strings.Builder
	if k.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/")
		b.WriteString(k.Group)
		b.WriteByte('/')
	}
	b.WriteString(k.Version)
	if namespace != "" {
		b.WriteString("/namespaces/")
		b.WriteString(namespace)
	}
	b.WriteByte('/')
	b.WriteString(k.Resource)
	if name != "" {
		b.WriteByte('/')
		b.WriteString(name)
	}
	return b.String()
}

// PartialError says which API groups could not be discovered; what was found
// beside them is good. Kinds of a failed group may well exist.
type PartialError struct {
	// Failed holds the reason by "group/version".
	Failed map[string]error
}

func (e *PartialError) Error() string {
	parts := make([]string, 0, len(e.Failed))
	for _, gv := range slices.Sorted(maps.Keys(e.Failed)) {
		parts = append(parts, gv+": "+e.Failed[gv].Error())
	}
	return "discover kinds: " + strings.Join(parts, "; ")
}

// doubles are kinds served by two groups from one store, the older by the newer. Collecting
// both would double every change.
var doubles = map[pipeline.GroupResource]pipeline.GroupResource{
	{Resource: "events"}:                                   {Group: "events.k8s.io", Resource: "events"},
	{Group: "extensions", Resource: "daemonsets"}:          {Group: "apps", Resource: "daemonsets"},
	{Group: "extensions", Resource: "deployments"}:         {Group: "apps", Resource: "deployments"},
	{Group: "extensions", Resource: "ingresses"}:           {Group: "networking.k8s.io", Resource: "ingresses"},
	{Group: "extensions", Resource: "networkpolicies"}:     {Group: "networking.k8s.io", Resource: "networkpolicies"},
	{Group: "extensions", Resource: "podsecuritypolicies"}: {Group: "policy", Resource: "podsecuritypolicies"},
	{Group: "extensions", Resource: "replicasets"}:         {Group: "apps", Resource: "replicasets"},
}

// Kinds returns every kind that can be listed and watched, sorted by group and
// resource, each once and in the version the server prefers. When some groups fail
// (an aggregated API server that is down) it returns the others together with
// a *PartialError. It asks the server at every call and refreshes what Kind answers from.
func (c *Client) Kinds(ctx context.Context) ([]Kind, error) {
	all, err := c.discover(ctx)
	var partial *PartialError
	if err != nil && !errors.As(err, &partial) {
		return nil, err
	}
	c.kinds.put(all, partial)
	kinds := make([]Kind, 0, len(all))
	for gr, k := range all {
		if newer, ok := doubles[gr]; ok {
			if _, served := all[newer]; served {
				continue
			}
		}
		if k.Can("list", "watch") {
			kinds = append(kinds, k)
		}
	}
	slices.SortFunc(kinds, func(a, b Kind) int {
		return strings.Compare(a.GroupResource.String(), b.GroupResource.String())
	})
	return kinds, err
}

// refreshInterval is how long Kind waits between two discoveries for kinds it
// does not know.
const refreshInterval = time.Second

// kindCache holds the last discovery.
type kindCache struct {
	sem  chan struct{} // held while the fields below are used or refreshed
	data *kindData
}

type kindData struct {
	kinds   map[pipeline.GroupResource]Kind // nil: nothing cached
	partial *PartialError
	read    time.Time
}

func newKindCache() kindCache {
	return kindCache{sem: make(chan struct{}, 1), data: &kindData{}}
}

func (k *kindCache) lock(ctx context.Context) error {
	select {
	case k.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *kindCache) unlock() { <-k.sem }

func (k *kindCache) put(all map[pipeline.GroupResource]Kind, partial *PartialError) {
	k.sem <- struct{}{}
	defer k.unlock()
	*k.data = kindData{kinds: all, partial: partial, read: time.Now()}
}

// Kind returns the kind of a resource, from the last discovery if it knows it. Asked for
// one it does not know, it discovers again, at most once a second; if the server does not serve it, the
// error is of class Dependency. Any number of callers share one discovery.
func (c *Client) Kind(ctx context.Context, gr pipeline.GroupResource) (Kind, error) {
	if err := c.kinds.lock(ctx); err != nil {
		return Kind{}, fmt.Errorf("find kind %s: %w", gr, err)
	}
	defer c.kinds.unlock()
	d := c.kinds.data
	if k, ok := d.kinds[gr]; ok {
		return k, nil
	}
	if d.kinds == nil || time.Since(d.read) >= refreshInterval {
		all, err := c.discover(ctx)
		var partial *PartialError
		if err != nil && !errors.As(err, &partial) {
			return Kind{}, fmt.Errorf("find kind %s: %w", gr, err)
		}
		*d = kindData{kinds: all, partial: partial, read: time.Now()}
		if k, ok := all[gr]; ok {
			return k, nil
		}
	}
	if d.partial != nil {
		for gv, err := range d.partial.Failed {
			if group, _, _ := strings.Cut(gv, "/"); group == gr.Group {
				return Kind{}, pipeline.WithClass(pipeline.Dependency, fmt.Errorf("find kind %s: %w", gr, err))
			}
		}
	}
	return Kind{}, pipeline.WithClass(pipeline.Dependency, fmt.Errorf("find kind %s: the server does not serve it", gr))
}

// ForgetKinds has the next Kind discover again, because a CRD changed.
func (c *Client) ForgetKinds() {
	c.kinds.sem <- struct{}{}
	defer c.kinds.unlock()
	*c.kinds.data = kindData{}
}

// Aggregated discovery, the part of it that is used.
type (
	groupList struct {
		Kind  string  `json:"kind"`
		Items []group `json:"items"`
	}
	group struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Versions []groupVersion `json:"versions"` // most preferred first
	}
	groupVersion struct {
		Version   string     `json:"version"`
		Freshness string     `json:"freshness"`
		Resources []resource `json:"resources"`
	}
	resource struct {
		Resource     string `json:"resource"`
		Scope        string `json:"scope"`
		ResponseKind *struct {
			Kind string `json:"kind"`
		} `json:"responseKind"`
		Verbs        []string `json:"verbs"`
		Subresources []struct {
			Subresource string `json:"subresource"`
		} `json:"subresources"`
	}
)

const acceptDiscovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"

var errStale = errors.New("the API service does not answer")

// discover reads all resources of the server.
func (c *Client) discover(ctx context.Context) (map[pipeline.GroupResource]Kind, error) {
	all := map[pipeline.GroupResource]Kind{}
	failed := map[string]error{}
	for _, path := range []string{"/api", "/apis"} {
		body, err := c.do(ctx, c.rest.Get().AbsPath(path).SetHeader("Accept", acceptDiscovery))
		if err != nil {
			return nil, fmt.Errorf("discover kinds: %w", err)
		}
		var list groupList
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("discover kinds: %s: %w", path, err)
		}
		if list.Kind != "APIGroupDiscoveryList" {
			return nil, fmt.Errorf("discover kinds: %s: the server answers with %q: aggregated discovery needs Kubernetes 1.27 or newer", path, list.Kind)
		}
		for _, g := range list.Items {
			g.collect(all, failed)
		}
	}
	if len(failed) > 0 {
		return all, &PartialError{Failed: failed}
	}
	return all, nil
}

// collect adds the group's kinds, each in the most preferred version that has
// it. It ends at a version that cannot be read: a kind found in a later one may be
// preferred in that one.
func (g group) collect(all map[pipeline.GroupResource]Kind, failed map[string]error) {
	for _, v := range g.Versions {
		if v.Freshness == "Stale" {
			failed[g.Metadata.Name+"/"+v.Version] = errStale
			return
		}
		for _, r := range v.Resources {
			gr := pipeline.GroupResource{Group: g.Metadata.Name, Resource: r.Resource}
			if _, ok := all[gr]; ok || r.ResponseKind == nil {
				continue
			}
			k := Kind{
				GroupResource: gr, Version: v.Version, Kind: r.ResponseKind.Kind,
				Namespaced: r.Scope == "Namespaced", Verbs: r.Verbs,
			}
			for _, s := range r.Subresources {
				k.StatusSubresource = k.StatusSubresource || s.Subresource == "status"
			}
			all[gr] = k
		}
	}
}
