package apply

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// deployment is a usual body of some 2 KiB.
func deployment(namespace, name string) []byte {
	env := make([]string, 20)
	for i := range env {
		env[i] = fmt.Sprintf(`{"name":"SETTING_%d","value":"some value of a setting %d"}`, i, i)
	}
	return fmt.Appendf(nil, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%q,"namespace":%q,"labels":{"app":"web","tier":"front"},"annotations":{"note":"x"}},`+
		`"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"registry.example.com/web:1.2.3",`+
		`"ports":[{"containerPort":8080,"name":"http","protocol":"TCP"}],"resources":{"limits":{"cpu":"500m","memory":"512Mi"}},"env":[%s]}]}}}}`, name, namespace, strings.Join(env, ","))
}

// record is the put of a Deployment.
func record(namespace string, i int) pipeline.Record {
	name := fmt.Sprint("web-", i)
	return pipeline.Record{
		Event: pipeline.Event{
			Ref: pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: namespace, Name: name},
			Op:  pipeline.OpPut, UID: "u", APIVersion: "apps/v1", Kind: "Deployment", Body: deployment(namespace, name),
		},
		Position: position(uint64(i + 1)),
	}
}

// BenchmarkDecideUnchanged is the whole cost of one unchanged object, beside reading
// it from the log: what a restart pays for each.
func BenchmarkDecideUnchanged(b *testing.B) {
	r := record("shop", 1)
	inv := NewInventory(nil, slog.New(slog.DiscardHandler))
	s := newShelf(kube.Kind{GroupResource: r.Ref.GroupResource(), Version: "v1", Kind: "Deployment", Namespaced: true}, inv)
	s.listed = true
	inv.shelves[r.Ref.GroupResource()] = s
	a, err := New(Settings{
		Namespace: "dr", Name: "all", Inventory: inv, Log: slog.New(slog.DiscardHandler),
		Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	d, err := a.rewriter.desire(r, r.Body, a.place(r.Ref))
	if err != nil {
		b.Fatal(err)
	}
	s.wrote(key{"shop", r.Ref.Name}, kube.Meta{UID: "c", Version: "1", Fields: "f"}, originOf(r), d.digest, a.policy.mark)
	b.SetBytes(int64(len(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if res, err := a.Apply(b.Context(), r); err != nil || res != pipeline.ResultUnchanged {
			b.Fatal(res, err)
		}
	}
}

// BenchmarkRewrite is the making of the body to send.
func BenchmarkRewrite(b *testing.B) {
	r := record("shop", 1)
	w := testRewriter()
	b.SetBytes(int64(len(r.Body)))
	b.ReportAllocs()
	for b.Loop() {
		d, err := w.desire(r, r.Body)
		if err != nil {
			b.Fatal(err)
		}
		d.marked(originOf(r), binding{uid: "c"})
	}
}

// BenchmarkFirstCopy compares an Applier with a bare loop of the same server-side
// applies, with as many workers on the same server, in turns.
func BenchmarkFirstCopy(b *testing.B) {
	const workers, objects = 16, 500
	cluster := kubetest.Shared(b)
	client := cluster.Client()
	inv := NewInventory(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = inv.Run(ctx) })
	defer running.Wait()
	defer cancel()
	a, err := New(Settings{
		Namespace: "dr", Name: "bench", Client: client, Inventory: inv, Log: slog.New(slog.DiscardHandler),
		Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	kind, err := client.Kind(ctx, pipeline.GroupResource{Group: "apps", Resource: "deployments"})
	if err != nil {
		b.Fatal(err)
	}
	each := func(do func(i int) error) time.Duration {
		start := time.Now()
		var wg sync.WaitGroup
		next := make(chan int)
		for range workers {
			wg.Go(func() {
				for i := range next {
					if err := do(i); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := range objects {
			next <- i
		}
		close(next)
		wg.Wait()
		return time.Since(start)
	}
	var bare, ours time.Duration
	for round := range b.N {
		namespace := fmt.Sprintf("bench-%d-%d", b.N, round)
		for _, ns := range []string{namespace, namespace + "-bare"} {
			if err := cluster.Apply("{apiVersion: v1, kind: Namespace, metadata: {name: " + ns + "}}"); err != nil {
				b.Fatal(err)
			}
		}
		bodies := make([][]byte, objects)
		for i := range bodies {
			r := record(namespace+"-bare", i)
			d, err := a.rewriter.desire(r, r.Body, a.place(r.Ref))
			if err != nil {
				b.Fatal(err)
			}
			bodies[i] = d.marked(originOf(r), binding{fresh: true})
		}
		bare += each(func(i int) error {
			r := record(namespace+"-bare", i)
			_, _, err := client.Apply(ctx, kind, r.Ref.Namespace, r.Ref.Name, bodies[i])
			return err
		})
		ours += each(func(i int) error {
			_, err := a.Apply(ctx, record(namespace, i))
			return err
		})
	}
	b.ReportMetric(float64(objects*b.N)/ours.Seconds(), "objects/s")
	b.ReportMetric(float64(objects*b.N)/bare.Seconds(), "bare/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
}

// BenchmarkRestart is a fresh process over copies that are as they should be: listing
// them, proving that nobody has touched them, deciding that nothing is to be done.
func BenchmarkRestart(b *testing.B) {
	const workers, objects = 16, 2000
	cluster := kubetest.Shared(b)
	client := cluster.Client()
	namespace := fmt.Sprint("restart-", b.N)
	if err := cluster.Apply("{apiVersion: v1, kind: Namespace, metadata: {name: " + namespace + "}}"); err != nil {
		b.Fatal(err)
	}
	pass := func(want pipeline.Result) {
		inv := NewInventory(client, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = inv.Run(ctx) })
		defer running.Wait()
		defer cancel()
		a, err := New(Settings{
			Namespace: "dr", Name: "restart", Client: client, Inventory: inv, Log: slog.New(slog.DiscardHandler),
			Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}},
		})
		if err != nil {
			b.Fatal(err)
		}
		var g errgroup.Group
		g.SetLimit(workers)
		for i := range objects {
			g.Go(func() error {
				res, err := a.Apply(ctx, record(namespace, i))
				if err == nil && res != want {
					err = fmt.Errorf("object %d is %s, want %s", i, res, want)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	pass(pipeline.ResultCreated)
	for b.Loop() {
		pass(pipeline.ResultUnchanged)
	}
	b.ReportMetric(float64(objects*b.N)/b.Elapsed().Seconds(), "objects/s")
}
