package traces

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
	"github.com/dr-syncer/dr-syncer/test/world"
)

func TestMain(m *testing.M) {
	// A stream of the server that is about to source from another waits up to 30 s
	// for the answer, after the server has shut down too.
	kubetest.Main(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}

// TestEveryChangeIsOneTrace makes 1,000 changes, each to an object that is at
// rest, and wants 1,000 traces, each with every step.
func TestEveryChangeIsOneTrace(t *testing.T) {
	cluster := kubetest.Shared(t)
	client := cluster.Client()
	spans := telemetrytest.Spans(t)
	run(t, cluster)
	put := func(o world.Object) error {
		_, _, err := client.Apply(t.Context(), o.Kind, o.Namespace, o.Name, o.Body)
		return err
	}
	if err := put(world.Namespace("traced")); err != nil {
		t.Fatal(err)
	}
	object := func(i, revision int) world.Object {
		return world.ConfigMap(rand.New(rand.NewPCG(uint64(i), 1)), "traced", fmt.Sprintf("object-%d", i), 200, revision)
	}
	all := func(n int, change func(i int) error) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(8)
		for i := range n {
			g.Go(func() error { return change(i) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]int{}
	step := func(op pipeline.Op, n int) {
		t.Helper()
		want[op.String()] += n
		deadline := time.Now().Add(time.Minute)
		for {
			got, incomplete := complete(spans.Ended())
			if got[op.String()] >= want[op.String()] {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d complete traces of %s, want %d; incomplete: %v", got[op.String()], op, want[op.String()], incomplete)
			}
			wait(t, 50*time.Millisecond)
		}
	}
	all(500, func(i int) error { return put(object(i, 0)) })
	step(pipeline.OpPut, 500)
	all(300, func(i int) error { return put(object(i, 1)) })
	step(pipeline.OpPut, 300)
	all(200, func(i int) error {
		o := object(i, 0)
		return client.Delete(t.Context(), o.Kind, o.Namespace, o.Name, "")
	})
	step(pipeline.OpDelete, 200)
	got, incomplete := complete(spans.Ended())
	if got["put"] != 800 || got["delete"] != 200 || len(incomplete) > 0 {
		t.Errorf("complete traces: %v, want 800 puts and 200 deletes; incomplete: %v", got, incomplete)
	}
}

// complete counts, by operation, the traces of the test's ConfigMaps that have
// every step, and says what the others lack.
func complete(spans []telemetrytest.Span) (got map[string]int, incomplete []string) {
	type trace struct {
		name  string
		steps map[string]bool
		op    string
	}
	traces := map[string]*trace{}
	for _, s := range spans {
		tr := traces[s.Trace]
		if tr == nil {
			tr = &trace{steps: map[string]bool{}}
			traces[s.Trace] = tr
		}
		if !s.Failed {
			tr.steps[s.Name] = true
		}
		if s.Name == telemetry.SpanCollect && s.Attrs[telemetry.KeyKind] == "configmaps" && s.Attrs[telemetry.KeyNamespace] == "traced" {
			tr.name = s.Attrs[telemetry.KeyName]
		}
		if s.Name == telemetry.SpanApply {
			tr.op = "delete"
		}
	}
	got = map[string]int{}
	for _, tr := range traces {
		if !strings.HasPrefix(tr.name, "object-") {
			continue
		}
		if tr.steps[telemetry.SpanTransform] {
			tr.op = "put"
		}
		lacks := ""
		for _, step := range []string{telemetry.SpanCollect, telemetry.SpanPublish, telemetry.SpanConsume, telemetry.SpanApply} {
			if !tr.steps[step] {
				lacks += " " + step
			}
		}
		if lacks != "" {
			incomplete = append(incomplete, tr.name+":"+lacks)
			continue
		}
		got[tr.op]++
	}
	return got, incomplete
}

// run runs both sides of the product over one cluster, with an embedded log
// between them, until the test ends.
func run(t *testing.T, cluster *kubetest.Cluster) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	conn := connect(t)
	client := cluster.Client()
	collector := collectorOf(t, client, conn, log)
	inventory := apply.NewInventory(client, log)
	applier, err := apply.New(apply.Settings{
		Namespace: "default", Name: "traced", Client: client, Inventory: inventory, Log: log,
		Spec: v1alpha1.ReplicationSpec{
			Source: v1alpha1.Source{Site: world.Site}, Kinds: []string{"*"}, Namespaces: &v1alpha1.NamespaceSelector{Names: []string{"traced"}},
			NamespaceMapping: &v1alpha1.NamespaceMapping{Prefix: "copy-"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := conn.DeadLetters(t.Context(), "traced", natslog.DefaultDeadLetterOptions())
	if err != nil {
		t.Fatal(err)
	}
	pump := pipeline.DefaultPumpConfig()
	pump.Owner = "default/traced"
	replication, err := replay.Continuous(replay.Settings{
		History: conn.History(world.Site), DeadLetters: dead, Sink: applier, Waves: apply.Wave, Pump: pump, Consumer: "traced", Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	together(t, collector.Run, inventory.Run, replication.Run)
}

// connect opens an embedded log of the test's own.
func connect(t *testing.T) *natslog.Conn {
	t.Helper()
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.MinFree = t.TempDir(), 1
	server, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func collectorOf(t *testing.T, client *kube.Client, conn *natslog.Conn, log *slog.Logger) *collect.Collector {
	t.Helper()
	collector, err := collect.New(collect.Settings{
		Site: world.Site, Source: client, History: conn.History(world.Site), Config: collect.Default(), Log: log,
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) {
			return conn.Writer(ctx, world.Site, natslog.DefaultStreamOptions())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return collector
}

// together runs parts of the product until the test ends.
func together(t *testing.T, parts ...func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, part := range parts {
		wg.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("a part ended: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}
