package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

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
