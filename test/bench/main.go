package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// Figure is one measured number. Names are stable: later runs are compared with
// earlier ones by them.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Bar is what Value is held against; AtMost says in which direction.
	Bar    float64 `json:"bar"`
	AtMost bool    `json:"atMost,omitempty"`
	Pass   bool    `json:"pass"`
	// Yardstick is what it was measured beside, with its own number.
	Yardstick string `json:"yardstick"`
}

func atLeast(name string, value, bar float64, unit, yardstick string) Figure { //nolint:unparam // beside atMost, whose units differ
	return Figure{Name: name, Value: value, Unit: unit, Bar: bar, Pass: value >= bar, Yardstick: yardstick}
}

func atMost(name string, value, bar float64, unit, yardstick string) Figure {
	return Figure{Name: name, Value: value, Unit: unit, Bar: bar, AtMost: true, Pass: value <= bar, Yardstick: yardstick}
}

// benchmark measures one or several figures in an empty directory.
type benchmark struct {
	name string
	run  func(ctx context.Context, dir string) ([]Figure, error)
}

var benchmarks = []benchmark{
	{"publish", benchPublish},
	{"first-copy", benchFirstCopy},
	{"replay", benchReplay},
	{"latency", benchLatency},
	{"memory", benchMemory},
	{"volume-file", benchVolumeFile},
	{"volume-small", benchVolumeSmall},
	{"volume-idle", benchVolumeIdle},
	{"transform", benchTransform},
	{"standby", benchStandby},
	{"asof", benchAsOf},
	{"snapshot", benchSnapshot},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	only := flag.String("only", "", "run one benchmark")
	out := flag.String("out", "", "write the figures there (default test/bench/results.json)")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process there")
	yardstick := flag.String("yardstick-informer", "", "internal: hold all ConfigMaps of this kubeconfig in a plain informer until killed")
	flag.Parse()
	if *yardstick != "" {
		return plainInformer(ctx, *yardstick)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return fmt.Errorf("write the profile: %w", err)
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("start the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	if *out == "" {
		root, err := world.Root()
		if err != nil {
			return err
		}
		*out = filepath.Join(root, "test", "bench", "results.json")
	}
	i := slices.IndexFunc(benchmarks, func(b benchmark) bool { return b.name == *only })
	if *only != "" && i < 0 {
		return fmt.Errorf("no benchmark is named %q; there are %v", *only, names())
	}
	var figures []Figure
	for _, b := range benchmarks {
		if *only != "" && b.name != *only {
			continue
		}
		fmt.Fprintf(os.Stderr, "== %s\n", b.name)
		started := time.Now()
		dir, err := os.MkdirTemp("", "drs-bench-")
		if err != nil {
			return fmt.Errorf("make a directory for %s: %w", b.name, err)
		}
		found, err := b.run(ctx, dir)
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("measure %s: %w", b.name, err)
		}
		fmt.Fprintf(os.Stderr, "   took %s\n", time.Since(started).Round(time.Second))
		figures = append(figures, found...)
	}
	return report(figures, *out, *only != "")
}

// report prints the table and writes the file; a partial run replaces only its own figures there.
func report(figures []Figure, path string, partial bool) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tVALUE\tUNIT\tBAR\tPASS\tYARDSTICK")
	for _, f := range figures {
		sign := ">="
		if f.AtMost {
			sign = "<="
		}
		fmt.Fprintf(w, "%s\t%.4g\t%s\t%s %.4g\t%t\t%s\n", f.Name, f.Value, f.Unit, sign, f.Bar, f.Pass, f.Yardstick)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if partial {
		var before []Figure
		if data, err := os.ReadFile(path); err == nil {
			if err := json.Unmarshal(data, &before); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
		for _, f := range before {
			if !slices.ContainsFunc(figures, func(g Figure) bool { return g.Name == f.Name }) {
				figures = append(figures, f)
			}
		}
	}
	data, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func names() []string {
	var out []string
	for _, b := range benchmarks {
		out = append(out, b.name)
	}
	return out
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "   "+format+"\n", args...)
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func percentile(values []time.Duration, p float64) time.Duration {
	s := slices.Sorted(slices.Values(values))
	return s[min(len(s)-1, int(p*float64(len(s))))]
}
