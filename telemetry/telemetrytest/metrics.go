package telemetrytest

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Meter reads the metrics recorded since it was installed.
type Meter struct {
	t      testing.TB
	reader *sdkmetric.ManualReader
}

// Metrics collects the process's metrics until the test ends, starting from zero.
func Metrics(t testing.TB) *Meter {
	t.Helper()
	m := &Meter{t: t, reader: sdkmetric.NewManualReader()}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(m.reader))
	undo, err := telemetry.InstallMeter(provider)
	if err != nil {
		t.Fatalf("install the test's meter: %v", err)
	}
	t.Cleanup(undo)
	return m
}

// Value returns the sum of a counter's or gauge's samples that have all the given
// attributes, for a histogram the number of recordings.
func (m *Meter) Value(metric telemetry.Metric, attrs ...telemetry.Attr) float64 {
	m.t.Helper()
	var data metricdata.ResourceMetrics
	if err := m.reader.Collect(m.t.Context(), &data); err != nil {
		m.t.Fatalf("collect metrics: %v", err)
	}
	var sum float64
	for _, scope := range data.ScopeMetrics {
		for _, s := range scope.Metrics {
			if s.Name != metric.Name() {
				continue
			}
			switch d := s.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					if has(p.Attributes, attrs) {
						sum += float64(p.Value)
					}
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					if has(p.Attributes, attrs) {
						sum += p.Value
					}
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					if has(p.Attributes, attrs) {
						sum += float64(p.Count)
					}
				}
			}
		}
	}
	return sum
}

func has(set attribute.Set, want []telemetry.Attr) bool {
	for _, w := range want {
		if v, ok := set.Value(w.Key); !ok || v != w.Value {
			return false
		}
	}
	return true
}
