package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/test/world"
)

const (
	memoryObjects = 50_000
	memoryBody    = 2 << 10
)

// benchMemory measures what each of 50,000 objects of 2 KiB adds to the
// collector's resident memory, beside a plain informer over the same objects.
func benchMemory(ctx context.Context, dir string) ([]Figure, error) {
	w, err := world.New(ctx, world.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	if err := settled(ctx, w, 0); err != nil {
		return nil, err
	}
	empty, err := w.Collector.ResidentBytes()
	if err != nil {
		return nil, err
	}
	informer, plainEmpty, err := startInformer(ctx, dir, "empty", w.Prod.Kubeconfig(), 0)
	if err != nil {
		return nil, err
	}
	informer.Kill()
	if err := w.Collector.Stop(time.Minute); err != nil {
		return nil, err
	}

	progress("creating %d objects", memoryObjects)
	client := w.Prod.Client()
	if _, _, err := client.Apply(ctx, world.Namespaces, "", "mem", world.Namespace("mem").Body); err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range memoryObjects {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			o := world.ConfigMap(r, "mem", fmt.Sprintf("object-%d", i), memoryBody, 0)
			_, _, err := client.Apply(ctx, o.Kind, o.Namespace, o.Name, o.Body)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}

	progress("starting the collector over them")
	if err := w.Collector.Start(ctx); err != nil {
		return nil, err
	}
	if err := settled(ctx, w, memoryObjects); err != nil {
		return nil, err
	}
	full, err := w.Collector.ResidentBytes()
	if err != nil {
		return nil, err
	}
	informer, plainFull, err := startInformer(ctx, dir, "full", w.Prod.Kubeconfig(), memoryObjects)
	if err != nil {
		return nil, err
	}
	informer.Kill()
	perObject := float64(full-empty) / memoryObjects
	plain := float64(plainFull-plainEmpty) / memoryObjects
	return []Figure{atMost("collector-memory-per-object", perObject, 2<<10, "B",
		fmt.Sprintf("plain informer: %.0f B per object (ratio %.2f); resident %d MiB empty, %d MiB full", plain, perObject/plain, empty>>20, full>>20))}, nil
}

// settled waits until the collector has published everything, then until its
// memory no longer falls.
func settled(ctx context.Context, w *world.World, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := poll(ctx, func() bool {
		m := metrics(ctx, w.CollectorURL)
		return m != nil && m["drsyncer_outbox_objects"] == 0 && m["drsyncer_collect_objects"] >= float64(want)
	}); err != nil {
		return fmt.Errorf("wait for the collector to have published %d objects: %w", want, err)
	}
	last, err := w.Collector.ResidentBytes()
	if err != nil {
		return err
	}
	for calm := 0; calm < 5; {
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		now, err := w.Collector.ResidentBytes()
		if err != nil {
			return err
		}
		calm++
		if now < last-1<<20 {
			calm = 0
		}
		last = now
	}
	return nil
}

// startInformer runs this program again as a plain informer and returns its
// resident bytes once it holds want objects.
func startInformer(ctx context.Context, dir, name, kubeconfig string, want int) (*world.Process, int64, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	p := &world.Process{Name: "informer-" + name, Path: self, Args: []string{"-yardstick-informer", kubeconfig}, Log: filepath.Join(dir, "informer-"+name+".log")}
	if err := p.Launch(); err != nil {
		return nil, 0, err
	}
	if err := poll(ctx, func() bool { return strings.Contains(p.Tail(5), "synced") }); err != nil {
		return nil, 0, fmt.Errorf("wait for the plain informer over %d objects: %w", want, err)
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return nil, 0, err
	}
	bytes, err := p.ResidentBytes()
	return p, bytes, err
}

// plainInformer is the yardstick: a dynamic informer as most tools use it.
func plainInformer(ctx context.Context, kubeconfig string) error {
	client, err := kube.Connect(kube.Settings{Kubeconfig: kubeconfig})
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(client.REST())
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dyn, 0, metav1.NamespaceAll, nil)
	informer := factory.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	fmt.Println("synced", len(informer.GetStore().ListKeys()))
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// metrics reads a side port's /metrics: the sum over labels per name. An
// unreachable port has none.
func metrics(ctx context.Context, url string) map[string]float64 {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return nil
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	out := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line, "{")
		name, _, _ = strings.Cut(name, " ")
		var v float64
		if i := strings.LastIndexByte(strings.TrimSpace(line), ' '); i > 0 {
			if _, err := fmt.Sscan(line[i+1:], &v); err == nil {
				out[name] += v
			}
		}
	}
	return out
}

func poll(ctx context.Context, done func() bool) error {
	for !done() {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
