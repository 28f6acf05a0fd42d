package kube_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestKinds(t *testing.T) {
	c := kubetest.Shared(t).Client()
	kinds, err := c.Kinds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]kube.Kind{}
	for _, k := range kinds {
		if _, ok := byName[k.GroupResource.String()]; ok {
			t.Errorf("%s comes twice", k.GroupResource)
		}
		byName[k.GroupResource.String()] = k
		if !k.Can("list", "watch") {
			t.Errorf("%s cannot be listed and watched", k.GroupResource)
		}
	}
	if !slices.IsSortedFunc(kinds, func(a, b kube.Kind) int {
		return cmpStrings(a.GroupResource.String(), b.GroupResource.String())
	}) {
		t.Error("the kinds are not sorted")
	}
	gr := func(group, resource string) pipeline.GroupResource {
		return pipeline.GroupResource{Group: group, Resource: resource}
	}
	for _, want := range []kube.Kind{
		{GroupResource: gr("", "configmaps"), Version: "v1", Kind: "ConfigMap", Namespaced: true},
		{GroupResource: gr("", "nodes"), Version: "v1", Kind: "Node", StatusSubresource: true},
		{GroupResource: gr("apps", "deployments"), Version: "v1", Kind: "Deployment", Namespaced: true, StatusSubresource: true},
		{GroupResource: gr("autoscaling", "horizontalpodautoscalers"), Version: "v2", Kind: "HorizontalPodAutoscaler", Namespaced: true, StatusSubresource: true},
		{GroupResource: gr("events.k8s.io", "events"), Version: "v1", Kind: "Event", Namespaced: true},
		{GroupResource: gr("rbac.authorization.k8s.io", "clusterroles"), Version: "v1", Kind: "ClusterRole"},
	} {
		got := byName[want.GroupResource.String()]
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(kube.Kind{}, "Verbs")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.GroupResource, diff)
		}
	}
	for _, not := range []string{"events", "bindings", "authentication.k8s.io/tokenreviews", "componentstatuses", "apps/deployments/status"} {
		if _, ok := byName[not]; ok {
			t.Errorf("%s is among the kinds", not)
		}
	}
	if got := byName["apps/deployments"].APIVersion(); got != "apps/v1" {
		t.Errorf("APIVersion is %q", got)
	}
	if got := byName["configmaps"].APIVersion(); got != "v1" {
		t.Errorf("APIVersion is %q", got)
	}
	if _, err := c.Kind(t.Context(), gr("", "events")); err != nil {
		t.Errorf("the older of two doubles is served all the same: %v", err)
	}
}

func cmpStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestKindsBesideADeadAPIService(t *testing.T) {
	cluster := kubetest.Start(t)
	c := cluster.Client()
	if err := cluster.Apply(`apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.dead.example.com}
spec:
  group: dead.example.com
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: dead, namespace: default}
`); err != nil {
		t.Fatal(err)
	}
	var partial *kube.PartialError
	var kinds []kube.Kind
	eventually(t, "the dead group is noticed", func() bool {
		var err error
		kinds, err = c.Kinds(t.Context())
		return errors.As(err, &partial)
	})
	if _, ok := partial.Failed["dead.example.com/v1"]; !ok || len(partial.Failed) != 1 {
		t.Errorf("failed: %v, want dead.example.com/v1 alone", partial.Failed)
	}
	if len(kinds) < 30 {
		t.Errorf("only %d kinds beside the dead group", len(kinds))
	}
	_, err := c.Kind(t.Context(), pipeline.GroupResource{Group: "dead.example.com", Resource: "things"})
	if pipeline.ClassOf(err) != pipeline.Dependency || err == nil {
		t.Errorf("a kind of the dead group: %v, want a dependency error", err)
	}
}
