package app

import (
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Options are the settings of the frame that users have, the same in every program.
type Options struct {
	// Listen is the address of the side port; empty serves none.
	Listen string
	// LogFormat is "text" or "json".
	LogFormat string
	// LogLevel is "debug", "info", "warn" or "error".
	LogLevel string
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{Listen: ":8080", LogFormat: "text", LogLevel: "info"}
}

// RegisterFlags makes the options flags, with their present values as defaults.
func (o *Options) RegisterFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Listen, "listen", o.Listen, "address for /healthz, /readyz, /metrics and (from this machine only) /debug/pprof; empty for none")
	fs.StringVar(&o.LogFormat, "log-format", o.LogFormat, "format of the log on standard error: text or json")
	fs.StringVar(&o.LogLevel, "log-level", o.LogLevel, "least severe level to log: debug, info, warn or error")
}

// Validate reports what is wrong with the options, as a usage error.
func (o Options) Validate() error {
	if o.Listen != "" {
		if _, _, err := net.SplitHostPort(o.Listen); err != nil {
			return Usage(fmt.Errorf("--listen %q is not of the form host:port: %w", o.Listen, err))
		}
	}
	_, err := o.Logger(io.Discard)
	return err
}

// Logger returns the program's logger, writing to w.
func (o Options) Logger(w io.Writer) (*slog.Logger, error) {
	log, err := telemetry.NewLogger(w, o.LogFormat, o.LogLevel)
	return log, Usage(err)
}
