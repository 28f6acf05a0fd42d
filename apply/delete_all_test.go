package apply

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestNamespaces needs the controller manager: without it no namespace ever goes.
func TestNamespaces(t *testing.T) {
	s := on(t, kubetest.Start(t, kubetest.WithControllers()))
	a := s.applier("ns")
	deletion := Deletion{Namespace: "dr", Name: "ns", Client: s.client, Inventory: s.inventory, Log: slog.New(slog.DiscardHandler)}
	mine := s.namespace()
	s.apply(a, mine, pipeline.ResultCreated)
	s.apply(a, s.configMap("a", "1"), pipeline.ResultCreated)
	s.kubectl("create", "role", "-n", s.ns, "stranger", "--verb=get", "--resource=pods")

	t.Run("kept while a stranger has an object in it", func(*testing.T) {
		s.fail(a, s.gone(mine), pipeline.Foreign, "rbac.authorization.k8s.io/roles "+s.ns+"/stranger")
		got, err := DeleteCopies(t.Context(), deletion)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Deleted{Deleted: 1, Kept: []string{"namespaces " + s.ns}}, got); diff != "" {
			t.Errorf("deleted (-want +got):\n%s", diff)
		}
	})
	s.kubectl("delete", "role", "-n", s.ns, "stranger")

	t.Run("deleted when only derived objects are left", func(*testing.T) {
		eventually(t, "the cluster has put its own objects in", func() bool {
			return strings.Contains(s.kubectl("get", "configmap,serviceaccount", "-n", s.ns, "-o", "name"), "serviceaccount/default")
		})
		s.apply(a, s.gone(mine), pipeline.ResultDeleted)
		eventually(t, "it is gone", func() bool {
			return s.kubectl("get", "namespace", s.ns, "--ignore-not-found", "-o", "name") == ""
		})
	})
	t.Run("made again while it goes", func(*testing.T) {
		again := s.namespace()
		s.apply(a, again, pipeline.ResultCreated)
		s.apply(a, s.configMap("a", "1"), pipeline.ResultCreated)
		s.apply(a, s.gone(again), pipeline.ResultDeleted)
		next := s.namespace()
		eventually(t, "it is there again", func() bool {
			res, err := a.Apply(t.Context(), next)
			return err == nil && res == pipeline.ResultCreated
		})
		s.apply(a, s.configMap("a", "2"), pipeline.ResultCreated)
	})
}

func TestDeleteCopies(t *testing.T) {
	s := newStand(t)
	a, b := s.applier("all"), s.applier("bystander")
	s.apply(b, s.namespace(), pipeline.ResultCreated)
	s.apply(b, s.configMap("theirs", "1"), pipeline.ResultCreated)
	s.apply(a, s.configMap("ours", "1"), pipeline.ResultCreated)
	s.apply(a, s.put("clusterroles", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: NS}}"), pipeline.ResultCreated)
	s.apply(a, s.put("customresourcedefinitions", widgets), pipeline.ResultCreated)
	s.apply(a, s.put("widgets", "{apiVersion: NS.example.com/v1, kind: Widget, metadata: {name: w, namespace: NS}}"), pipeline.ResultCreated)
	s.kubectl("create", "configmap", "-n", s.ns, "foreign", "--from-literal=value=1")

	s.restart() // the run has ended; another process deletes
	got, err := DeleteCopies(t.Context(), Deletion{Namespace: "dr", Name: "all", Client: s.client, Inventory: s.inventory, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Deleted{Deleted: 4}, got); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	if s.value("ours") != "" || s.value("theirs") != "1" || s.value("foreign") != "1" {
		t.Errorf("left are ours %q, theirs %q, foreign %q; want only the last two", s.value("ours"), s.value("theirs"), s.value("foreign"))
	}
	again, err := DeleteCopies(t.Context(), Deletion{Namespace: "dr", Name: "all", Client: s.client, Inventory: s.inventory, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Deleted{}, again); diff != "" {
		t.Errorf("deleted again (-want +got):\n%s", diff)
	}
}
