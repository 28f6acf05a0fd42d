package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// readyLimit is how long a step may take on a busy machine.
const readyLimit = 3 * time.Minute

// pauseImage is the image of the first container of every Pod.
const pauseImage = "dr-syncer.test/pause:lab"

// Cluster is a control plane with one node. The methods of kubetest.Cluster do
// not fail a test by themselves.
type Cluster struct {
	*kubetest.Cluster

	// Name is the cluster's and its node's.
	Name string

	lab       *Lab
	machine   *machine
	processes []*world.Process
	provider  *provider
}

// Start starts a cluster and waits until its node is ready.
func (l *Lab) Start(ctx context.Context, name string) (*Cluster, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := startMachine(ctx, filepath.Join(l.dir, machineDir+name), filepath.Join(l.cfg.Tools, "node", "pause"), len(l.clusters))
	if err != nil {
		return nil, fmt.Errorf("start cluster %q: %w", name, err)
	}
	c := &Cluster{Name: name, lab: l, machine: m}
	l.clusters = append(l.clusters, c)
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start cluster %q: %w", name, err)
	}
	l.cfg.Log.Info("cluster is ready", "cluster", name)
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.startContainerd(ctx); err != nil {
		return err
	}
	plane, err := kubetest.Launch(ctx, c.lab.kubeConfig(c.machine))
	if err != nil {
		return err
	}
	c.Cluster = plane
	if err := c.Load(ctx, Image{
		Name: pauseImage, Entrypoint: []string{"/pause"},
		Files: []File{{Path: "/pause", From: filepath.Join(c.lab.cfg.Tools, "node", "pause")}},
	}); err != nil {
		return err
	}
	if err := c.startKubernetes(); err != nil {
		return err
	}
	if err := c.wait(ctx, "the node is ready", func(context.Context) error {
		out, err := c.Kubectl("get", "node", c.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("its condition Ready is %q", out)
		}
		return err
	}); err != nil {
		return err
	}
	c.provider, err = startProvider(ctx, c)
	return err
}

// launch starts a program of the node in the machine.
func (c *Cluster) launch(name string, line ...string) error {
	full := append(c.machine.enter(), line...)
	p := &world.Process{
		Name: name, Path: full[0], Args: full[1:], Log: c.logPath(name),
		// The node's own first, and where Debian has what only root uses.
		Env: []string{"PATH=" + strings.Join([]string{filepath.Join(c.lab.cfg.Tools, "node"), os.Getenv("PATH"), "/usr/sbin:/sbin"}, ":")},
	}
	if err := p.Launch(); err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

func (c *Cluster) logPath(name string) string { return filepath.Join(c.machine.dir, name+".log") }

// wait polls until check succeeds. It fails early when a program of the node has ended.
func (c *Cluster) wait(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		for _, p := range c.processes {
			if !p.Alive() {
				return fmt.Errorf("wait until %s: %s has ended: %w\n%s", what, p.Name, err, p.Tail(20))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w\n%s", what, errors.Join(err, c.provider.problem()), c.Tail(10))
		case <-tick.C:
		}
	}
}

// Tail is the ends of the logs of the node's programs, for whoever looks for a fault.
func (c *Cluster) Tail(lines int) string {
	var b strings.Builder
	for _, p := range c.processes {
		fmt.Fprintf(&b, "--- %s of %s\n%s\n", p.Name, c.Name, p.Tail(lines))
	}
	return b.String()
}

// close ends everything of the cluster.
func (c *Cluster) close() error {
	var errs []error
	if c.provider != nil {
		c.provider.stop()
	}
	errs = append(errs, c.machine.stop())
	for _, p := range c.processes {
		p.Kill()
	}
	if c.Cluster != nil {
		errs = append(errs, c.Cluster.Close())
	}
	return errors.Join(errs...)
}
