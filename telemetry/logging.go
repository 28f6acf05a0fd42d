package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// NewLogger returns a logger that writes to w in the given format ("text" or
// "json") what is at or above the given level ("debug", "info", "warn",
// "error"). Records logged with a context carry the trace it belongs to.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var opts slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is not one of debug, info, warn, error", level)
	}
	opts.Level = l
	switch format {
	case "text":
		return slog.New(&traced{slog.NewTextHandler(w, &opts)}), nil
	case "json":
		return slog.New(&traced{slog.NewJSONHandler(w, &opts)}), nil
	default:
		return nil, fmt.Errorf("log format %q is not one of text, json", format)
	}
}

// traced adds the ids of the span in the context to every record.
type traced struct{ slog.Handler }

func (h *traced) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String(KeyTraceID, sc.TraceID().String()), slog.String(KeySpanID, sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h *traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &traced{h.Handler.WithAttrs(attrs)}
}

func (h *traced) WithGroup(name string) slog.Handler { return &traced{h.Handler.WithGroup(name)} }
