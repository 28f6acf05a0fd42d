package telemetrytest

import (
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Span is one ended span.
type Span struct {
	Name string
	// Trace, ID and Parent are in hex; Parent is empty for a root.
	Trace, ID, Parent string
	// Links are the traces it links to.
	Links []string
	Attrs map[string]string
	// Failed is set when it ended with an error.
	Failed bool
}

// Recorder keeps the spans that ended since it was installed.
type Recorder struct{ exporter *tracetest.InMemoryExporter }

// Spans records every span of the process until the test ends.
func Spans(t testing.TB) *Recorder {
	t.Helper()
	r := &Recorder{exporter: tracetest.NewInMemoryExporter()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.exporter), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	former := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	t.Cleanup(func() {
		otel.SetTracerProvider(former)
		if err := provider.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("end the span recorder: %v", err)
		}
	})
	return r
}

// Ended returns the spans that have ended so far, in that order.
func (r *Recorder) Ended() []Span {
	stubs := r.exporter.GetSpans()
	spans := make([]Span, 0, len(stubs))
	for _, s := range stubs {
		span := Span{
			Name: s.Name, Trace: s.SpanContext.TraceID().String(), ID: s.SpanContext.SpanID().String(),
			Attrs: attrs(s.Attributes), Failed: s.Status.Code == codes.Error,
		}
		if s.Parent.IsValid() {
			span.Parent = s.Parent.SpanID().String()
		}
		for _, l := range s.Links {
			span.Links = append(span.Links, l.SpanContext.TraceID().String())
		}
		spans = append(spans, span)
	}
	return spans
}

// Traces returns the ended spans by trace.
func (r *Recorder) Traces() map[string][]Span {
	traces := map[string][]Span{}
	for _, s := range r.Ended() {
		traces[s.Trace] = append(traces[s.Trace], s)
	}
	return traces
}

func attrs(kvs []attribute.KeyValue) map[string]string {
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		m[string(kv.Key)] = kv.Value.String()
	}
	return m
}

// Text is all that the ended spans say, their events and statuses included, for
// tests that look for what must not be in there.
func (r *Recorder) Text() string {
	var b strings.Builder
	for _, s := range r.exporter.GetSpans() {
		fmt.Fprintf(&b, "%s %s %s %v\n", s.Name, s.Status.Code, s.Status.Description, attrs(s.Attributes))
		for _, e := range s.Events {
			fmt.Fprintf(&b, "  %s %v\n", e.Name, attrs(e.Attributes))
		}
	}
	return b.String()
}
