package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

// traced is an event that was observed in the n-th trace.
func traced(e pipeline.Event, n int) pipeline.Event {
	e.Trace.Parent = fmt.Sprintf("00-%032x-%016x-01", n, n)
	return e
}

// TestPumpTraces: every record has a span in the trace of its observation, the
// attempts are below it, and a newer one links to those it stands for.
func TestPumpTraces(t *testing.T) {
	recorder := telemetrytest.Spans(t)
	run(t, config(), func(ctx context.Context, r *rig) {
		release := make(chan struct{})
		r.sink.Try = func(ctx context.Context, rec pipeline.Record, _ int) (err error) {
			_, span := telemetry.StartSpan(ctx, telemetry.SpanApply, nil)
			defer func() { span.End(err) }()
			switch rec.Ref.Name {
			case "coalesced":
				<-release
			case "bad":
				return pipeline.WithClass(pipeline.Invalid, errors.New("no"))
			}
			return nil
		}
		r.sink.Script(object("late"), errBusy)
		r.submit(ctx, traced(pipelinetest.Put(object("plain"), 1), 1))
		r.submit(ctx, traced(pipelinetest.Put(object("bad"), 1), 2))
		r.submit(ctx, traced(pipelinetest.Put(object("late"), 1), 3))
		for n := 4; n <= 6; n++ {
			r.submit(ctx, traced(pipelinetest.Put(object("coalesced"), n), n))
			synctest.Wait()
		}
		close(release)
		pass(time.Minute)
		if got := r.parker.Letters()[object("bad")].TraceParent; !strings.HasPrefix(got, fmt.Sprintf("00-%032x-", 2)) {
			t.Errorf("the dead letter's trace is %q", got)
		}
	})
	want := map[int]struct {
		result   string
		attempts int
		links    string
		failed   bool
	}{
		1: {result: "created", attempts: 1},
		2: {result: "parked", attempts: 1, failed: true},
		3: {result: "created", attempts: 1}, // the scripted failure comes before the sink's own span
		4: {result: "created", attempts: 1},
		5: {result: "superseded"},
		6: {result: "configured", attempts: 1, links: fmt.Sprintf("%032x", 5)},
	}
	traces := recorder.Traces()
	for n, w := range want {
		id := fmt.Sprintf("%032x", n)
		attempts := 0
		var consume telemetrytest.Span
		for _, s := range traces[id] {
			switch s.Name {
			case telemetry.SpanConsume:
				consume = s
			case telemetry.SpanApply:
				attempts++
			}
		}
		if consume.Parent != fmt.Sprintf("%016x", n) || consume.Attrs[telemetry.KeyResult] != w.result || consume.Failed != w.failed ||
			strings.Join(consume.Links, " ") != w.links || attempts != w.attempts {
			t.Errorf("trace %d: %d attempts, %+v; want %+v", n, attempts, consume, w)
		}
		for _, s := range traces[id] {
			if s.Name == telemetry.SpanApply && s.Parent != consume.ID {
				t.Errorf("trace %d: the attempt is not below the record's span", n)
			}
		}
	}
}

// TestPumpEndsEverySpan: what is abandoned at the end is in its trace, too.
func TestPumpEndsEverySpan(t *testing.T) {
	recorder := telemetrytest.Spans(t)
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return errBusy }
		r.submit(ctx, traced(pipelinetest.Put(object("a"), 1), 1))
		r.settle(ctx)
	})
	spans := recorder.Ended()
	if len(spans) != 1 || spans[0].Attrs[telemetry.KeyResult] != "abandoned" {
		t.Errorf("spans: %+v", spans)
	}
}

func TestPumpMetrics(t *testing.T) {
	meter := telemetrytest.Metrics(t)
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Script(object("bad"), pipeline.WithClass(pipeline.Invalid, errors.New("no")))
		r.sink.Script(object("late"), errBusy)
		for i, name := range []string{"bad", "late", "plain"} {
			r.submit(ctx, pipelinetest.Put(object(name), i+1))
		}
		r.settle(ctx)
		kind := telemetry.String(telemetry.KeyKind, "configmaps")
		for _, m := range []struct {
			metric telemetry.Metric
			attrs  []telemetry.Attr
			want   float64
		}{
			{telemetry.MetricPumpPending, nil, 1},
			{telemetry.MetricPumpResults, []telemetry.Attr{kind, telemetry.String(telemetry.KeyResult, "created")}, 1},
			{telemetry.MetricPumpResults, []telemetry.Attr{kind, telemetry.String(telemetry.KeyResult, "parked")}, 1},
			{telemetry.MetricPumpParked, []telemetry.Attr{kind, telemetry.String(telemetry.KeyReason, "Invalid")}, 1},
			{telemetry.MetricPumpRetries, []telemetry.Attr{kind, telemetry.String(telemetry.KeyReason, "Transient")}, 1},
		} {
			attrs := append(m.attrs, telemetry.String(telemetry.KeyReplication, owner))
			if got := meter.Value(m.metric, attrs...); got != m.want {
				t.Errorf("%s %v is %v, want %v", m.metric.Name(), m.attrs, got, m.want)
			}
		}
	})
}
