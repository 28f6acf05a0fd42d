package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/test/world"
)

//go:embed app/*.yaml
var app embed.FS

//go:embed replication.yaml
var replication string

// patience is how long anything may take to arrive before the demo calls it missing.
const patience = 30 * time.Second

// stage is everything that runs.
type stage struct {
	world   *world.World
	prod    *writer
	dr      *kube.Client
	inProd  *board
	inDR    *board
	stop    context.CancelFunc
	watches sync.WaitGroup
	missing int
	took    []time.Duration
}

// raise starts the clusters and the products and watches dr.
func raise(ctx context.Context, p *printer, dir string) (_ *stage, err error) {
	p.act("Setting the stage")
	done := p.step("two Kubernetes control planes, prod and dr")
	w, err := world.New(ctx, world.Options{Dir: dir, Controllers: true})
	done(err)
	if err != nil {
		return nil, err
	}
	s := &stage{world: w, inProd: newBoard(), inDR: newBoard(), stop: func() {}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	done = p.step("applier (with the log inside) and collector")
	err = w.Start(ctx)
	done(err)
	if err != nil {
		return nil, err
	}
	done = p.step("an application in prod: " + "the shop, its data, its rules")
	err = s.applyApp(ctx)
	done(err)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// close ends everything that raise started.
func (s *stage) close() {
	s.stop()
	s.watches.Wait()
	s.world.Close()
}

// applyApp applies the application to prod as a pipeline would, with kubectl, and
// watches both clusters from then on.
func (s *stage) applyApp(ctx context.Context) error {
	files, err := app.ReadDir("app")
	if err != nil {
		return fmt.Errorf("read the application: %w", err)
	}
	for _, f := range files {
		text, err := app.ReadFile("app/" + f.Name())
		if err != nil {
			return fmt.Errorf("read the application: %w", err)
		}
		if err := s.world.Prod.Apply(string(text)); err != nil {
			return fmt.Errorf("apply %s to prod: %w", f.Name(), err)
		}
		if strings.Contains(string(text), "CustomResourceDefinition") {
			if out, err := s.world.Prod.Kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all"); err != nil {
				return fmt.Errorf("wait for the custom resources in prod: %w\n%s", err, out)
			}
		}
	}
	if s.prod, err = newWriter(s.world.Prod.Kubeconfig()); err != nil {
		return err
	}
	if s.dr, err = kube.Connect(kube.Settings{Kubeconfig: s.world.DR.Kubeconfig(), UserAgent: "demo"}); err != nil {
		return err
	}
	prod, err := kube.Connect(kube.Settings{Kubeconfig: s.world.Prod.Kubeconfig(), UserAgent: "demo"})
	if err != nil {
		return err
	}
	ctx, s.stop = context.WithCancel(ctx)
	if err := s.watchNew(ctx, prod, s.inProd, func(kube.Kind) bool { return true }); err != nil {
		return err
	}
	return s.watchDR(ctx)
}

// unwatched are kinds that say nothing about replication.
var unwatched = []string{"Event", "Lease", "EndpointSlice", "Endpoints", "Pod", "ReplicaSet", "ControllerRevision", "Node", "CSINode", "CSIStorageCapacity"}

// watchNew watches those kinds of a cluster that want says yes to.
func (s *stage) watchNew(ctx context.Context, c *kube.Client, b *board, want func(kube.Kind) bool) error {
	kinds, err := c.Kinds(ctx)
	var partial *kube.PartialError
	if err != nil && !errors.As(err, &partial) {
		return err
	}
	for _, k := range kinds {
		if !slices.Contains(unwatched, k.Kind) && want(k) {
			s.watches.Go(func() { b.watch(ctx, c, k) })
		}
	}
	return nil
}

// watchDR watches every kind that dr serves now and those that arrive later.
func (s *stage) watchDR(ctx context.Context) error {
	watched := map[string]bool{} // "group/resource"
	fresh := func(k kube.Kind) bool {
		name := k.GroupResource.String()
		if watched[name] {
			return false
		}
		watched[name] = true
		return true
	}
	defined := make(chan string, 16)
	s.inDR.each("CustomResourceDefinition", func(body []byte) {
		if gjson.GetBytes(body, `status.conditions.#(type=="Established").status`).String() == "True" {
			select {
			case defined <- gjson.GetBytes(body, "spec.group").String() + "/" + gjson.GetBytes(body, "spec.names.plural").String():
			case <-ctx.Done():
			}
		}
	})
	if err := s.watchNew(ctx, s.dr, s.inDR, fresh); err != nil {
		return err
	}
	s.watches.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case name := <-defined:
				// Discovery shows a kind a moment after its definition is established.
				err := retry(ctx, patience, func() error {
					if err := s.watchNew(ctx, s.dr, s.inDR, fresh); err != nil {
						return err
					}
					if !watched[name] {
						return fmt.Errorf("dr does not serve %s", name)
					}
					return nil
				})
				if err != nil {
					s.inDR.failed(err)
				}
			}
		}
	})
	return nil
}

// logs shows what the products said last.
func (s *stage) logs(p *printer) {
	for _, product := range []*world.Process{s.world.Collector, s.world.Applier} {
		p.act("The last words of the " + product.Name)
		p.line("%s", product.Tail(8))
	}
}

// invite tells how to play with what is left running.
func (s *stage) invite(p *printer) {
	p.act("Everything is still running. In another terminal:")
	root, err := world.Root()
	if err != nil {
		root = "."
	}
	kubectl := filepath.Join(root, ".cache", "bin", "kube") + " kubectl --kubeconfig "
	p.line("  alias prod='%s%s'", kubectl, s.world.Prod.Kubeconfig())
	p.line("  alias dr='%s%s'", kubectl, s.world.DR.Kubeconfig())
	p.line("")
	p.line("  dr get replications                                        # how it goes")
	p.line("  prod -n shop scale deployment web --replicas=9             # change something ...")
	p.line("  dr -n shop get deployment web                              # ... and it is here")
	p.line("  prod -n shop create configmap hello --from-literal=who=you")
	p.line("  dr -n shop get configmap hello -o yaml                     # see where it came from")
	p.line("  prod delete namespace shop-data; dr get namespaces --watch")
	p.line("  curl -s %s/metrics | grep drsyncer", s.world.ApplierURL)
	p.line("")
	p.line("  kubeconfigs  %s", s.world.Prod.Kubeconfig())
	p.line("               %s", s.world.DR.Kubeconfig())
	p.line("  logs         %s, %s", s.world.Collector.Log, s.world.Applier.Log)
	p.line("\n%s", p.bold("Ctrl-C ends it all."))
}
