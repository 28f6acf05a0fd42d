package natslog

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// cluster is a NATS cluster of servers that know nothing of us.
type cluster struct {
	t       testing.TB
	options []natsserver.Options
	servers []*natsserver.Server
}

func newCluster(t testing.TB, size int) *cluster {
	t.Helper()
	c := &cluster{t: t, servers: make([]*natsserver.Server, size)}
	var routes []*url.URL
	for range c.servers {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", freePort(t))})
	}
	for i := range c.servers {
		o := natsserver.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: freePort(t), NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30,
		}
		port := routes[i].Port()
		if _, err := fmt.Sscan(port, &o.Cluster.Port); err != nil {
			t.Fatal(err)
		}
		o.Cluster.Name, o.Cluster.Host = "test", "127.0.0.1"
		o.Routes = routes
		c.options = append(c.options, o)
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	eventually(t, "the cluster has a leader and all its members", func() bool {
		return slices.ContainsFunc(c.servers, func(s *natsserver.Server) bool {
			return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(c.servers)
		})
	})
	return c
}

// start starts one server, on the same ports each time.
func (c *cluster) start(i int) {
	c.t.Helper()
	opts := c.options[i]
	s, err := natsserver.NewServer(&opts)
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = s
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		c.t.Fatal("the server is not ready")
	}
}

func (c *cluster) stop(i int) {
	if s := c.servers[i]; s != nil {
		halt(s)
		c.servers[i] = nil
	}
}

// url names all servers.
func (c *cluster) url() string {
	var urls []string
	for i := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", c.options[i].Port))
	}
	return strings.Join(urls, ",")
}

// leader is the server that leads a stream, or -1 while there is none.
func (c *cluster) leader(conn *Conn, stream string) int {
	info, err := conn.js.Stream(c.t.Context(), stream)
	if err != nil || info.CachedInfo().Cluster == nil {
		return -1
	}
	for i := range c.options {
		if c.options[i].ServerName == info.CachedInfo().Cluster.Leader && c.servers[i] != nil {
			return i
		}
	}
	return -1
}

// TestConformanceCluster runs on three servers, each record on all of them.
func TestConformanceCluster(t *testing.T) {
	c := newCluster(t, 3)
	urls := c.url()
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		conn := testConn(t, ConnectConfig{URL: urls})
		c.clear(conn)
		return harness(conn)
	})
}

// TestReplicas makes the streams of a log on servers of every kind: without a
// wish three hold each of them where there are three, and a wish is obeyed.
func TestReplicas(t *testing.T) {
	c := newCluster(t, 3)
	conn := testConn(t, ConnectConfig{URL: c.url()})
	made := func(conn *Conn, name string) int {
		t.Helper()
		s, err := conn.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config.Replicas
	}
	open := func(site string, replicas int) string {
		t.Helper()
		o := testOptions()
		o.Replicas = replicas
		w, err := conn.Writer(t.Context(), site, o)
		if err != nil {
			t.Fatal(err)
		}
		return siteOf(site).history(w.epoch)
	}
	if n := made(conn, open("single", 1)); n != 1 {
		t.Errorf("%d replicas, one was wanted", n)
	}
	history := open("a", 0)
	if _, err := conn.DeadLetters(t.Context(), "dr", DefaultDeadLetterOptions()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{history, siteOf("a").current(), siteOf("a").claims(), "DLQ_dr"} {
		if n := made(conn, name); n != 3 {
			t.Errorf("stream %s has %d replicas", name, n)
		}
	}
	alone := testConn(t, ConnectConfig{URL: externalServer(t)})
	w := testWriter(t, alone, "a")
	if n := made(alone, siteOf("a").history(w.epoch)); n != 1 {
		t.Errorf("%d replicas on one server", n)
	}
	pair := testConn(t, ConnectConfig{URL: newCluster(t, 2).url()})
	w = testWriter(t, pair, "a")
	if n := made(pair, siteOf("a").history(w.epoch)); n != 1 {
		t.Errorf("%d replicas on two servers", n)
	}
}

// TestReplicasAreRaised opens a log that one server of three holds, for more: the other two come to hold
// all of it, what was stored before too, and any of them may be lost.
func TestReplicasAreRaised(t *testing.T) {
	c := newCluster(t, 3)
	conn := testConn(t, ConnectConfig{URL: c.url()})
	alone := testOptions()
	alone.Replicas = 1
	w, err := conn.Writer(t.Context(), "a", alone)
	if err != nil {
		t.Fatal(err)
	}
	first := siteOf("a").history(w.epoch)
	mustAppend(t, w, put("a", "old", 1), put("a", "both", 2))
	if _, err := w.NewEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, w, put("a", "both", 3), put("a", "new", 4))
	letters := DefaultDeadLetterOptions()
	letters.Replicas = 1
	if _, err := conn.DeadLetters(t.Context(), "dr", letters); err != nil {
		t.Fatal(err)
	}
	few := SnapshotOptions{MaxBytes: 64 << 20, Replicas: 1}
	snapshot := pipeline.Manifest{Name: "first", Site: "a", Moment: pipeline.Moment{Position: w.Position()}}
	if err := conn.Snapshots("a", few).Put(t.Context(), snapshot, strings.NewReader("1")); err != nil {
		t.Fatal(err)
	}
	names := []string{snapshotStream, first, siteOf("a").history(w.epoch), siteOf("a").current(), siteOf("a").claims(), "DLQ_dr"}
	held := func() map[string]int {
		by := map[string]int{}
		for _, name := range names {
			s, err := conn.js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			by[name] = s.CachedInfo().Config.Replicas
		}
		return by
	}
	want := map[string]int{}
	for _, name := range names {
		want[name] = 1
	}
	if diff := cmp.Diff(want, held()); diff != "" {
		t.Fatalf("replicas as they are made (-want +got):\n%s", diff)
	}

	w = testWriter(t, conn, "a")
	if _, err := conn.DeadLetters(t.Context(), "dr", DefaultDeadLetterOptions()); err != nil {
		t.Fatal(err)
	}
	few.Replicas = 0
	snapshot.Name = "second"
	if err := conn.Snapshots("a", few).Put(t.Context(), snapshot, strings.NewReader("2")); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		want[name] = 3
	}
	if diff := cmp.Diff(want, held()); diff != "" {
		t.Fatalf("replicas after another opening (-want +got):\n%s", diff)
	}
	mustAppend(t, w, put("a", "later", 5))
	for _, name := range names {
		caughtUp(t, conn, name)
	}
	leader := -1
	eventually(t, "the current state has a leader", func() bool { leader = c.leader(conn, siteOf("a").current()); return leader >= 0 })
	c.stop(leader)
	state := map[string]string{"old": "1", "both": "3", "new": "4", "later": "5"}
	eventually(t, "without that server everything is there", func() bool {
		got := map[string]string{}
		for r, err := range conn.History("a").Current(t.Context(), pipeline.Query{}) {
			if err != nil {
				return false
			}
			got[r.Ref.Name] = r.Version
		}
		return cmp.Equal(state, got)
	})
}

// TestReplicasStayWhereTheyMust opens logs that no more servers can hold: they go on as they are.
func TestReplicasStayWhereTheyMust(t *testing.T) {
	made := func(conn *Conn) int {
		t.Helper()
		for range 2 {
			mustAppend(t, testWriter(t, conn, "a"), put("a", "x", 1))
		}
		s, err := conn.js.Stream(t.Context(), siteOf("a").current())
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config.Replicas
	}
	if n := made(testConn(t, ConnectConfig{URL: newCluster(t, 2).url()})); n != 1 {
		t.Errorf("%d replicas on two servers", n)
	}
	// A current state of before, whose server need not sync what it is derived from.
	conn := testConn(t, ConnectConfig{URL: newCluster(t, 3).url()})
	lone := testOptions()
	lone.Replicas = 1
	cfg := lone.current(siteOf("a"))
	cfg.PersistMode = jetstream.AsyncPersistMode
	if _, err := conn.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if n := made(conn); n != 1 {
		t.Errorf("%d replicas of a stream that cannot have them", n)
	}
}

// clear makes the log empty again, on every server: one that still deletes a stream
// refuses another of its name.
func (c *cluster) clear(conn *Conn) {
	c.t.Helper()
	lister := conn.js.StreamNames(c.t.Context())
	for name := range lister.Name() {
		if err := conn.js.DeleteStream(c.t.Context(), name); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := lister.Err(); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "every server has deleted the streams", func() bool {
		for _, o := range c.options {
			left, err := filepath.Glob(filepath.Join(o.StoreDir, "jetstream", "$G", "streams", "*"))
			if err != nil || len(left) > 0 {
				return false
			}
		}
		return true
	})
}

// TestClusterLosesItsLeader stops the leader of the history again and again amid
// appends: what was acknowledged is there, once and in order, the writer is not
// fenced by that, and another writer still fences it.
func TestClusterLosesItsLeader(t *testing.T) {
	c := newCluster(t, 3)
	conn := testConn(t, ConnectConfig{URL: c.url()})
	w, err := conn.Writer(t.Context(), "a", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	sub, err := conn.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	const total = 900
	var follower sync.WaitGroup
	follower.Go(func() {
		for n := uint64(1); n <= total; {
			d, err := sub.Next(t.Context())
			if err != nil || d.Position.Seq > n {
				t.Errorf("record %d: %s, %v", n, d.Position, err)
				return
			}
			if d.Position.Seq == n {
				n++
			}
			if d.Settler != nil {
				_ = d.Settler.Ack() // its server may be gone
			}
		}
	})
	stream, changes := siteOf("a").history(w.epoch), 0
	down := -1
	for n := uint64(0); n < total; {
		var batch []pipeline.Event
		for range min(1+n%11, total-n) {
			n++
			batch = append(batch, numbered(n))
		}
		if got := appendUntilDone(t, w, 2*time.Second, batch); got.Seq != n {
			t.Fatalf("ended at %s, want %d", got, n)
		}
		if n/250 > uint64(changes) {
			if down >= 0 {
				c.start(down)
				caughtUp(t, conn, stream)
			}
			leader := -1
			eventually(t, "the history has a leader", func() bool { leader = c.leader(conn, stream); return leader >= 0 })
			c.stop(leader)
			down = leader
			changes++
		}
	}
	follower.Wait()
	c.start(down)
	caughtUp(t, conn, stream)
	if changes != 3 {
		t.Errorf("the leader changed %d times", changes)
	}
	checkNumbered(t, conn, total)

	second, err := conn.Writer(t.Context(), "a", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	appendUntilDone(t, second, 2*time.Second, []pipeline.Event{numbered(total + 1)})
	leader := -1
	eventually(t, "the history has a leader", func() bool { leader = c.leader(conn, stream); return leader >= 0 })
	c.stop(leader)
	eventually(t, "the first writer is told that it is fenced", func() bool {
		_, err := w.Append(t.Context(), []pipeline.Event{numbered(total + 1)})
		if err == nil {
			t.Fatal("two writers appended")
		}
		return errors.Is(err, pipeline.ErrFenced)
	})
	appendUntilDone(t, second, 2*time.Second, []pipeline.Event{numbered(total + 2)})
	checkNumbered(t, conn, total+2)
}

// caughtUp waits until every server has everything of a stream.
func caughtUp(t testing.TB, c *Conn, stream string) {
	t.Helper()
	eventually(t, "every server has everything", func() bool {
		s, err := c.js.Stream(t.Context(), stream)
		if err != nil || s.CachedInfo().Cluster == nil || len(s.CachedInfo().Cluster.Replicas) != 2 {
			return false
		}
		for _, r := range s.CachedInfo().Cluster.Replicas {
			if !r.Current || r.Offline {
				return false
			}
		}
		return true
	})
}
