package telemetry

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scopeName is the instrumentation scope of all spans and metrics.
const scopeName = "github.com/dr-syncer/dr-syncer"

// TraceContext carries a W3C trace context (traceparent and tracestate). The
// zero value means that the change is not traced.
type TraceContext struct {
	Parent string
	State  string
}

// Span is one timed step of a change. The zero Span is not recorded.
type Span struct{ span trace.Span }

// StartSpan begins a span under the one in ctx. parents beyond it (events that
// were coalesced into this one) become links.
func StartSpan(ctx context.Context, name string, attrs []Attr, links ...TraceContext) (context.Context, Span) {
	opts := []trace.SpanStartOption{trace.WithAttributes(attrs...)}
	for _, l := range links {
		if sc := trace.SpanContextFromContext(Extract(context.Background(), l)); sc.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
		}
	}
	ctx, span := otel.Tracer(scopeName).Start(ctx, name, opts...)
	return ctx, Span{span}
}

// Recording reports whether somebody will see the span. Of one that nobody sees, attributes
// and steps below need not be made.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Set adds attributes.
func (s Span) Set(attrs ...Attr) {
	if s.span != nil {
		s.span.SetAttributes(attrs...)
	}
}

// Link adds a change that was coalesced into the span's after it began. No
// trace is no link.
func (s Span) Link(t TraceContext) {
	if s.span == nil {
		return
	}
	if sc := trace.SpanContextFromContext(Extract(context.Background(), t)); sc.IsValid() {
		s.span.AddLink(trace.Link{SpanContext: sc})
	}
}

// End ends the span, with err's text when it failed.
func (s Span) End(err error, attrs ...Attr) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attrs...)
	if err != nil {
		s.span.RecordError(err)
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

var propagator = propagation.TraceContext{}

// Inject returns the trace context of ctx, to travel with an Event.
func Inject(ctx context.Context) TraceContext {
	var t TraceContext
	propagator.Inject(ctx, (*carrier)(&t))
	return t
}

// Extract continues the trace that an Event carries.
func Extract(ctx context.Context, t TraceContext) context.Context {
	if t.Parent == "" {
		return ctx
	}
	return propagator.Extract(ctx, (*carrier)(&t))
}

// carrier is a TraceContext as the propagator sees it.
type carrier TraceContext

var _ propagation.TextMapCarrier = (*carrier)(nil)

// field is where a header is kept; nil for one that does not travel.
func (c *carrier) field(key string) *string {
	switch key {
	case "traceparent":
		return &c.Parent
	case "tracestate":
		return &c.State
	}
	return nil
}

// Get implements propagation.TextMapCarrier.
func (c *carrier) Get(key string) string {
	if f := c.field(key); f != nil {
		return *f
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c *carrier) Set(key, value string) {
	if f := c.field(key); f != nil {
		*f = value
	}
}

// Keys implements propagation.TextMapCarrier.
func (c *carrier) Keys() []string { return propagator.Fields() }
