package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

func setup(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), telemetry.Settings{Service: "test", Version: "v0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("shut down: %v", err)
		}
	})
	return tel
}

func scrape(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	return w.Body.String()
}

func TestScrape(t *testing.T) {
	// Registered before Setup: must be served all the same.
	unregister := telemetry.Gauge(telemetry.MetricOutboxObjects, func() []telemetry.Sample {
		return []telemetry.Sample{{Value: 7, Attrs: []telemetry.Attr{telemetry.String(telemetry.KeySite, "nyc")}}}
	})
	tel := setup(t)
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 2, telemetry.String(telemetry.KeySite, "nyc"))
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 3, telemetry.String(telemetry.KeySite, "nyc"))
	telemetry.Record(t.Context(), telemetry.MetricPublishSeconds, 0.02, telemetry.String(telemetry.KeySite, "nyc"))
	telemetry.Add(t.Context(), telemetry.MetricPublishSeconds, 1) // not a counter: must do nothing

	got := scrape(t, tel)
	for _, want := range []string{
		`drsyncer_outbox_objects{site="nyc"} 7`,
		`drsyncer_publish_events_total{site="nyc"} 5`,
		`drsyncer_publish_seconds_count{site="nyc"} 1`,
		`drsyncer_build_info{version="v0"} 1`,
		`go_goroutines `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("scrape lacks %s", want)
		}
	}
	unregister()
	if got := scrape(t, tel); strings.Contains(got, "drsyncer_outbox_objects{") {
		t.Error("a gauge is served after it was unregistered")
	}
}

func TestMetricsBeforeSetupAreNothing(t *testing.T) {
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 1)
	telemetry.Record(t.Context(), telemetry.MetricPublishSeconds, 1)
	tel := setup(t)
	if got := scrape(t, tel); strings.Contains(got, "drsyncer_publish_events_total{") {
		t.Error("what was counted before Setup is served")
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 1)
}

func TestMeter(t *testing.T) {
	m := telemetrytest.Metrics(t)
	site := func(s string) telemetry.Attr { return telemetry.String(telemetry.KeySite, s) }
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 2, site("a"))
	telemetry.Add(t.Context(), telemetry.MetricPublishEvents, 3, site("b"))
	telemetry.Record(t.Context(), telemetry.MetricPublishSeconds, 3, site("b"))
	got := []float64{
		m.Value(telemetry.MetricPublishEvents), m.Value(telemetry.MetricPublishEvents, site("a")),
		m.Value(telemetry.MetricPublishEvents, site("c")), m.Value(telemetry.MetricPublishSeconds),
	}
	if diff := cmp.Diff([]float64{5, 2, 0, 1}, got); diff != "" {
		t.Errorf("values (-want +got)\n%s", diff)
	}
}

func TestSpansTravel(t *testing.T) {
	spans := telemetrytest.Spans(t)
	ctx, first := telemetry.StartSpan(t.Context(), telemetry.SpanCollect, nil)
	older := telemetry.Inject(ctx)
	first.End(nil)

	ctx, second := telemetry.StartSpan(t.Context(), telemetry.SpanCollect, nil)
	newer := telemetry.Inject(ctx)
	second.End(nil)

	// The other side continues the newer one and links the older.
	_, consume := telemetry.StartSpan(telemetry.Extract(t.Context(), newer), telemetry.SpanConsume,
		[]telemetry.Attr{telemetry.Int(telemetry.KeyCount, 2)}, older, telemetry.TraceContext{})
	consume.End(errors.New("boom"), telemetry.String(telemetry.KeyResult, "failed"))

	ended := spans.Ended()
	if len(ended) != 3 {
		t.Fatalf("%d spans ended, want 3", len(ended))
	}
	got := ended[2]
	want := telemetrytest.Span{
		Name: telemetry.SpanConsume, Trace: ended[1].Trace, ID: got.ID, Parent: ended[1].ID, Links: []string{ended[0].Trace},
		Attrs: map[string]string{telemetry.KeyCount: "2", telemetry.KeyResult: "failed"}, Failed: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("span (-want +got)\n%s", diff)
	}
	if n := len(spans.Traces()); n != 2 {
		t.Errorf("%d traces, want 2", n)
	}
	if none := telemetry.Inject(t.Context()); none != (telemetry.TraceContext{}) {
		t.Errorf("without a span, Inject returned %v", none)
	}
}

func TestLogger(t *testing.T) {
	telemetrytest.Spans(t)
	cases := map[string]struct {
		reason, format, level string
		wantErr               bool
		wantLines             int
	}{
		"JSON":      {"both records are at or above the level", "json", "debug", false, 2},
		"Level":     {"what is below the level is dropped", "json", "INFO", false, 1},
		"BadLevel":  {"a level nobody knows is refused at start", "json", "loud", true, 0},
		"BadFormat": {"a format nobody knows is refused at start", "xml", "info", true, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := telemetry.NewLogger(&out, tc.format, tc.level)
			if (err != nil) != tc.wantErr {
				t.Fatalf("%s: error %v", tc.reason, err)
			}
			if err != nil {
				return
			}
			ctx, span := telemetry.StartSpan(t.Context(), telemetry.SpanApply, nil)
			log = log.With(telemetry.KeySite, "nyc")
			log.InfoContext(ctx, "hello")
			log.DebugContext(ctx, "detail")
			span.End(nil)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != tc.wantLines {
				t.Fatalf("%s: %d lines, want %d", tc.reason, len(lines), tc.wantLines)
			}
			var rec map[string]any
			if err := json.Unmarshal([]byte(lines[0]), &rec); err != nil {
				t.Fatal(err)
			}
			trace := strings.Split(telemetry.Inject(ctx).Parent, "-")
			got := map[string]any{"site": rec["site"], "trace_id": rec["trace_id"], "span_id": rec["span_id"]}
			want := map[string]any{"site": "nyc", "trace_id": trace[1], "span_id": trace[2]}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

func TestLoggerText(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.WithGroup("g").Info("hello", "a", 1)
	if !strings.Contains(out.String(), "msg=hello g.a=1") {
		t.Errorf("logged %q", out.String())
	}
}

// TestSpanNobodySees holds that a span which is not recorded, or never began, takes everything.
func TestSpanNobodySees(t *testing.T) {
	setup(t) // without an endpoint
	_, unseen := telemetry.StartSpan(t.Context(), telemetry.SpanCollect, nil)
	for name, s := range map[string]telemetry.Span{"zero": {}, "not recorded": unseen} {
		s.Set(telemetry.String(telemetry.KeyName, name))
		s.Link(telemetry.TraceContext{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
		s.End(nil)
		if s.Recording() {
			t.Errorf("%s: somebody sees it", name)
		}
	}
}
