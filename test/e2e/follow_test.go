//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestCopyIsKeptAndTakesOver follows an application from cluster to cluster: its Pods run
// at the source and sleep at the destination; changes get through when the collector
// has died and when the cable was cut; and when the source is lost, the copy's
// Pods run.
func TestCopyIsKeptAndTakesOver(t *testing.T) {
	asleep := world.Scope{Namespaces: map[string]string{"shop": "shop"}}
	inStep := func(ctx context.Context) error { return equal(ctx, asleep) }
	noPods := func(t *testing.T) {
		t.Helper()
		if pods := kubectl(t, dr, "get", "pods", "--namespace=shop", "--output=name"); pods != "" {
			t.Fatalf("Pods run in dr, where all is to sleep:\n%s", pods)
		}
	}
	apply(t, prod, manifest(t, "shop.yaml", nil))
	t.Cleanup(func() { remove(t, prod, "namespace/shop") })
	rollout(t, prod, "shop", "deployment/web")
	rollout(t, prod, "shop", "statefulset/db")
	t.Log("the shop runs in prod")

	install(t)
	t.Log("the product is installed")
	apply(t, dr, manifest(t, "replication.yaml", nil))
	t.Cleanup(func() { remove(t, dr, "replication/shop", "namespace/shop") })
	eventually(t, "the copy is equal", inStep)
	noPods(t)

	kubectl(t, prod, "scale", "--namespace=shop", "deployment/web", "--replicas=3")
	kubectl(t, prod, "create", "configmap", "--namespace=shop", "news", "--from-literal=a=b")
	kubectl(t, prod, "delete", "--namespace=shop", "cronjob/report")
	rollout(t, prod, "shop", "deployment/web")
	eventually(t, "a change, a new object and a deletion have followed", inStep)
	noPods(t)

	if err := prod.Kill(t.Context(), "dr-syncer", "app=dr-syncer-collector"); err != nil {
		t.Fatal(err)
	}
	kubectl(t, prod, "patch", "configmap", "--namespace=shop", "settings", "--patch={\"data\":{\"currency\":\"USD\"}}")
	kubectl(t, prod, "delete", "configmap", "--namespace=shop", "news")
	eventually(t, "what happened while there was no collector has followed", inStep)
	if restarts := kubectl(t, prod, "get", "pods", "--namespace=dr-syncer", "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}"); restarts == "0" || restarts == "" {
		t.Fatal("the collector has not been started again")
	}

	if err := cable.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubectl(t, prod, "patch", "configmap", "--namespace=shop", "settings", "--patch={\"data\":{\"currency\":\"JPY\"}}")
	kubectl(t, prod, "create", "configmap", "--namespace=shop", "island", "--from-literal=a=b")
	kubectl(t, prod, "delete", "--namespace=shop", "service/web")
	eventually(t, "dr says that prod is not heard of", func(context.Context) error {
		out, err := dr.Kubectl("get", "replication/shop", "--output=jsonpath={.status.conditions[?(@.type==\"SourceAvailable\")].status}")
		if err == nil && out != "False" {
			err = fmt.Errorf("SourceAvailable is %q", out)
		}
		return err
	})
	if currency := kubectl(t, dr, "get", "configmap", "--namespace=shop", "settings", "--output=jsonpath={.data.currency}"); currency != "USD" {
		t.Fatalf("the cable is cut, and dr has what happened since: %q", currency)
	}
	if err := cable.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what happened while the cable was cut has followed", inStep)
	noPods(t)

	if err := cable.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cable.Heal(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Log("the cable is cut for good")
	kubectl(t, dr, "patch", "replication/shop", "--type=merge", "--patch={\"spec\":{\"standby\":{\"enabled\":false}}}")
	eventually(t, "dr has woken up", func(context.Context) error {
		var errs []error
		for object, want := range map[string]string{"deployment/web": "3", "statefulset/db": "1"} {
			out, err := dr.Kubectl("get", "--namespace=shop", object, "--output=jsonpath={.spec.replicas}")
			if err == nil && out != want {
				err = fmt.Errorf("%s is to have %q replicas, not %s", object, out, want)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	rollout(t, dr, "shop", "deployment/web")
	rollout(t, dr, "shop", "statefulset/db")
	if claim := kubectl(t, dr, "get", "persistentvolumeclaim", "--namespace=shop", "data-db-0", "--output=jsonpath={.status.phase}"); strings.TrimSpace(claim) != "Bound" {
		t.Fatalf("the claim of the database is %q in dr", claim)
	}
	t.Log("the shop runs in dr")
}
