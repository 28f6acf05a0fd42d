package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfig(t *testing.T) {
	cases := map[string]struct {
		change func(c map[string]any)
		want   string // in the error; empty: it is good
	}{
		"Good":         {func(map[string]any) {}, ""},
		"Unknown":      {func(c map[string]any) { c["roott"] = "/x" }, "unknown field"},
		"NoRoot":       {func(c map[string]any) { delete(c, "root") }, "not the absolute path"},
		"TheHost":      {func(c map[string]any) { c["root"] = "/data/.." }, "not the absolute path"},
		"NoWay":        {func(c map[string]any) { delete(c, "listen") }, "no way to the peer"},
		"TwoWays":      {func(c map[string]any) { c["dial"] = []string{"x:1"} }, "one end listens"},
		"NegativeRate": {func(c map[string]any) { c["limit"] = -1 }, "negative"},
		"NoPin":        {func(c map[string]any) { delete(c, "peer") }, "pin"},
		"Expired": {func(c map[string]any) {
			c["session"] = map[string]any{"id": strings.Repeat("a", 32), "claim": "a/b/c", "expires": time.Now().Add(-time.Hour)}
		}, "expired"},
		"BadVerify": {func(c map[string]any) { c["settings"] = map[string]any{"verify": "Always"} }, "None, Sample, Full"},
	}
	session := stream.Session{ID: strings.Repeat("a", 32), Claim: "a/b/c", Expires: time.Now().Add(time.Hour).UTC()}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fields := map[string]any{"session": session, "peer": stream.Pin{1}, "root": "/data", "listen": ":1"}
			c.change(fields)
			text, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			made := session
			if name == "Expired" {
				made.Expires = time.Now().Add(-time.Hour)
			}
			id, err := stream.NewIdentity(made, stream.Source)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := id.MarshalPEM()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "config.json")
			for file, content := range map[string][]byte{path: text, filepath.Join(dir, identityFile): secret} {
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err = readConfig(path, stream.Source)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
}

func TestLacking(t *testing.T) {
	cases := map[string]struct {
		status string
		want   []string
	}{
		"Root":       {"Name:\tx\nCapEff:\t000001ffffffffff\n", nil},
		"NotSaid":    {"Name:\tx\n", nil},
		"WithoutAny": {"CapEff:\t0000000000000000\n", []string{"owners and groups", "files that this user may not open", "times and modes of files of other owners", "set-group-ID bits of files of other groups", "trusted attributes", "device nodes", "file capabilities"}},
		// CHOWN, DAC_OVERRIDE, FOWNER, FSETID: what a destination is given.
		"Privileged": {"CapEff:\t000000000000001b\n", []string{"trusted attributes", "device nodes", "file capabilities"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, lacking(parseCapabilities(c.status))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTerminationFits has a report be longer than a kubelet takes.
func TestTerminationFits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	r := newReporter("", path, &lines, stream.End{Role: stream.Destination}, nil)
	r.finish(rsync.Verdict{Class: rsync.Partial, Reason: "x"}, []rsync.Report{{Problems: []string{strings.Repeat("long ", 2000)}}})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s status
	if err := json.Unmarshal(text, &s); err != nil || s.Verdict == nil || s.Verdict.Class != rsync.Partial || len(s.Reports) != 1 {
		t.Errorf("%v: %s", err, text)
	}
	if !strings.Contains(lines.String(), "long long") {
		t.Error("the line on standard output is not whole")
	}
}
