package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// socket is containerd's, in the machine's own /run.
const socket = "/run/containerd/containerd.sock"

// containerdConfig is containerd's configuration for a network of Pods in the directory %s.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "` + socket + `"
[plugins."io.containerd.cri.v1.runtime"]
# Or runc dies where the capability to set any score is missing.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "` + pauseImage + `"
`

// network has every packet of a Pod pass the machine's routing, also to a neighbor,
// and so the rules of kube-proxy. (A bridge would need a kernel module for that.)
const network = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// etc is where the machine's configuration is.
func (c *Cluster) etc(name string) string { return filepath.Join(c.machine.dir, "etc", name) }

func (c *Cluster) writeEtc(files map[string]string) error {
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(c.etc(name)), 0o700); err != nil {
			return fmt.Errorf("configure the node: %w", err)
		}
		if err := os.WriteFile(c.etc(name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configure the node: %w", err)
		}
	}
	return nil
}

func (c *Cluster) startContainerd(ctx context.Context) error {
	if err := c.writeEtc(map[string]string{
		"containerd.toml":   fmt.Sprintf(containerdConfig, c.etc("cni")),
		"cni/pods.conflist": fmt.Sprintf(network, c.machine.pods),
	}); err != nil {
		return err
	}
	if err := c.launch("containerd", filepath.Join(c.lab.cfg.Tools, "node", "containerd"), "--config", c.etc("containerd.toml")); err != nil {
		return err
	}
	return c.wait(ctx, "containerd answers", func(ctx context.Context) error {
		_, err := c.ctr(ctx, "version")
		return err
	})
}

// ctr runs containerd's client in the namespace of Kubernetes.
func (c *Cluster) ctr(ctx context.Context, args ...string) (string, error) {
	return c.machine.run(ctx, append([]string{filepath.Join(c.lab.cfg.Tools, "node", "ctr"), "--address", socket, "--namespace", "k8s.io"}, args...)...)
}

// Load makes images known to the node. An image loaded before is replaced for Pods that start later.
func (c *Cluster) Load(ctx context.Context, images ...Image) error {
	for _, image := range images {
		path := filepath.Join(c.machine.dir, "image.tar")
		if err := image.write(path); err != nil {
			return err
		}
		if _, err := c.ctr(ctx, "images", "import", "--local", path); err != nil {
			return fmt.Errorf("load image %q: %w", image.Name, err)
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("load image %q: %w", image.Name, err)
		}
	}
	return nil
}

// Kill ends all containers of the Pods of that namespace and labels as a crash does. The
// kubelet will start them again, if the Pods say so.
func (c *Cluster) Kill(ctx context.Context, namespace, selector string) error {
	out, err := c.Kubectl("get", "pods", "--namespace="+namespace, "--selector="+selector, "--output=jsonpath={.items[*].status.containerStatuses[*].containerID}")
	if err != nil {
		return err
	}
	ids := strings.Fields(out)
	if len(ids) == 0 {
		return fmt.Errorf("kill Pods %q in %q: no container runs", selector, namespace)
	}
	for _, id := range ids {
		if _, err := c.ctr(ctx, "tasks", "kill", "--signal=SIGKILL", strings.TrimPrefix(id, "containerd://")); err != nil {
			return fmt.Errorf("kill Pods %q in %q: %w", selector, namespace, err)
		}
	}
	return nil
}
