package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/test/world"
)

const (
	latencyRate    = 100 // changes per second
	latencyObjects = 500 // so that one object changes every 5 s and nothing is coalesced
	latencyWarmup  = 5 * time.Second
	latencyRun     = 30 * time.Second
)

const replicateAll = `
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: bench, namespace: default}
spec:
  source: {site: prod}
  namespaces: {names: ["%s"]}
`

// benchLatency measures from a write's return at the source to the watch event
// of the copy at the destination, at a steady rate, log synced always. The
// yardstick is a bare copier in the same run: a watch at the source whose every
// event is applied to the destination at once, with no log between.
func benchLatency(ctx context.Context, dir string) ([]Figure, error) {
	w, err := world.New(ctx, world.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	prod, dr := w.Prod.Client(), w.DR.Client()
	for _, ns := range []string{"product", "bare"} {
		if _, _, err := prod.Apply(ctx, world.Namespaces, "", ns, world.Namespace(ns).Body); err != nil {
			return nil, err
		}
	}
	if _, _, err := dr.Apply(ctx, world.Namespaces, "", "bare", world.Namespace("bare").Body); err != nil {
		return nil, err
	}

	progress("bare copier")
	bare, err := func() ([]time.Duration, error) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			prod.Watch(ctx, world.ConfigMaps, kube.WatchOptions{Namespace: "bare"}, copier{ctx, dr})
		})
		return steady(ctx, w, "bare", 10*time.Second)
	}()
	if err != nil {
		return nil, err
	}

	progress("product")
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	if err := w.DR.Apply(fmt.Sprintf(replicateAll, "product")); err != nil {
		return nil, err
	}
	product, err := steady(ctx, w, "product", latencyRun)
	if err != nil {
		return nil, err
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	p50, p99 := percentile(product, 0.5), percentile(product, 0.99)
	b50, b99 := percentile(bare, 0.5), percentile(bare, 0.99)
	return []Figure{
		atMost("latency-p50", ms(p50), 60, "ms", fmt.Sprintf("bare watch-and-apply without a log: %.1f ms (ratio %.2f)", ms(b50), ms(p50)/ms(b50))),
		atMost("latency-p99", ms(p99), 400, "ms", fmt.Sprintf("bare watch-and-apply without a log: %.1f ms (ratio %.2f)", ms(b99), ms(p99)/ms(b99))),
	}, nil
}

// steady changes ConfigMaps of a namespace at the fixed rate and returns how
// long each change took to be visible, without those of the warm-up.
func steady(ctx context.Context, w *world.World, namespace string, length time.Duration) ([]time.Duration, error) {
	arrivals := newArrivals()
	watchCtx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	dr := w.DR.Client()
	wg.Go(func() { dr.Watch(watchCtx, world.ConfigMaps, kube.WatchOptions{Namespace: namespace}, arrivals) })

	prod := w.Prod.Client()
	r := rand.New(rand.NewPCG(7, 7))
	tick := time.NewTicker(time.Second / latencyRate)
	defer tick.Stop()
	total := int((latencyWarmup + length).Seconds() * latencyRate)
	var mu sync.Mutex
	returned := make(map[string]time.Time, total)
	var failed error
	var writers sync.WaitGroup
	for i := range total {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		o := world.ConfigMap(r, namespace, fmt.Sprintf("object-%d", i%latencyObjects), 1500, i)
		writers.Go(func() {
			_, _, err := prod.Apply(ctx, o.Kind, o.Namespace, o.Name, o.Body)
			at := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			returned[fmt.Sprint(i)] = at
		})
	}
	writers.Wait()
	if failed != nil {
		return nil, failed
	}
	waitCtx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	var out []time.Duration
	for i := int(latencyWarmup.Seconds() * latencyRate); i < total; i++ {
		revision := fmt.Sprint(i)
		if err := poll(waitCtx, func() bool { return !arrivals.at(revision).IsZero() }); err != nil {
			return nil, fmt.Errorf("wait for change %d of %d to arrive: %w", i, total, err)
		}
		out = append(out, max(0, arrivals.at(revision).Sub(returned[revision])))
	}
	return out, nil
}

// arrivals notes when each revision was first seen.
type arrivals struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func newArrivals() *arrivals { return &arrivals{seen: make(map[string]time.Time)} }

func (a *arrivals) Observe(o kube.Object) {
	now := time.Now()
	revision := gjson.GetBytes(o.Raw, "data.revision").String()
	if revision == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.seen[revision]; !ok {
		a.seen[revision] = now
	}
}

func (*arrivals) Delete(kube.Object)            {}
func (*arrivals) Replace([]kube.Object, string) {}
func (*arrivals) Progress(string)               {}

func (a *arrivals) at(revision string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[revision]
}

// copier applies what it observes at once, one at a time.
type copier struct {
	ctx context.Context
	to  *kube.Client
}

func (c copier) Observe(o kube.Object) {
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q},"data":%s}`, o.Name, o.Namespace, gjson.GetBytes(o.Raw, "data").Raw)
	if gjson.GetBytes(o.Raw, "data.revision").Exists() {
		_, _, _ = c.to.Apply(c.ctx, world.ConfigMaps, o.Namespace, o.Name, body) // a change that does not arrive fails the run
	}
}

func (copier) Delete(kube.Object)            {}
func (copier) Replace([]kube.Object, string) {}
func (copier) Progress(string)               {}
