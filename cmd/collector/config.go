package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// configFile is the configuration as it was read last.
type configFile struct {
	path   string // empty: there is none
	text   []byte
	parsed collect.Config
}

// readConfig reads the configuration file; no path gives the defaults.
func readConfig(path string) (configFile, error) {
	f := configFile{path: path, parsed: collect.Default()}
	if path == "" {
		return f, nil
	}
	var err error
	if f.text, err = os.ReadFile(path); err != nil { //nolint:gosec // the operator names the file
		return f, fmt.Errorf("read configuration: %w (check --config)", err)
	}
	if f.parsed, err = collect.ParseConfig(f.text); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// configPoll is how often the configuration is looked at. Polling sees every way of
// changing a file, the replaced links of a mounted ConfigMap included.
const configPoll = 2 * time.Second

// watch has the configuration applied whenever the file's content changes, until ctx
// ends. A bad one is reported once and leaves the former in force.
func (f configFile) watch(ctx context.Context, log *slog.Logger, apply func(collect.Config) error) {
	if f.path == "" {
		return
	}
	problem := ""
	for app.Wait(ctx, configPoll) {
		next, err := readConfig(f.path)
		if err == nil && !bytes.Equal(next.text, f.text) {
			if err = apply(next.parsed); err == nil {
				log.InfoContext(ctx, "configuration applied", telemetry.KeyPath, f.path)
				f = next
			}
		}
		if err == nil {
			problem = ""
			continue
		}
		if text := err.Error(); text != problem {
			problem = text
			telemetry.Add(ctx, telemetry.MetricConfigErrors, 1)
			log.ErrorContext(ctx, "bad configuration, keeping the former", telemetry.KeyPath, f.path, telemetry.KeyError, err)
		}
	}
}
