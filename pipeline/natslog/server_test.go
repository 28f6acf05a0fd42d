package natslog

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestStoreLock(t *testing.T) {
	dir := t.TempDir()
	s := testServer(t, func(c *ServerConfig) { c.StoreDir = dir })
	cfg := DefaultServerConfig()
	cfg.StoreDir = dir
	second, err := StartServer(t.Context(), cfg)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second server on one store: %v", err)
	}
	if second != nil {
		t.Error("a server came with the error")
	}
	for range 2 {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.Healthz() == nil || s.URL() != "" {
		t.Error("healthy after shutdown")
	}
	testServer(t, func(c *ServerConfig) { c.StoreDir = dir })
}

func TestServerConfig(t *testing.T) {
	cases := map[string]struct {
		change func(*ServerConfig)
		want   string
	}{
		"no directory":     {func(c *ServerConfig) { c.StoreDir = "" }, "store directory"},
		"no name":          {func(c *ServerConfig) { c.ServerName = "" }, "server name"},
		"port":             {func(c *ServerConfig) { c.Port = 70000 }, "port 70000"},
		"payload":          {func(c *ServerConfig) { c.MaxPayload = 10 }, "64 KiB"},
		"half a key pair":  {func(c *ServerConfig) { c.TLSCertFile = "x" }, "key file"},
		"clients only":     {func(c *ServerConfig) { c.ClientCAFile = "x" }, "server's certificate"},
		"key of no user":   {func(c *ServerConfig) { c.Users = []User{{NKey: "SUAX", Site: "a"}} }, "starts with U"},
		"negative":         {func(c *ServerConfig) { c.MinFree = -1 }, "negative"},
		"certificate file": {func(c *ServerConfig) { c.TLSCertFile, c.TLSKeyFile = "/none", "/none" }, "certificate"},
		"directory":        {func(c *ServerConfig) { c.StoreDir = "/dev/null/x" }, "store directory"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultServerConfig()
			cfg.StoreDir = t.TempDir()
			tc.change(&cfg)
			if _, err := StartServer(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("start: %v, want it to mention %q", err, tc.want)
			}
		})
	}
}

func TestDiskGuard(t *testing.T) {
	var free, looks atomic.Int64
	free.Store(10 << 30)
	s := testServer(t, func(c *ServerConfig) {
		c.MinFree = 1 << 30
		c.probe = func(string) (diskSpace, error) {
			defer looks.Add(1)
			return diskSpace{free: free.Load(), total: 20 << 30}, nil
		}
	})
	c := inProcess(t, s)
	w := testWriter(t, c, "a")
	mustAppend(t, w, put("a", "x", 1))

	free.Store(1<<30 - 1)
	eventually(t, "the guard acts", func() bool { return s.Healthz() != nil })
	if err := s.Healthz(); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free space") {
		t.Errorf("health: %v", err)
	}
	start := time.Now()
	for _, events := range [][]pipeline.Event{{put("a", "x", 2)}, {put("a", "x", 2), put("a", "y", 3)}} {
		if _, err := w.Append(t.Context(), events); !errors.Is(err, ErrFull) {
			t.Errorf("append of %d without space: %v", len(events), err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the refusals took %s", took)
	}
	if got := readCurrent(t, c.History("a"), pipeline.Query{}); got["x"] != "1" {
		t.Errorf("current is %v", got)
	}

	free.Store(1<<30 + 1) // not enough to go on
	before := looks.Load()
	eventually(t, "the guard has looked twice", func() bool { return looks.Load() >= before+2 })
	if s.Healthz() == nil {
		t.Error("the guard gives in at its limit")
	}
	free.Store(2 << 30)
	eventually(t, "the guard gives in", func() bool { return s.Healthz() == nil })
	last := mustAppend(t, w, put("a", "x", 4), put("a", "y", 5))
	if last.Seq != 3 {
		t.Errorf("appended at %s", last)
	}
	eventually(t, "the current stream catches up", func() bool { return testState(t, c, "a").Through == last })
}

// TestWriteErrorHeals makes writing fail by the limit on the size of files, in a
// process of its own, since that counts for all its files.
func TestWriteErrorHeals(t *testing.T) {
	t.Parallel()
	const inside = "DRS_NATSLOG_LIMITED"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteErrorHeals$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(unix.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(unix.SIGXFSZ) })
	s := testServer(t)
	c := inProcess(t, s)
	w := testWriter(t, c, "a")
	body := incompressible(256 << 10)
	next := 0
	big := func() error {
		next++
		e := put("a", "x", next)
		e.Body, e.Digest = body, pipeline.DigestOf(body)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.Append(ctx, []pipeline.Event{e})
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	}
	stored := 0
	for range 20 {
		if big() != nil {
			break
		}
		stored++
	}
	restore()
	if stored == 20 {
		t.Fatal("writing never failed")
	}
	eventually(t, "the server is restarted and healthy", func() bool { return s.Healthz() == nil && c.Healthy() == nil })
	eventually(t, "appends work again", func() bool { return big() == nil })
	got := readCurrent(t, c.History("a"), pipeline.Query{})
	if len(got) != 1 {
		t.Errorf("current is %v", got)
	}
	st, err := c.History("a").State(t.Context())
	if err != nil || st.Last.Seq < uint64(stored)+1 {
		t.Errorf("%d were acknowledged before the failure, the history ends at %s, %v", stored, st.Last, err)
	}
}

func TestShutdownEndsConnections(t *testing.T) {
	s := testServer(t, listening)
	tcp, local := testConn(t, ConnectConfig{URL: s.URL()}), inProcess(t, s)
	mustAppend(t, testWriter(t, tcp, "a"), put("a", "x", 1))
	sub, err := local.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both notice", func() bool { return tcp.Healthy() != nil && local.Healthy() != nil })
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]*Conn{"tcp": tcp, "in process": local} {
		if _, err := c.History("a").State(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: state after shutdown: %v", name, err)
		}
	}
}

func TestStoreStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	s := testServer(t, func(c *ServerConfig) { c.StoreDir = dir })
	mustAppend(t, testWriter(t, inProcess(t, s), "a"), put("a", "x", 1))
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "H_a_*"))
	if err != nil || len(found) != 1 {
		t.Errorf("streams on disk: %v, %v", found, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		t.Error(err)
	}
}
