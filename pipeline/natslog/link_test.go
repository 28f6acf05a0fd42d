package natslog

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// linked is the two ends of a link: the collector's server and the applier's.
type linked struct {
	source, destination          *Server
	writing, reading             *Conn
	url                          string
	port                         int // where the destination takes links
	seed, public, dstDir, srcDir string
}

// newLinked starts both servers for a site and joins them.
func newLinked(t testing.TB, siteName string) *linked {
	t.Helper()
	l := &linked{dstDir: t.TempDir(), srcDir: t.TempDir()}
	l.public, l.seed = testUser(t)
	l.port = freePort(t)
	l.startDestination(t, siteName)
	l.url = l.destination.LinkURL()
	l.startSource(t, siteName)
	return l
}

func (l *linked) startDestination(t testing.TB, siteName string) {
	t.Helper()
	l.destination = testServer(t, func(c *ServerConfig) {
		c.StoreDir, c.ServerName = l.dstDir, "destination"
		c.LeafHost, c.LeafPort = "127.0.0.1", l.port
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

func (l *linked) stopDestination(t testing.TB) { stop(t, l.reading, l.destination) }
func (l *linked) stopSource(t testing.TB)      { stop(t, l.writing, l.source) }

func stop(t testing.TB, c *Conn, s *Server) {
	t.Helper()
	if err := errors.Join(c.Close(), s.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// freePort is a port where nobody listens. It is below those of outgoing connections, so that it
// can be listened on again after a restart.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 15000 + rand.IntN(17000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// copied waits until the copy of site "a" has come to a position.
func (l *linked) copied(t testing.TB, at pipeline.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slowLink)
	defer cancel()
	for {
		st, err := l.reading.History("a").State(ctx)
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
	l.copied(t, last)
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
}

// TestLinkTakesNoLargerBodies appends a body that would not cross: it is refused
// for good, and nothing else is.
func TestLinkTakesNoLargerBodies(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	big := pipelinetest.PutBody(pipelinetest.ConfigMap("a", "big"), 2, incompressible(9<<20))
	_, err := w.Append(t.Context(), []pipeline.Event{put("a", "small", 1), big})
	if !errors.Is(err, pipeline.ErrTooLarge) || !strings.Contains(err.Error(), "link") {
		t.Fatalf("append: %v", err)
	}
	last := mustAppend(t, w, put("a", "small", 1), pipelinetest.PutBody(pipelinetest.ConfigMap("a", "fits"), 3, incompressible(7<<20)))
	if last.Seq != 2 {
		t.Errorf("the others end at %s", last)
	}
	l.copied(t, last)
	sameCurrent(t, l)
	// The log of another site beside it is not linked.
	mustAppend(t, testWriter(t, l.writing, "b"), pipelinetest.PutBody(pipelinetest.ConfigMap("b", "big"), 1, incompressible(9<<20)))
}
