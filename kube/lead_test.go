package kube_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// candidate takes part in an election until stop is called.
func candidate(t *testing.T, c *kube.Client, lease string) (leads <-chan struct{}, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	elected, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Lead(ctx, "default", lease, func() { close(elected) }) }()
	return elected, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Lead: %v", err)
		}
	}
}

func TestOneLeads(t *testing.T) {
	client := kubetest.Shared(t).Client()
	firstLeads, stopFirst := candidate(t, client, "one-leads")
	select {
	case <-firstLeads:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was elected")
	}
	secondLeads, stopSecond := candidate(t, client, "one-leads")
	defer stopSecond()
	select {
	case <-secondLeads:
		t.Fatal("two lead")
	case <-time.After(3 * time.Second): // more than a retry
	}
	stopFirst()
	select {
	case <-secondLeads:
	case <-time.After(10 * time.Second): // less than the lease lasts: it was given up
		t.Fatal("nobody follows")
	}
}

func TestLeadWithoutPermission(t *testing.T) {
	client, err := kube.Connect(kube.Settings{Kubeconfig: kubetest.Shared(t).User("nobody")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Lead(t.Context(), "default", "forbidden", func() { t.Error("elected") })
	if !kube.IsForbidden(err) || pipeline.ClassOf(err) != pipeline.Forbidden {
		t.Errorf("Lead: %v, want that it is forbidden", err)
	}
	if err := client.Lead(canceled(t), "default", "canceled", func() { t.Error("elected") }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Lead after the end: %v", err)
	}
}

func TestLeadMayOnlyLook(t *testing.T) {
	cluster := kubetest.Shared(t)
	if err := cluster.Apply(`---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looks-at-leases, namespace: default}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looks-at-leases, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looks-at-leases}
subjects: [{kind: User, name: onlooker, apiGroup: rbac.authorization.k8s.io}]
`); err != nil {
		t.Fatal(err)
	}
	client, err := kube.Connect(kube.Settings{Kubeconfig: cluster.User("onlooker")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Lead(t.Context(), "default", "look-only", func() { t.Error("elected") })
	if !kube.IsForbidden(err) || pipeline.ClassOf(err) != pipeline.Forbidden {
		t.Errorf("Lead: %v, want that it is forbidden", err)
	}
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
