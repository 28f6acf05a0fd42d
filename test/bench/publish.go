package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
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
	publishRounds = 5
)

// publishLimits let the streams of a whole run fit on a small disk.
var publishLimits = natslog.StreamOptions{
	MaxBytes: 512 << 20, MaxAge: time.Hour, CurrentMaxBytes: 512 << 20, ClaimsMaxBytes: 64 << 20, Replicas: 1,
}

// benchPublish measures the collector's whole publish path, from objects as a
// watch hands them over (with managed fields and all) until they are durable,
// beside bare atomic batches of the resulting messages on the same server. The
// batches are as large as the collector's. The figure is held against batches
// into a history alone, the best that the log can do. The collector's history is
// sourced into a current state at the same time, on the same cores and disk; what
// bare batches are worth with that beside them is told too. All three are
// measured in every round, from quiet to quiet.
func benchPublish(ctx context.Context, dir string) (_ []Figure, err error) {
	server, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	objects := watched(publishEvents)
	var msgs []*nats.Msg
	subjects := []struct {
		name string
		run  func() (cost, error)
	}{
		{"product", func() (cost, error) { return publishProduct(ctx, conn, objects, &msgs) }},
		{"bare", func() (cost, error) { return publishBare(ctx, js, msgs, false) }},
		{"bare, sourced", func() (cost, error) { return publishBare(ctx, js, msgs, true) }},
	}
	var costs [3][]cost
	for round := range publishRounds {
		var line strings.Builder
		for i, s := range subjects {
			c, err := s.run()
			if err != nil {
				return nil, fmt.Errorf("publish (%s): %w", s.name, err)
			}
			if err := deleteStreams(ctx, js); err != nil {
				return nil, err
			}
			if err := quiet(ctx); err != nil {
				return nil, err
			}
			costs[i] = append(costs[i], c)
			fmt.Fprintf(&line, " %s %.0f/s (CPU %.0f µs each)", s.name, publishEvents/c.wall.Seconds(), perEvent(c))
		}
		progress("round %d:%s", round+1, &line)
	}
	rate := func(i int) float64 {
		return medianOf(costs[i], func(c cost) float64 { return publishEvents / c.wall.Seconds() })
	}
	cpu := func(i int) float64 { return medianOf(costs[i], perEvent) }
	return []Figure{atLeast("publish-path-ratio", pairs(costs[1], costs[0], wall), 0.7, "ratio", fmt.Sprintf(
		"bare atomic batches of %d, synced always, %d rounds: %.0f events/s, CPU %.0f µs each; the same while a current state is sourced from them, as the product's: %.0f events/s (ratio %.2f), CPU %.0f µs (ratio %.2f); product %.0f events/s, CPU %.0f µs",
		pipeline.MaxBatch, publishRounds, rate(1), cpu(1), rate(2), pairs(costs[2], costs[0], wall), cpu(2), pairs(costs[2], costs[0], used), rate(0), cpu(0)))}, nil
}

func perEvent(c cost) float64 { return float64(c.cpu.Microseconds()) / publishEvents }

// deleteStreams makes room for the next.
func deleteStreams(ctx context.Context, js jetstream.JetStream) error {
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if err := js.DeleteStream(ctx, name); err != nil {
			return err
		}
	}
	return names.Err()
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

// publishProduct runs a collector over the objects until they are durable. The
// first time it keeps the messages that come of them.
func publishProduct(ctx context.Context, conn *natslog.Conn, objects []kube.Object, msgs *[]*nats.Msg) (cost, error) {
	log := slog.New(slog.DiscardHandler)
	src := &source{objects: objects, begun: make(chan meter, 1)}
	history := conn.History(world.Site)
	durable := make(chan struct{})
	c, err := collect.New(collect.Settings{
		Site: world.Site, Source: src, History: history, Config: collect.Default(), Log: log,
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) {
			w, err := conn.Writer(ctx, world.Site, publishLimits)
			return &counter{Writer: w, left: len(objects), done: durable}, err
		},
	})
	if err != nil {
		return cost{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	failed := make(chan error, 1)
	wg.Go(func() { failed <- c.Run(ctx) })
	var begun meter
	select {
	case begun = <-src.begun:
	case err := <-failed:
		return cost{}, fmt.Errorf("run the collector: %w", err)
	case <-ctx.Done():
		return cost{}, ctx.Err()
	}
	select {
	case <-durable:
	case err := <-failed:
		return cost{}, fmt.Errorf("run the collector: %w", err)
	case <-ctx.Done():
		return cost{}, ctx.Err()
	}
	spent, err := begun.stop(ctx)
	if err == nil && *msgs == nil {
		*msgs, err = messages(ctx, history)
	}
	return spent, err
}

// counter closes done when as many objects are durable as were left.
type counter struct {
	pipeline.Writer
	left int
	done chan struct{}
}

// Append implements pipeline.Writer.
func (c *counter) Append(ctx context.Context, events []pipeline.Event) (pipeline.Position, error) {
	at, err := c.Writer.Append(ctx, events)
	if err != nil {
		return at, err
	}
	for _, e := range events {
		if e.Op != pipeline.OpPut {
			continue
		}
		if c.left--; c.left == 0 {
			close(c.done)
		}
	}
	return at, nil
}

// source is a cluster that shows its ConfigMaps as fast as they are taken.
type source struct {
	objects []kube.Object
	begun   chan meter
}

func (s *source) Kinds(context.Context) ([]kube.Kind, error) {
	k := world.ConfigMaps
	k.Verbs = []string{"get", "list", "watch"}
	return []kube.Kind{k}, nil
}

func (s *source) Watch(ctx context.Context, _ kube.Kind, _ kube.WatchOptions, h kube.Handler) {
	select {
	case s.begun <- start():
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
func messages(ctx context.Context, history pipeline.History) ([]*nats.Msg, error) {
	var out []*nats.Msg
	for rec, err := range history.Current(ctx, pipeline.Query{Kind: &world.ConfigMaps.GroupResource}) {
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

// publishBare stores the messages in atomic batches in a stream as the history
// is, with a stream as the current state beside it if sourced.
func publishBare(ctx context.Context, js jetstream.JetStream, msgs []*nats.Msg, sourced bool) (cost, error) {
	history := jetstream.StreamConfig{
		Name: "BARE", Subjects: []string{"bare.>"}, MaxBytes: publishLimits.MaxBytes, Compression: jetstream.S2Compression,
		AllowAtomicPublish: true, AllowDirect: true,
	}
	current := jetstream.StreamConfig{
		Name: "BARE_CURRENT", MaxBytes: publishLimits.CurrentMaxBytes, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
		PersistMode: jetstream.AsyncPersistMode, AllowDirect: true,
		Sources: []*jetstream.StreamSource{{
			Name: history.Name, OptStartSeq: 1,
			SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "bare.>", Destination: "current.>"}},
		}},
	}
	if _, err := js.CreateStream(ctx, history); err != nil {
		return cost{}, err
	}
	if sourced {
		if _, err := js.CreateStream(ctx, current); err != nil {
			return cost{}, err
		}
		if err := quiet(ctx); err != nil {
			return cost{}, err
		}
	}
	begun := start()
	for first := 0; first < len(msgs); first += pipeline.MaxBatch {
		if _, err := jetstreamext.PublishMsgBatch(ctx, js, msgs[first:min(first+pipeline.MaxBatch, len(msgs))]); err != nil {
			return cost{}, err
		}
	}
	return begun.stop(ctx)
}
