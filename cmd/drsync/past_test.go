package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// told is a log with a story: a Deployment that is scaled and deleted, and a Secret.
type told struct {
	url       string
	conn      *natslog.Conn
	positions []pipeline.Position
}

func tell(t *testing.T) told {
	t.Helper()
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.Host, cfg.Port = t.TempDir(), "127.0.0.1", -1
	cfg.SyncAlways, cfg.MinFree, cfg.MaxStore = false, 0, 64<<30
	cfg.Log = slog.New(slog.DiscardHandler)
	server, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(conn.Close(), server.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
	})
	w, err := conn.Writer(t.Context(), "prod", natslog.DefaultStreamOptions())
	if err != nil {
		t.Fatal(err)
	}
	story := told{url: server.URL(), conn: conn}
	web := pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}, Op: pipeline.OpPut,
		UID: "u1", APIVersion: "apps/v1", Kind: "Deployment", Observed: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Manager: "helm",
		Trace: telemetry.TraceContext{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	login := pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Resource: "secrets", Namespace: "shop", Name: "login"}, Op: pipeline.OpPut,
		UID: "u2", APIVersion: "v1", Kind: "Secret", Observed: web.Observed, Manager: "kubectl",
	}
	for i, body := range []string{
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop"},"spec":{"replicas":1}}`,
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop"},"spec":{"replicas":3}}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"login","namespace":"shop"},"data":{"password":"aHVudGVyMg=="}}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"login","namespace":"shop"},"data":{"password":"c2VjcmV0"}}`,
		"",
	} {
		e := web
		if i == 2 || i == 3 {
			e = login
		}
		e.Version, e.Body, e.Digest = string(rune('1'+i)), []byte(body), pipeline.DigestOf([]byte(body))
		if body == "" {
			e.Op, e.Evidence, e.Body, e.Digest = pipeline.OpDelete, pipeline.EvidenceWatch, nil, pipeline.Digest{}
		}
		at, err := w.Append(t.Context(), []pipeline.Event{e})
		if err != nil {
			t.Fatal(err)
		}
		story.positions = append(story.positions, at)
	}
	return story
}

// run runs a command over the log, and wants an exit code and parts of the output.
func (s told) run(t *testing.T, code int, want []string, args ...string) ended {
	t.Helper()
	got := drsync(t, "", append(args, "--nats-url", s.url)...)
	if got.code != code {
		t.Errorf("drsync %s ended with %d, want %d: %s", strings.Join(args, " "), got.code, code, got.err)
	}
	for _, part := range want {
		if !strings.Contains(got.out+got.err, part) {
			t.Errorf("drsync %s does not say %q:\n%s%s", strings.Join(args, " "), part, got.out, got.err)
		}
	}
	for _, secret := range []string{"aHVudGVyMg", "c2VjcmV0"} {
		if strings.Contains(got.out+got.err, secret) && !strings.Contains(strings.Join(args, " "), "--show-secrets") {
			t.Errorf("drsync %s shows a secret", strings.Join(args, " "))
		}
	}
	return got
}

func TestPastCommands(t *testing.T) {
	s := tell(t)
	at := func(i int) string { return s.positions[i].String() }

	s.run(t, app.ExitOK, []string{
		"2026-01-02T03:04:05Z  put  by helm  at " + at(0) + "  trace 0af7651916cd43dd8448eb211c80319c",
		"~ .spec.replicas: 1 -> 3", "delete (watch)",
	}, "history", "deployment", "web", "-n", "shop")
	s.run(t, app.ExitOK, []string{`~ .data.password: "(masked)" -> "(masked)"`}, "history", "secrets", "login", "-n", "shop")
	s.run(t, app.ExitOK, []string{`"aHVudGVyMg==" -> "c2VjcmV0"`}, "history", "secrets", "login", "-n", "shop", "--show-secrets")
	s.run(t, app.ExitFailed, []string{`site "prod" had no pod "web" in namespace shop`}, "history", "pod", "web", "-n", "shop")

	s.run(t, app.ExitOK, []string{"replicas: 1"}, "get", "apps/deployments", "web", "-n", "shop", "--at", at(0), "-o", "yaml")
	s.run(t, app.ExitOK, []string{"replicas: 3"}, "get", "Deployment", "web", "-n", "shop", "--at", at(1))
	s.run(t, app.ExitFailed, []string{"did not exist", "delete"}, "get", "deployment", "web", "-n", "shop")
	s.run(t, app.ExitOK, []string{"password: (masked)"}, "get", "secret", "login", "-n", "shop")
	s.run(t, app.ExitFailed, []string{"reaches back to"}, "get", "secret", "login", "-n", "shop", "--at", "1000h")
	s.run(t, app.ExitUsage, []string{"neither a time"}, "get", "secret", "login", "--at", "yesterday")

	s.run(t, app.ExitOK, []string{"- apps/deployments shop/web", `~ secrets shop/login by kubectl`, "2 objects differ"}, "diff", "--from", at(2), "--to", "now")
	s.run(t, exitNo, []string{"~ .spec.replicas: 1 -> 3", "1 object differs"}, "diff", "--from", at(0), "--to", at(1), "--exit-code")
	s.run(t, app.ExitOK, []string{"0 objects differ"}, "diff", "--from", at(1), "--to", at(1), "--exit-code")
	s.run(t, app.ExitUsage, nil, "diff")
}

func TestSnapshotCommands(t *testing.T) {
	s := tell(t)
	s.run(t, app.ExitOK, []string{"every moment since"}, "snapshot", "list")
	got := s.run(t, app.ExitOK, nil, "snapshot", "create", "-o", "json")
	var m pipeline.Manifest
	if err := json.Unmarshal([]byte(got.out), &m); err != nil || m.Total() != 1 || !m.Kept || m.Position != s.positions[4] {
		t.Fatalf("made %+v, %v", m, err)
	}
	s.run(t, app.ExitOK, []string{"2 objects as of"}, "snapshot", "create", "--at", s.positions[3].String())
	s.run(t, app.ExitOK, []string{m.Name, "KEPT"}, "snapshot", "list")
	s.run(t, app.ExitOK, []string{"ok      " + m.Name}, "snapshot", "verify")
	s.run(t, app.ExitOK, []string{"(masked)"}, "get", "secret", "login", "-n", "shop", "--at", m.Name)

	path := filepath.Join(t.TempDir(), "prod.drs")
	s.run(t, app.ExitOK, []string{path + ": 1 object as of"}, "snapshot", "export", m.Name, path)
	s.run(t, app.ExitFailed, []string{"no such snapshot"}, "snapshot", "export", "none", path+".none")
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(left) != 1 {
		t.Errorf("export leaves %v, %v", left, err)
	}
	s.run(t, app.ExitOK, []string{"deleted snapshot " + m.Name}, "snapshot", "delete", m.Name)
	s.run(t, app.ExitFailed, []string{"no such snapshot"}, "snapshot", "verify", m.Name)

	other := tell(t)
	other.run(t, app.ExitOK, []string{"snapshot " + m.Name + " of site prod: 1 object as of"}, "snapshot", "import", path, "--site", "prod")
	other.run(t, app.ExitFailed, []string{`is of site "prod"`}, "snapshot", "import", path, "--site", "elsewhere")

	if err := s.conn.Snapshots("prod", natslog.DefaultSnapshotOptions()).Put(t.Context(), m, bytes.NewReader([]byte("spoiled"))); err != nil {
		t.Fatal(err)
	}
	s.run(t, exitNo, []string{"DAMAGED " + m.Name, "1 of 1 snapshots are damaged"}, "snapshot", "verify", m.Name)
	if err := os.WriteFile(path, []byte("not one"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(t, app.ExitFailed, []string{"damaged"}, "snapshot", "import", path)
}
