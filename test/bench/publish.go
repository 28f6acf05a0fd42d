package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/test/world"
)

const (
	publishEvents = 40_000
	publishBatch  = 500
	publishRounds = 3
)

// benchPublish measures the collector's whole publish path, from objects as a
// watch hands them over (with managed fields and all) until they are durable,
// beside bare atomic batches of the resulting messages on the same server.
func benchPublish(ctx context.Context, dir string) (_ []Figure, err error) {
	server, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	objects := watched(publishEvents)
	var product, bare []float64
	var msgs []*nats.Msg
	for round := range publishRounds {
		rate, err := publishProduct(ctx, conn, fmt.Sprintf("site-%d", round), objects)
		if err != nil {
			return nil, err
		}
		product = append(product, rate)
		if msgs == nil {
			if msgs, err = messages(ctx, conn, "site-0"); err != nil {
				return nil, err
			}
		}
		rate, err = publishBare(ctx, server.URL(), fmt.Sprintf("BARE_%d", round), msgs)
		if err != nil {
			return nil, err
		}
		bare = append(bare, rate)
		progress("round %d: product %.0f/s, bare batches %.0f/s", round+1, product[round], bare[round])
	}
	p, b := median(product), median(bare)
	return []Figure{atLeast("publish-path-ratio", p/b, 0.7, "ratio", fmt.Sprintf("bare atomic batches of %d, synced always: %.0f events/s; product %.0f events/s", publishBatch, b, p))}, nil
}

// watched makes ConfigMaps of 2 KiB as an API server sends them.
func watched(n int) []kube.Object {
	r := rand.New(rand.NewPCG(3, 3))
	out := make([]kube.Object, n)
	for i := range out {
		name, uid, version := fmt.Sprintf("object-%d", i), fmt.Sprintf("00000000-0000-4000-8000-%012d", i), fmt.Sprint(1000+i)
		data := gjson.GetBytes(world.ConfigMap(r, "publish", name, 1400, i).Body, "data").Raw
		raw := fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"namespace":"publish","uid":%q,"resourceVersion":%q,"creationTimestamp":"2026-01-01T00:00:00Z",`+
			`"labels":{"app":%q},"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1",`+
			`"fieldsV1":{"f:data":{"f:payload":{},"f:revision":{}},"f:metadata":{"f:labels":{"f:app":{}}}}}]},"data":%s}`, name, uid, version, name, data)
		out[i] = kube.Object{UID: uid, Version: version, Namespace: "publish", Name: name, APIVersion: "v1", Kind: "ConfigMap", Raw: raw}
	}
	return out
}

// publishProduct runs a collector over the objects and returns events per second.
func publishProduct(ctx context.Context, conn *natslog.Conn, site string, objects []kube.Object) (float64, error) {
	log := slog.New(slog.DiscardHandler)
	src := &source{objects: objects, begun: make(chan time.Time, 1)}
	history := conn.History(site)
	c, err := collect.New(collect.Settings{
		Site: site, Source: src, History: history, Config: collect.Default(), Log: log,
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) {
			return conn.Writer(ctx, site, natslog.DefaultStreamOptions())
		},
	})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	failed := make(chan error, 1)
	wg.Go(func() { failed <- c.Run(ctx) })
	var begun time.Time
	select {
	case begun = <-src.begun:
	case err := <-failed:
		return 0, fmt.Errorf("run the collector: %w", err)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		st, err := history.State(ctx)
		if err != nil && !errors.Is(err, pipeline.ErrNoHistory) {
			return 0, err
		}
		if st.Last.Seq >= uint64(len(objects)) {
			return float64(len(objects)) / time.Since(begun).Seconds(), nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// source is a cluster that shows its ConfigMaps as fast as they are taken.
type source struct {
	objects []kube.Object
	begun   chan time.Time
}

func (s *source) Kinds(context.Context) ([]kube.Kind, error) {
	k := world.ConfigMaps
	k.Verbs = []string{"get", "list", "watch"}
	return []kube.Kind{k}, nil
}

func (s *source) Watch(ctx context.Context, _ kube.Kind, _ kube.WatchOptions, h kube.Handler) {
	select {
	case s.begun <- time.Now():
	default:
	}
	present := make([]kube.Object, 0, len(s.objects))
	for _, o := range s.objects {
		if ctx.Err() != nil {
			return
		}
		h.Observe(o)
		o.Raw = nil
		present = append(present, o)
	}
	version := fmt.Sprint(10_000_000)
	h.Replace(present, version)
	h.Progress(version)
	<-ctx.Done()
}

func (s *source) Get(_ context.Context, _ kube.Kind, _, name string) (kube.Object, error) {
	for _, o := range s.objects {
		if o.Name == name {
			return o, nil
		}
	}
	return kube.Object{}, fmt.Errorf("no object %q", name)
}

func (s *source) ClusterUID(context.Context) (string, error) { return "bench", nil }

// messages reads the product's messages back, as bare ones.
func messages(ctx context.Context, conn *natslog.Conn, site string) ([]*nats.Msg, error) {
	var out []*nats.Msg
	for rec, err := range conn.History(site).Current(ctx, pipeline.Query{Kind: &world.ConfigMaps.GroupResource}) {
		if err != nil {
			return nil, err
		}
		m, err := pipeline.Encode(rec.Event)
		if err != nil {
			return nil, err
		}
		out = append(out, &nats.Msg{Subject: "bare." + m.Subject, Header: nats.Header(m.Header), Data: m.Data})
	}
	return out, nil
}

// publishBare stores the messages in atomic batches and returns messages per second.
func publishBare(ctx context.Context, url, stream string, msgs []*nats.Msg) (float64, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"bare.>"}, AllowAtomicPublish: true, Compression: jetstream.S2Compression, MaxBytes: 1 << 30}); err != nil {
		return 0, err
	}
	begun := time.Now()
	for first := 0; first < len(msgs); first += publishBatch {
		if _, err := jetstreamext.PublishMsgBatch(ctx, js, msgs[first:min(first+publishBatch, len(msgs))]); err != nil {
			return 0, err
		}
	}
	rate := float64(len(msgs)) / time.Since(begun).Seconds()
	return rate, js.DeleteStream(ctx, stream)
}
