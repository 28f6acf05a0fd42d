package telemetry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// seconds are the bounds of the histograms: from a local write to a long retry.
var seconds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

// instruments are the instruments of the table, made by one meter.
type instruments struct {
	counters   [metricCount]metric.Int64Counter
	histograms [metricCount]metric.Float64Histogram
}

// current is what Add and Record write to; nil before InstallMeter.
var current atomic.Pointer[instruments]

// InstallMeter makes the instruments of the table with a meter of p and sends
// everything recorded from now on to them. Undo stops that, unless somebody
// else was installed since. Programs call Setup instead; it is exported for
// telemetrytest.
func InstallMeter(p metric.MeterProvider) (undo func(), err error) {
	meter := p.Meter(scopeName)
	in := &instruments{}
	for m := range metricCount {
		r := table[m]
		switch r.kind {
		case counter:
			in.counters[m], err = meter.Int64Counter(r.name, metric.WithDescription(r.help), metric.WithUnit(r.unit))
		case histogram:
			in.histograms[m], err = meter.Float64Histogram(r.name, metric.WithDescription(r.help), metric.WithUnit(r.unit),
				metric.WithExplicitBucketBoundaries(seconds...))
		case gauge:
			_, err = meter.Float64ObservableGauge(r.name, metric.WithDescription(r.help), metric.WithUnit(r.unit),
				metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
					gauges.observe(m, o)
					return nil
				}))
		}
		if err != nil {
			return nil, fmt.Errorf("make metric %s: %w", r.name, err)
		}
	}
	current.Store(in)
	return func() { current.CompareAndSwap(in, nil) }, nil
}

// Add adds n to a counter. It may be called at any time and at once; before
// Setup, and for a metric that is no counter, it does nothing.
func Add(ctx context.Context, m Metric, n int64, attrs ...Attr) {
	if in := current.Load(); in != nil && m < metricCount && in.counters[m] != nil {
		in.counters[m].Add(ctx, n, metric.WithAttributeSet(attribute.NewSet(attrs...)))
	}
}

// Record adds a duration in seconds to a histogram, under the terms of Add.
func Record(ctx context.Context, m Metric, seconds float64, attrs ...Attr) {
	if in := current.Load(); in != nil && m < metricCount && in.histograms[m] != nil {
		in.histograms[m].Record(ctx, seconds, metric.WithAttributeSet(attribute.NewSet(attrs...)))
	}
}

// Sample is one value of a gauge.
type Sample struct {
	Value float64
	Attrs []Attr
}

// Gauge has read called whenever the metric is looked at, until unregister is
// called. Several may be registered for one metric if their attributes differ.
// read must be quick and safe for concurrent use, and may be called once more
// while unregister runs. It may be called before Setup.
func Gauge(m Metric, read func() []Sample) (unregister func()) {
	return gauges.add(m, read)
}

// gauges holds what Gauge registered: independent of which meter is installed.
var gauges readers

type readers struct {
	mu   sync.Mutex
	next int
	read [metricCount]map[int]func() []Sample
}

func (r *readers) add(m Metric, read func() []Sample) (remove func()) {
	if m >= metricCount || table[m].kind != gauge {
		return func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.next
	r.next++
	if r.read[m] == nil {
		r.read[m] = map[int]func() []Sample{}
	}
	r.read[m][id] = read
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.read[m], id)
	}
}

func (r *readers) observe(m Metric, o metric.Float64Observer) {
	r.mu.Lock()
	reads := make([]func() []Sample, 0, len(r.read[m]))
	for _, read := range r.read[m] {
		reads = append(reads, read)
	}
	r.mu.Unlock()
	// Read without the lock: a reader may take locks of its own.
	for _, read := range reads {
		for _, s := range read() {
			o.Observe(s.Value, metric.WithAttributeSet(attribute.NewSet(s.Attrs...)))
		}
	}
}
