//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/dr-syncer/dr-syncer/test/node"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// limit is how long anything may take on a busy machine.
const limit = 3 * time.Minute

func apply(t *testing.T, c *node.Cluster, yaml string) {
	t.Helper()
	if err := c.Apply(yaml); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

// kubectl runs kubectl and returns what it prints.
func kubectl(t *testing.T, c *node.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", c.Name, err, out)
	}
	return out
}

// rollout waits until all Pods of a workload are there and ready.
func rollout(t *testing.T, c *node.Cluster, namespace, workload string) {
	t.Helper()
	if out, err := c.Kubectl("rollout", "status", "--namespace", namespace, workload, "--timeout="+limit.String()); err != nil {
		tell(t, c, "--all-containers", workload)
		pods, _ := c.Kubectl("describe", "pods", "--namespace", namespace)
		t.Fatalf("%s: %v\n%s\n%s", c.Name, err, out, pods)
	}
}

// remove deletes objects and waits until they are gone, also when the test has failed.
func remove(t *testing.T, c *node.Cluster, objects ...string) {
	t.Helper()
	started := time.Now()
	defer func() {
		t.Logf("removed %s from %s (after %.1fs)", strings.Join(objects, ", "), c.Name, time.Since(started).Seconds())
	}()
	if out, err := c.Kubectl(append([]string{"delete", "--ignore-not-found", "--timeout=" + limit.String()}, objects...)...); err != nil {
		t.Errorf("%s: %v\n%s", c.Name, err, out)
	}
}

// tell shows the end of the log of a workload of the product, if the test has failed.
func tell(t *testing.T, c *node.Cluster, workload ...string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	out, err := c.Kubectl(append([]string{"logs", "--namespace", "dr-syncer", "--tail=60"}, workload...)...)
	t.Logf("log of %s in %s (%v):\n%s", strings.Join(workload, " "), c.Name, err, out)
}

// eventually polls until check has nothing to object to.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	started := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			t.Logf("%s (after %.1fs)", what, time.Since(started).Seconds())
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not so: %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// equal says what the namespaces differ in.
func equal(ctx context.Context, scope world.Scope) error {
	source, err := clientcmd.BuildConfigFromFlags("", prod.Kubeconfig())
	if err != nil {
		return err
	}
	destination, err := clientcmd.BuildConfigFromFlags("", dr.Kubeconfig())
	if err != nil {
		return err
	}
	c, err := world.Compare(ctx, source, destination, scope)
	if err != nil {
		return err
	}
	if !c.OK() || c.Equal == 0 {
		return fmt.Errorf("%s", c)
	}
	return nil
}
