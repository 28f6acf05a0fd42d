package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/test/world"
)

func TestReadmesReplicationIsAccepted(t *testing.T) {
	root, err := world.Root()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README shows no Replication")
	}
	c := kubetest.Start(t)
	if out, err := c.Kubectl("apply", "--server-side", "-f", filepath.Join(root, "charts", "dr-syncer", "crds")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := c.Kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, text := range map[string]string{"README.md": string(block[1]), "replication.yaml": replication} {
		if err := c.Apply(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCollectorNeedsNoMoreThanTheDocsGrant(t *testing.T) {
	root, err := world.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "rbac.md"))
	if err != nil {
		t.Fatal(err)
	}
	roles := regexp.MustCompile("(?s)## Collector.*?```yaml\n(.*?)```").FindSubmatch(page)
	if roles == nil {
		t.Fatal("docs/rbac.md shows no roles of the collector")
	}
	w, err := world.New(t.Context(), world.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	for _, text := range []string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: dr-syncer}}", string(roles[1]), `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dr-syncer-collector}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dr-syncer-collector}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: collector}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dr-syncer-collector, namespace: dr-syncer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: dr-syncer-collector}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: collector}]
`,
	} {
		if err := w.Prod.Apply(text); err != nil {
			t.Fatal(err)
		}
	}
	w.Collector.Args = append(w.Collector.Args, "--kubeconfig", w.Prod.User("collector"), "--leader-elect=true")
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		resp, err := http.Get(w.CollectorURL + "/metrics")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if !regexp.MustCompile(`(?m)^drsyncer_collect_objects\{.*\} [1-9]`).Match(text) {
			return errors.New("the collector has collected nothing")
		}
		if m := regexp.MustCompile(`(?m)^drsyncer_collect_errors_total.* [1-9].*`).Find(text); m != nil {
			return fmt.Errorf("the collector is refused something: %s", m)
		}
		return nil
	})
	if log := w.Collector.Tail(1000); strings.Contains(log, "forbidden") || strings.Contains(log, "level=WARN") {
		t.Errorf("the collector is not content:\n%s", log)
	}
}
