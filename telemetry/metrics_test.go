package telemetry

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

//go:generate go test . -run TestMetricsDocument -update

var update = flag.Bool("update", false, "write docs/metrics.md from the table")

const metricsDocument = "../docs/metrics.md"

// TestMetricsDocument keeps docs/metrics.md the image of the table.
func TestMetricsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nServed in Prometheus's format at `/metrics` of the side port (`--listen`), together with those of the Go\n" +
		"runtime and the process. Generated from `telemetry/metrics.go` by `go generate ./telemetry`: do not edit.\n\n" +
		"| name | type | unit | attributes | meaning |\n|---|---|---|---|---|\n")
	for _, r := range table {
		attrs := make([]string, len(r.attrs))
		for i, a := range r.attrs {
			attrs[i] = "`" + a + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.name, r.kind, r.unit, strings.Join(attrs, ", "), r.help)
	}
	if *update {
		if err := os.WriteFile(metricsDocument, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(metricsDocument)
	if err != nil {
		t.Fatalf("%v; run: go generate ./telemetry", err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/metrics.md is not what the table says; run: go generate ./telemetry (-table +document)\n%s", diff)
	}
}

// TestTable holds every row to the naming rules.
func TestTable(t *testing.T) {
	valid := regexp.MustCompile(`^drsyncer_[a-z]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	for m, r := range table {
		switch {
		case !valid.MatchString(r.name):
			t.Errorf("metric %d: name %q is not in our form", m, r.name)
		case seen[r.name]:
			t.Errorf("metric %q: its name is used twice", r.name)
		case (r.kind == counter) != strings.HasSuffix(r.name, "_total"):
			t.Errorf("metric %q: counters, and only they, end in _total", r.name)
		case r.unit == "s" && !strings.HasSuffix(r.name, "_seconds"), r.unit == "By" && !strings.HasSuffix(r.name, "_bytes"):
			t.Errorf("metric %q: the name does not end in its unit %q", r.name, r.unit)
		case r.kind == histogram && r.unit != "s":
			t.Errorf("metric %q: the bounds of histograms are made for seconds, not %q", r.name, r.unit)
		case r.help == "" || r.unit == "":
			t.Errorf("metric %q: meaning and unit must be given", r.name)
		}
		seen[r.name] = true
	}
}
