package pipeline_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

func ExampleRef_Subject() {
	fmt.Println(pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}.Subject())
	fmt.Println(pipeline.Ref{Site: "prod", Resource: "nodes", Name: "node1.example.com"}.Subject())
	// Output:
	// drs.v1.prod.obj.apps.deployments.shop.web
	// drs.v1.prod.obj._.nodes._.node1=2Eexample=2Ecom
}

func ExampleEncode() {
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap"}`)
	m, err := pipeline.Encode(pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: "settings"},
		Op:  pipeline.OpPut, UID: "0b8a3f0e", Version: "4711", APIVersion: "v1", Kind: "ConfigMap",
		Observed: time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC), Digest: pipeline.DigestOf(body), Body: body,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Subject)
	fmt.Println(m.Header[pipeline.HeaderType][0], m.Header[pipeline.HeaderSubject][0], m.Header[pipeline.HeaderID][0])
	// Output:
	// drs.v1.prod.obj._.configmaps.shop.settings
	// io.dr-syncer.put configmaps/shop/settings 0b8a3f0e/4711/put
}

// A pump takes what a log delivers to a sink, until the context ends.
func ExamplePump() {
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
