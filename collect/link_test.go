package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// embedded starts a server of the log, and a connection into it, that end with the test.
func embedded(t *testing.T, set func(*natslog.ServerConfig)) (*natslog.Server, *natslog.Conn) {
	t.Helper()
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.SyncAlways, cfg.MinFree, cfg.MaxStore = t.TempDir(), false, 0, 64<<30
	set(&cfg)
	server, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, conn
}

// runOn runs a collector of what is on a shelf until the test ends.
func runOn(t *testing.T, s *shelf, conn *natslog.Conn, opts natslog.StreamOptions) {
	t.Helper()
	config := Default()
	config.Heartbeat = Duration(100 * time.Millisecond)
	c, err := New(Settings{
		Site: testSite, Source: s, History: conn.History(testSite), Config: config, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) { return conn.Writer(ctx, testSite, opts) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// inCurrent are the versions of the objects that a log knows, by name, and its last heartbeat.
func inCurrent(t *testing.T, conn *natslog.Conn) (versions map[string]string, beat pipeline.Heartbeat, err error) {
	t.Helper()
	versions = map[string]string{}
	for r, err := range conn.History(testSite).Current(t.Context(), pipeline.Query{}) {
		switch {
		case err != nil:
			return versions, beat, err
		case r.Op == pipeline.OpHeartbeat:
			if beat, err = r.Heartbeat(); err != nil {
				t.Fatal(err)
			}
		case r.Op == pipeline.OpPut:
			versions[r.Ref.Name] = r.Version
		}
	}
	return versions, beat, nil
}

// TestLinkedLogNamesWhatDoesNotCross has an object whose body is larger than what crosses a link: it is named
// at both ends, everything else crosses, and once it is smaller it does too.
func TestLinkedLogNamesWhatDoesNotCross(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, seedErr := pair.Seed()
	public, keyErr := pair.PublicKey()
	seedFile := filepath.Join(t.TempDir(), "seed")
	if err := errors.Join(seedErr, keyErr, os.WriteFile(seedFile, seed, 0o600)); err != nil {
		t.Fatal(err)
	}
	server, there := embedded(t, func(c *natslog.ServerConfig) {
		c.LeafHost, c.LeafPort = "127.0.0.1", -1
		c.Users = []natslog.User{{NKey: public, Site: testSite, Leaf: true}}
	})
	_, here := embedded(t, func(c *natslog.ServerConfig) {
		c.Link = &natslog.Link{Site: testSite, URL: server.LinkURL(), NKeySeedFile: seedFile}
	})
	s := &shelf{version: 10, objects: map[string]kube.Object{}, noisy: true}
	for i := range 5 {
		s.put(fmt.Sprintf("small-%d", i), 1000)
	}
	s.put("big", 13<<20) // of which three quarters are left when it is compressed
	runOn(t, s, here, natslog.DefaultStreamOptions())
	waitUntil(t, "both ends have everything else, and name the one", func() string {
		want := maps.Clone(s.versions())
		delete(want, "big")
		for end, conn := range map[string]*natslog.Conn{"source": here, "destination": there} {
			got, beat, err := inCurrent(t, conn)
			if reason := beat.Failing["configmaps"]; err != nil || !strings.Contains(reason, "big") || !strings.Contains(reason, "too large") {
				return fmt.Sprintf("%s: failing %q, %v", end, reason, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				return end + ": " + diff
			}
		}
		return ""
	})
	s.put("small-5", 1000)
	s.put("big", 2000)
	waitUntil(t, "the destination has all of it", func() string {
		got, beat, err := inCurrent(t, there)
		if err != nil || len(beat.Failing) > 0 {
			return fmt.Sprintf("failing %v, %v", beat.Failing, err)
		}
		return cmp.Diff(s.versions(), got)
	})
}
