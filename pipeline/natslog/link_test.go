package natslog

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// linked is the two ends of a link: the collector's server and the applier's.
type linked struct {
	source, destination          *Server
	writing, reading             *Conn
	url                          string
	seed, public, dstDir, srcDir string
}

// newLinked starts both servers for a site and joins them.
func newLinked(t testing.TB, siteName string) *linked {
	t.Helper()
	l := &linked{dstDir: t.TempDir(), srcDir: t.TempDir()}
	l.seed, l.public = seedFile(t)
	l.startDestination(t, siteName)
	l.url = l.destination.LinkURL()
	l.startSource(t, siteName)
	return l
}

func (l *linked) startDestination(t testing.TB, siteName string) {
	t.Helper()
	l.destination = testServer(t, func(c *ServerConfig) {
		c.StoreDir, c.ServerName = l.dstDir, "destination"
		c.LeafHost, c.LeafPort = "127.0.0.1", -1
		c.Users = []User{{NKey: l.public, Site: siteName, Leaf: true}}
	})
	l.reading = inProcess(t, l.destination)
}

func (l *linked) startSource(t testing.TB, siteName string) {
	t.Helper()
	l.source = testServer(t, func(c *ServerConfig) {
		c.StoreDir, c.ServerName = l.srcDir, "source"
		c.Link = &Link{Site: siteName, URL: l.url, NKeySeedFile: l.seed}
	})
	l.writing = inProcess(t, l.source)
}

// seedFile makes a user's key: a file with its seed, and its public half.
func seedFile(t testing.TB) (path, public string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(path, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, public
}

// copied waits until the destination has a position.
func (l *linked) copied(t testing.TB, siteName string, at pipeline.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		st, err := l.reading.History(siteName).State(ctx)
		if err == nil && st.Last == at {
			return
		}
		if pause(ctx, 5*time.Millisecond); ctx.Err() != nil {
			t.Fatalf("the copy is at %s (%v), not at %s", st.Last, err, at)
		}
	}
}

func TestLinkCopies(t *testing.T) {
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	start := time.Now()
	last := mustAppend(t, w, put("a", "x", 1), put("a", "y", 2))
	l.copied(t, "a", last)
	t.Logf("first record after %s", time.Since(start))
	sub, err := l.reading.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	for i := range 100 {
		start = time.Now()
		mustAppend(t, w, put("a", "x", 3+i))
		for {
			d, err := sub.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d.Position == w.Position() {
				break
			}
		}
		if i%20 == 0 {
			t.Logf("one record after %s", time.Since(start))
		}
	}
	_ = pipelinetest.Timeout
}
