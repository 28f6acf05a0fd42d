package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// freeAddress returns one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// client asks the side port.
var client = &http.Client{Timeout: 10 * time.Second}

func get(ctx context.Context, t *testing.T, address, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestRun runs a program to its end by a signal, and looks at its side port while
// it starts and while it runs.
func TestRun(t *testing.T) {
	s := Settings{Name: "test", Log: slog.New(slog.DiscardHandler), Options: DefaultOptions(), Health: &Health{}}
	s.Options.Listen = freeAddress(t)
	s.Health.Ready("peer", func(context.Context) error { return errors.New("no route to it") })
	s.Health.Inform(func() []string { return []string{"link:\n fine"} })

	atStart := Unit{Name: "engine", Run: func(ctx context.Context, ready func()) error {
		code, body := get(ctx, t, s.Options.Listen, "/readyz")
		want := "[i] link: fine\n[-] peer: no route to it\n[-] started: waiting for the engine to start\n"
		if code != http.StatusServiceUnavailable || body != want {
			t.Errorf("while starting, /readyz answered %d %q, want 503 %q", code, body, want)
		}
		ready()
		<-ctx.Done()
		return nil
	}}
	running := Unit{Name: "probe", Run: func(ctx context.Context, ready func()) error {
		s.Health.Ready("peer", func(context.Context) error { return nil })
		ready()
		for _, tc := range []struct{ path, want string }{
			{"/healthz", "ok\n"},
			{"/metrics", "drsyncer_build_info{"},
			{"/debug/pprof/cmdline", "test"},
			{"/debug/pprof/", "goroutine"},
		} {
			if code, body := get(ctx, t, s.Options.Listen, tc.path); code != http.StatusOK || !strings.Contains(body, tc.want) {
				t.Errorf("%s answered %d %.200q, want 200 with %q", tc.path, code, body, tc.want)
			}
		}
		if code, _ := get(ctx, t, s.Options.Listen, "/nothing"); code != http.StatusNotFound {
			t.Errorf("an unknown path answered %d", code)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return nil
	}}
	if err := Run(t.Context(), s, atStart, running); err != nil {
		t.Errorf("Run ended with %v after a signal", err)
	}
	var d net.Dialer
	if c, err := d.DialContext(t.Context(), "tcp", s.Options.Listen); err == nil {
		t.Error("the side port is open after Run ended", c.Close())
	}
}

func TestRunRefusesBadOptions(t *testing.T) {
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	}()
	cases := map[string]struct {
		options Options
		want    string
	}{
		"Address":      {Options{Listen: "8080", LogFormat: "text", LogLevel: "info"}, "--listen"},
		"TakenAddress": {Options{Listen: taken.Addr().String(), LogFormat: "text", LogLevel: "info"}, "--listen"},
		"Format":       {Options{LogFormat: "xml", LogLevel: "info"}, `"xml" is not one of text, json`},
		"Level":        {Options{LogFormat: "text", LogLevel: "loud"}, `"loud" is not one of debug`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := Run(t.Context(), Settings{Name: "test", Log: slog.New(slog.DiscardHandler), Options: tc.options},
				Simple("never", func(context.Context) error { t.Error("a unit was started"); return nil }))
			if ExitCode(err) != ExitUsage || !strings.Contains(errText(err), tc.want) {
				t.Errorf("error %v (exit code %d), want usage error with %q", err, ExitCode(err), tc.want)
			}
		})
	}
}

func TestProfilesAreLocal(t *testing.T) {
	for from, want := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "10.0.0.9:1": 403, "garbage": 403} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/pprof/cmdline", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		routes(&Health{}, http.NotFoundHandler()).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("a caller from %s was answered %d, want %d", from, w.Code, want)
		}
	}
}

func TestExecute(t *testing.T) {
	cases := map[string]struct {
		reason string
		args   []string
		err    error
		code   int
		stderr string
	}{
		"OK":       {"nothing is said when all is well", nil, nil, ExitOK, ""},
		"Failure":  {"one line, whatever the error's text", nil, fmt.Errorf("first\n second: %w", errBoom), ExitFailed, "prog: first second: boom\n"},
		"Usage":    {"marked errors are told apart", nil, Usage(errBoom), ExitUsage, "prog: boom\n"},
		"BadFlag":  {"an unknown flag is a usage error", []string{"--nope"}, nil, ExitUsage, "prog: unknown flag: --nope (see prog --help)\n"},
		"Argument": {"so is an argument", []string{"x"}, nil, ExitUsage, "prog: unknown command \"x\" for \"prog\"\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := &cobra.Command{Use: "prog", Args: NoArgs, RunE: func(*cobra.Command, []string) error { return tc.err }}
			cmd.SetArgs(append([]string{}, tc.args...))
			var stderr bytes.Buffer
			code := Execute(t.Context(), cmd, &stderr)
			if diff := cmp.Diff(fmt.Sprint(tc.code, tc.stderr), fmt.Sprint(code, stderr.String())); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

func TestOptionFlags(t *testing.T) {
	o := DefaultOptions()
	cmd := &cobra.Command{Use: "prog"}
	o.RegisterFlags(cmd.Flags())
	if err := cmd.ParseFlags([]string{"--listen=:1", "--log-format=json", "--log-level=debug"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Options{Listen: ":1", LogFormat: "json", LogLevel: "debug"}, o); diff != "" {
		t.Errorf("options (-want +got)\n%s", diff)
	}
	if Version() == "" {
		t.Error("the version is empty")
	}
}
