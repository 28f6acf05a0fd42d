package pipeline_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// BenchmarkPump measures what the pump itself costs per record: the sink does
// nothing. The pump must not be what limits replication.
func BenchmarkPump(b *testing.B) {
	cases := map[string]struct {
		objects int
		held    int
	}{
		"each of its own":    {objects: 1 << 30, held: 5000},
		"a thousand objects": {objects: 1000, held: 5000},
		"one object":         {objects: 1, held: 5000},
		"100,000 lanes":      {objects: 1 << 30, held: 100_000},
	}
	for name, tc := range cases {
		b.Run(name, func(b *testing.B) {
			cfg := pipeline.DefaultPumpConfig()
			cfg.Owner, cfg.MaxPending, cfg.MaxPendingBytes = owner, tc.held, 1<<40
			gate := make(chan struct{})
			sink := pipeline.SinkFunc(func(context.Context, pipeline.Record) (pipeline.Result, error) {
				<-gate
				return pipeline.ResultUnchanged, nil
			})
			p := pipeline.NewPump(cfg, sink, &pipelinetest.Parker{}, slog.New(slog.DiscardHandler))
			event := pipelinetest.Put(object("a"), 1)
			fill := 0
			if tc.held > 5000 {
				fill = tc.held - 100 // held back until the clock runs
			}
			records := make([]pipeline.Delivery, b.N+fill)
			for i := range records {
				e := event
				e.Ref.Name = fmt.Sprintf("object-%d", i%tc.objects)
				records[i].Record = pipeline.Record{Event: e, Position: at(uint64(i) + 1)}
			}
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() {
				if err := p.Run(ctx); err != nil {
					b.Error(err)
				}
			})
			submit := func(d pipeline.Delivery) {
				if err := p.Submit(ctx, d); err != nil {
					b.Fatal(err)
				}
			}
			for _, d := range records[:fill] {
				submit(d)
			}
			b.ReportAllocs()
			b.ResetTimer()
			close(gate)
			for _, d := range records[fill:] {
				submit(d)
			}
			if err := p.Settle(ctx); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N+fill)/b.Elapsed().Seconds(), "records/s")
			cancel()
			running.Wait()
		})
	}
}

func BenchmarkWire(b *testing.B) {
	for name, size := range map[string]int{"2 KiB": 2 << 10, "100 KiB": 100 << 10} {
		body := make([]byte, size)
		for i := range body {
			body[i] = "dr-syncer "[i%10] + byte(i/1000)%7
		}
		event := pipelinetest.PutBody(web, 1, body)
		m, err := pipeline.Encode(event)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("encode "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pipeline.Encode(event); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pipeline.Decode(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
