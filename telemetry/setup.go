package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Settings is what a program says of itself.
type Settings struct {
	// Service is the program's name in traces.
	Service string
	// Version is the program's version.
	Version string
	// Log is told of failed exports.
	Log *slog.Logger
}

// Telemetry is a program's running metrics and traces.
type Telemetry struct {
	registry *prometheus.Registry
	shutdown []func(context.Context) error
}

// Setup starts metrics and traces of the process. Metrics are served by Handler.
// Spans go to the OTLP endpoint (gRPC) that the standard variable
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names; with
// neither they are not recorded, but trace ids still travel. A second Setup
// takes over from the first.
func Setup(ctx context.Context, s Settings) (*Telemetry, error) {
	t := &Telemetry{registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := t.setupMetrics(s); err != nil {
		return nil, err
	}
	if err := t.setupTraces(ctx, s); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "telemetry export failed", slog.Any(KeyError, err))
	}))
	return t, nil
}

func (t *Telemetry) setupMetrics(s Settings) error {
	// The table holds whole Prometheus names: nothing is added to them.
	exporter, err := promexporter.New(promexporter.WithRegisterer(t.registry), promexporter.WithoutScopeInfo(), promexporter.WithoutTargetInfo(),
		promexporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithoutSuffixes))
	if err != nil {
		return fmt.Errorf("start metrics: %w", err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	undo, err := InstallMeter(provider)
	if err != nil {
		return err
	}
	build := Gauge(MetricBuild, func() []Sample {
		return []Sample{{Value: 1, Attrs: []Attr{String(KeyVersion, s.Version)}}}
	})
	t.shutdown = append(t.shutdown, func(ctx context.Context) error {
		build()
		undo()
		return provider.Shutdown(ctx)
	})
	return nil
}

func (t *Telemetry) setupTraces(ctx context.Context, s Settings) error {
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(resource.NewSchemaless(
		attribute.String("service.name", s.Service), attribute.String("service.version", s.Version)))}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" {
		exporter, err := otlptracegrpc.New(ctx)
		if err != nil {
			return fmt.Errorf("start trace export: %w", err)
		}
		opts = append(opts, sdktrace.WithBatcher(exporter))
	} else {
		opts = append(opts, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	provider := sdktrace.NewTracerProvider(opts...)
	otel.SetTracerProvider(provider)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// Handler serves the metrics in Prometheus's format.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
}

// Shutdown flushes and ends what Setup started. It may be called again.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	t.shutdown = nil
	return errors.Join(errs...)
}
