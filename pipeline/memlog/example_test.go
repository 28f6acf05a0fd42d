package memlog_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

// A pump takes what a log delivers to a sink, until the context ends.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := memlog.New()
	w, err := log.Writer(ctx, "prod")
	if err != nil {
		fmt.Println(err)
		return
	}
	ref := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "settings"}
	if _, err := w.Append(ctx, []pipeline.Event{{
		Ref: ref, Op: pipeline.OpDelete, Evidence: pipeline.EvidenceWatch, UID: "0b8a3f0e", Version: "4711", Observed: time.Now(),
	}}); err != nil {
		fmt.Println(err)
		return
	}

	sink := pipeline.SinkFunc(func(_ context.Context, r pipeline.Record) (pipeline.Result, error) {
		fmt.Println(r.Op, r.Ref)
		return pipeline.ResultDeleted, nil
	})
	cfg := pipeline.DefaultPumpConfig()
	cfg.Owner = "team/shop"
	pump := pipeline.NewPump(cfg, sink, log.DeadLetters("dr"), slog.New(slog.DiscardHandler))
	done := make(chan error)
	go func() { done <- pump.Run(ctx) }()

	sub, err := log.History("prod").Follow(ctx, "example", pipeline.Position{})
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := sub.Next(ctx)
	if err == nil {
		err = pump.Submit(ctx, d)
	}
	if err == nil {
		err = pump.Settle(ctx)
	}
	cancel()
	fmt.Println(err, <-done, sub.Close())
	// Output:
	// delete prod configmaps shop/settings
	// <nil> <nil> <nil>
}
