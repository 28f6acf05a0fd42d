package natslog

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperStore); dir != "" {
		os.Exit(helperMain(dir))
	}
	// Most tests wait for servers that look for each other every so often, more than they compute: those
	// are parallel, and so few that the servers' own time limits hold. The flag -parallel says otherwise.
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m,
		// A stream that is about to source from another waits up to 30 s for the
		// answer, after the server has shut down too. It ends then, and touches nothing.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"),
		// Nor does one that mirrors, for up to 5 s.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).setupMirrorConsumer.func3"))
}

// testServer starts an embedded server in a directory of the test. It does not
// sync, so that tests are fast, unless set says otherwise.
func testServer(t testing.TB, set ...func(*ServerConfig)) *Server {
	t.Helper()
	cfg := DefaultServerConfig()
	cfg.StoreDir = t.TempDir()
	cfg.Host = "127.0.0.1"
	cfg.SyncAlways = false
	cfg.MinFree = 0
	cfg.MaxStore = 64 << 30
	cfg.Log = testLog(t)
	for _, f := range set {
		f(&cfg)
	}
	s, err := StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func listening(c *ServerConfig) { c.Port = -1 }

// testLog writes what goes wrong to the test's log while the test runs.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func testConn(t testing.TB, cfg ConnectConfig) *Conn {
	t.Helper()
	cfg.Log = testLog(t)
	cfg.Name = "test"
	c, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func inProcess(t testing.TB, s *Server) *Conn {
	t.Helper()
	return testConn(t, ConnectConfig{InProcess: s})
}

func testWriter(t testing.TB, c *Conn, site string) *Writer {
	t.Helper()
	w, err := c.Writer(t.Context(), site, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func testOptions() StreamOptions {
	o := DefaultStreamOptions()
	o.MaxBytes = 1 << 30
	return o
}

// harness presents a connection to the conformance suite.
func harness(c *Conn) pipelinetest.Harness {
	return pipelinetest.Harness{
		OpenWriter: func(t testing.TB, site string) pipeline.Writer { return testWriter(t, c, site) },
		History:    func(_ testing.TB, site string) pipeline.History { return c.History(site) },
		DeadLetters: func(t testing.TB, dest string) pipeline.DeadLetters {
			d, err := c.DeadLetters(t.Context(), dest, DefaultDeadLetterOptions())
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		Trim:    func(t testing.TB, site string, before uint64) { trim(t, c, site, before) },
		Archive: func(_ testing.TB, site string) pipeline.Archive { return c.Archive(site) },
		Snapshots: func(_ testing.TB, site string) pipeline.Snapshots {
			return c.Snapshots(site, SnapshotOptions{MaxBytes: 64 << 20})
		},
		PublishRaw: func(t testing.TB, _ string, m pipeline.Message) {
			t.Helper()
			msg := &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
			if _, err := c.request(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func testState(t testing.TB, c *Conn, siteName string) siteState {
	t.Helper()
	st, err := c.admin.state(t.Context(), siteOf(siteName))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// trim drops old records the way retention does: by a limit, and long after the
// current stream has taken them up.
func trim(t testing.TB, c *Conn, siteName string, before uint64) {
	t.Helper()
	newest, _ := testState(t, c, siteName).newest()
	eventually(t, "the current stream takes everything up", func() bool {
		return drained(testState(t, c, siteName), newest)
	})
	update(t, c, newest.Stream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = int64(newest.Last - before + 1) })
	update(t, c, newest.Stream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = -1 })
}

func update(t testing.TB, c *Conn, stream string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	st, err := c.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	change(&cfg)
	if _, err := c.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what has to come.
const patience = 90 * time.Second

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		pause(t.Context(), 5*time.Millisecond)
	}
}

// pause lets time pass, until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
