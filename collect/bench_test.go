package collect

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// swallow is a log that takes everything at once, to see what the collector itself costs.
type swallow struct{ seq uint64 }

func (s *swallow) Append(_ context.Context, events []pipeline.Event) (pipeline.Position, error) {
	s.seq += uint64(len(events))
	return pipeline.Position{Epoch: "e", Seq: s.seq}, nil
}

func (s *swallow) NewEpoch(context.Context) (pipeline.Position, error) {
	return pipeline.Position{Epoch: "f"}, nil
}

// newTerm is a term without a source.
func newTerm(tb testing.TB, writer pipeline.Writer) *term {
	tb.Helper()
	cfg := Default()
	cleaner, err := NewCleaner(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	selector, err := NewSelector(cfg, "")
	if err != nil {
		tb.Fatal(err)
	}
	made := &rules{cfg: cfg, selector: selector, cleaner: cleaner}
	return &term{
		settled: func() {},
		site:    testSite, writer: writer, outbox: newOutbox(testSite, int(cfg.Outbox.MaxBytes), newInventory()),
		log: slog.New(slog.DiscardHandler), rules: func() *rules { return made }, beatNow: make(chan struct{}, 1),
	}
}

// object2K is a ConfigMap of 2 KiB as a watch shows it.
func object2K(i int) kube.Object {
	name, uid := fmt.Sprintf("object-%06d", i), fmt.Sprintf("0f4c8a1e-7b1d-4a7e-9b0a-%012x", i)
	raw := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"bench","uid":%q,"resourceVersion":"%d",`+
		`"creationTimestamp":"2026-01-02T03:04:05Z","managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"v1",`+
		`"time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:value":{}}}}]},"data":{"value":"%01600d"}}`, name, uid, i+1, i)
	return kube.Object{UID: uid, Version: fmt.Sprint(i + 1), Namespace: "bench", Name: name, Raw: []byte(raw)}
}

// BenchmarkCollect is one object's way from the watch until it is durable, the log's own time apart.
func BenchmarkCollect(b *testing.B) {
	t := newTerm(b, &swallow{})
	h := &handler{ctx: b.Context(), kindWatch: &kindWatch{
		term: t, kind: configMaps, rules: t.rules().selector.rulesOf(configMaps), cleaner: t.rules().cleaner.rulesOf(configMaps),
	}}
	objects := make([]kube.Object, 20_000)
	for i := range objects {
		objects[i] = object2K(i)
	}
	ended, stopping := make(chan error, 1), make(chan struct{})
	go func() { ended <- t.publish(b.Context(), stopping) }()
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		o := objects[i%len(objects)]
		if i >= len(objects) {
			o.Name = fmt.Sprintf("object-%d", i) // else it would be known
		}
		h.Observe(o)
	}
	close(stopping)
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

// TestInventoryIsSmall holds the inventory to its budget per object.
func TestInventoryIsSmall(t *testing.T) {
	const objects, budget = 50_000, 250
	before := heap()
	inv := newInventory()
	for i := range objects {
		o := object2K(i)
		inv.put(refOf(o.Name), entry{uid: inv.uidOf(o.UID), version: uint64(i) + 1})
	}
	if each := float64(heap()-before) / objects; each > budget {
		t.Errorf("%.0f bytes per object, want at most %d", each, budget)
	} else {
		t.Logf("%.0f bytes per object", each)
	}
	runtime.KeepAlive(inv)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
