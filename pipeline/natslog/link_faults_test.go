package natslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// slowLink is when a link has come back for certain: the servers look for each
// other every two seconds, and a copy asks for its consumer again with growing
// delay.
const slowLink = 2 * time.Minute

// throughProxy has the link of a pair, of site "a", go through a proxy.
func throughProxy(t testing.TB) (*linked, *proxy) {
	t.Helper()
	l := &linked{dstDir: t.TempDir(), srcDir: t.TempDir()}
	l.public, l.seed = testUser(t)
	l.port = freePort(t)
	l.startDestination(t, "a")
	p := newProxy(t, l.destination.LinkURL())
	l.url = p.url()
	l.startSource(t, "a")
	return l, p
}

// appendNumbered appends the events that belong at the next sequences.
func appendNumbered(t testing.TB, w *Writer, n int) pipeline.Position {
	t.Helper()
	for n > 0 {
		var batch []pipeline.Event
		for range min(n, 100) {
			batch = append(batch, numbered(w.last+uint64(len(batch))+1))
		}
		n -= len(batch)
		mustAppend(t, w, batch...)
	}
	return w.Position()
}

// wholeBodies compares bodies as they are. Byte by byte, seven megabytes take many seconds.
var wholeBodies = cmp.Comparer(bytes.Equal)

// sameCurrent compares what both ends know of every object.
func sameCurrent(t testing.TB, l *linked) {
	t.Helper()
	read := func(h *History) map[pipeline.Ref]pipeline.Event {
		all := map[pipeline.Ref]pipeline.Event{}
		for r, err := range h.Current(t.Context(), pipeline.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			all[r.Ref] = r.Event
		}
		return all
	}
	if diff := cmp.Diff(read(l.writing.History("a")), read(l.reading.History("a")), wholeBodies); diff != "" {
		t.Errorf("the current states differ (-source +destination):\n%s", diff)
	}
}

// TestLinkWindow copies far more than is on its way at once: the copy's
// acknowledgements pass.
func TestLinkWindow(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	last := appendNumbered(t, testWriter(t, l.writing, "a"), 9*linkWindow)
	start := time.Now()
	l.copied(t, last)
	t.Logf("%d records were copied within %s", last.Seq, time.Since(start))
	checkNumbered(t, l.reading, last.Seq)
	sameCurrent(t, l)
}

// TestLinkOfLateDestination appends before there is a destination at all.
func TestLinkOfLateDestination(t *testing.T) {
	t.Parallel()
	l := &linked{dstDir: t.TempDir(), srcDir: t.TempDir()}
	l.public, l.seed = testUser(t)
	l.port = freePort(t)
	l.url = fmt.Sprintf("nats://127.0.0.1:%d", l.port)
	l.startSource(t, "a")
	w := testWriter(t, l.writing, "a")
	last := appendNumbered(t, w, 300)
	if st, linked := l.source.Link(); !linked || st.Err == nil && !st.Heard.IsZero() {
		t.Errorf("link without a destination: %+v, %v", st, linked)
	}
	l.startDestination(t, "a")
	l.copied(t, last)
	checkNumbered(t, l.reading, last.Seq)
	eventually(t, "the source knows of its copy", func() bool {
		st, _ := l.source.Link()
		return st.Err == nil && st.Copied == last && time.Since(st.Heard) < time.Minute
	})
	st, err := l.reading.History("a").State(t.Context())
	if err != nil || st.Origin.Last != last || st.Origin.Heard.IsZero() {
		t.Errorf("state of the copy: %+v, %v", st, err)
	}
}

// TestLinkCut cuts the link for long while the source goes on.
func TestLinkCut(t *testing.T) {
	t.Parallel()
	l, p := throughProxy(t)
	w := testWriter(t, l.writing, "a")
	l.copied(t, appendNumbered(t, w, 100))
	sub, err := l.reading.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	p.down()
	appendNumbered(t, w, 3000)
	eventually(t, "the source notices", func() bool { st, _ := l.source.Link(); return errors.Is(st.Err, ErrUnreachable) })
	if _, err := w.NewEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := appendNumbered(t, w, 500)
	if got := readCurrent(t, l.reading.History("a"), pipeline.Query{HeadersOnly: true}); len(got) != 50 {
		t.Errorf("during the cut the destination knows of %d objects", len(got))
	}
	start := time.Now()
	p.up()
	for n := uint64(1); n <= 3100; n++ {
		if d, err := sub.Next(t.Context()); err != nil || d.Position.Seq != n || d.Version != numbered(n).Version {
			t.Fatalf("record %d: %s, %v", n, d.Position, err)
		}
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, pipeline.ErrEpochEnded) {
		t.Errorf("after the end of the epoch: %v", err)
	}
	l.copied(t, last)
	t.Logf("the copy was complete %s after the link came back", time.Since(start))
	checkNumbered(t, l.reading, last.Seq)
	sameCurrent(t, l)
}

// TestLinkFlaps breaks the link again and again.
func TestLinkFlaps(t *testing.T) {
	t.Parallel()
	l, p := throughProxy(t)
	w := testWriter(t, l.writing, "a")
	ctx, stop := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	storm.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		for ctx.Err() == nil {
			pause(ctx, time.Duration(random.IntN(2500))*time.Millisecond)
			p.cut()
		}
	})
	var last pipeline.Position
	for range 60 {
		last = appendNumbered(t, w, 100)
		pause(t.Context(), 150*time.Millisecond)
	}
	stop()
	storm.Wait()
	l.copied(t, last)
	checkNumbered(t, l.reading, last.Seq)
	sameCurrent(t, l)
}

// TestLinkEndsRestart restarts either server while records are on their way.
func TestLinkEndsRestart(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	var last pipeline.Position
	for round := range 4 {
		w := testWriter(t, l.writing, "a")
		last = appendNumbered(t, w, 500)
		if round%2 == 1 {
			l.stopSource(t)
			l.startSource(t, "a")
			continue
		}
		l.stopDestination(t)
		last = appendNumbered(t, w, 500)
		l.startDestination(t, "a")
	}
	l.copied(t, last)
	checkNumbered(t, l.reading, last.Seq)
	sameCurrent(t, l)
}

// TestLinkFallsBehindRetention has the source drop records that the copy lacks:
// the copy says so, and everything is written anew, tombstones too.
func TestLinkFallsBehindRetention(t *testing.T) {
	t.Parallel()
	l, p := throughProxy(t)
	w := testWriter(t, l.writing, "a")
	l.copied(t, mustAppend(t, w, put("a", "stays", 1), put("a", "goes", 2), put("a", "changes", 3)))
	p.down()
	mustAppend(t, w, pipelinetest.Delete(pipelinetest.ConfigMap("a", "goes"), 4), put("a", "changes", 5), put("a", "new", 6))
	before := mustAppend(t, w, put("a", "last", 7))
	trim(t, l.writing, "a", before.Seq)
	p.up()
	var err error
	for deadline := time.Now().Add(slowLink); err == nil; {
		if time.Now().After(deadline) {
			t.Fatal("nobody notices that records are missing")
		}
		_, err = w.Append(t.Context(), []pipeline.Event{put("a", "last", 8)})
		pause(t.Context(), 20*time.Millisecond)
	}
	if !errors.Is(err, pipeline.ErrFenced) || !errors.Is(err, ErrCopyBroken) {
		t.Fatalf("append while the copy lacks records: %v", err)
	}
	again := testWriter(t, l.writing, "a")
	if again.epoch == w.epoch {
		t.Fatalf("the next writer goes on in epoch %s", w.epoch)
	}
	// A collector writes everything that it sees into a new epoch.
	last := mustAppend(t, again, put("a", "stays", 1), put("a", "changes", 5), put("a", "new", 6), put("a", "last", 9))
	l.copied(t, last)
	sameCurrent(t, l)
	eventually(t, "the source knows that the copy is whole", func() bool { return again.lacking() == nil })
	mustAppend(t, testWriter(t, l.writing, "a"), put("a", "last", 10))
}

// TestCopyWithAHole makes a copy that lacks records in its middle, as one does
// whose source dropped them while it was on its way.
func TestCopyWithAHole(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	l.copied(t, appendNumbered(t, w, 20))
	sub, err := l.reading.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	for range 20 {
		if _, err := sub.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stream := siteOf("a").history(w.epoch)
	// What the source's retention does to a consumer that is behind.
	if _, err := l.writing.js.PauseConsumer(t.Context(), stream, siteOf("a").linkConsumer(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	appendNumbered(t, w, 20)
	trim(t, l.writing, "a", 31)
	if _, err := l.writing.js.ResumeConsumer(t.Context(), stream, siteOf("a").linkConsumer()); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, pipeline.ErrGap) {
		t.Errorf("follow over the hole: %v", err)
	}
	for _, err := range l.reading.History("a").Current(t.Context(), pipeline.Query{}) {
		if !errors.Is(err, pipeline.ErrGap) {
			t.Errorf("current of a copy with a hole: %v", err)
		}
	}
	eventually(t, "the source knows of the hole", func() bool { return w.lacking() != nil })
	again := testWriter(t, l.writing, "a")
	for n := range uint64(50) {
		mustAppend(t, again, numbered(n))
	}
	l.copied(t, again.Position())
	sameCurrent(t, l)
}

// TestLinkOfNewDestination gives a source, whose history no longer has its
// beginning, a destination that knows nothing.
func TestLinkOfNewDestination(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	last := appendNumbered(t, w, 100)
	l.copied(t, last)
	l.stopDestination(t)
	trim(t, l.writing, "a", 90)
	l.dstDir = t.TempDir()
	l.startDestination(t, "a")
	eventually(t, "the source learns that the copy needs a whole epoch", func() bool { return w.lacking() != nil })
	again := testWriter(t, l.writing, "a")
	for n := range uint64(50) {
		last = mustAppend(t, again, numbered(n))
	}
	l.copied(t, last)
	sameCurrent(t, l)
	// The copy begins in the middle of the site's life, and knows it.
	x, err := l.reading.Archive("a").Extent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := x.Epochs[0]
	if first.After.Epoch == "" || first.After.Epoch >= first.Epoch || x.Holds(pipeline.Position{}, x.Last()) {
		t.Errorf("the copy begins with epoch %s after %s, and claims to hold all that ever was", first.Epoch, first.After)
	}
	if !x.Holds(pipeline.Position{Epoch: first.Epoch}, x.Last()) && !x.Holds(first.After, x.Last()) {
		t.Errorf("the copy does not hold its own records: %+v", x)
	}
}

// TestLinkOfNewSource replaces the source's store: the destination keeps what it
// has, and takes up the new history.
func TestLinkOfNewSource(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	l.copied(t, mustAppend(t, w, put("a", "old", 1), put("a", "both", 2)))
	l.stopSource(t)
	l.srcDir = t.TempDir()
	l.startSource(t, "a")
	last := mustAppend(t, testWriter(t, l.writing, "a"), put("a", "both", 3), put("a", "new", 4))
	l.copied(t, last)
	want := map[string]string{"old": "1", "both": "3", "new": "4"}
	if diff := cmp.Diff(want, readCurrent(t, l.reading.History("a"), pipeline.Query{})); diff != "" {
		t.Errorf("current (-want +got):\n%s", diff)
	}
}

// TestLinkPermitsNothingElse tries from both ends what a link is not for.
func TestLinkPermitsNothingElse(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	last := appendNumbered(t, w, 10)
	l.copied(t, last)

	heard := make(chan string, 100)
	spy := func(c *nats.Conn, subject string) {
		t.Helper()
		if _, err := c.Subscribe(subject, func(m *nats.Msg) {
			if m.Header.Get("Test") != "" {
				heard <- m.Subject
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	spy(l.reading.nc, ">")
	spy(l.source.link.asker, ">")
	spy(l.writing.nc, ">")
	say := func(c *nats.Conn, subject string) {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Header.Set("Test", "1")
		if err := errors.Join(c.PublishMsg(m), c.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(who string, c *nats.Conn, subject string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if m, err := c.RequestWithContext(ctx, subject, nil); err == nil && !strings.Contains(string(m.Data), "not enabled for account") {
			t.Errorf("%s got an answer to %s: %s", who, subject, m.Data)
		}
	}
	stream := siteOf("a").history(w.epoch)
	for _, prefix := range []string{"$JS.API.", "$JS.source.API.", siteOf("a").linkAPI() + "."} {
		for _, subject := range []string{"STREAM.DELETE." + stream, "STREAM.NAMES", "CONSUMER.DELETE." + stream + "." + siteOf("a").linkConsumer()} {
			if prefix == "$JS.API." {
				continue // the destination's own
			}
			refused("the destination", l.reading.nc, prefix+subject)
		}
	}
	for _, subject := range []string{
		"$JS.API.STREAM.NAMES", "$JS.destination.API.STREAM.NAMES", siteOf("a").control() + "." + verbState,
		siteOf("b").control() + "." + verbLink, "$JS.API.DIRECT.GET." + stream + "." + siteOf("a").objects(),
	} {
		refused("the source", l.source.link.asker, subject)
	}
	// What is said at one end on subjects of the log is not heard at the other.
	say(l.reading.nc, pipelinetest.ConfigMap("a", "forged").Subject())
	say(l.source.link.asker, pipelinetest.ConfigMap("a", "forged").Subject())
	say(l.source.link.asker, siteOf("b").linkRecords("H_b"))
	say(l.source.link.asker, "hello")
	say(l.writing.nc, "hello")
	mustAppend(t, w, numbered(11)) // nobody fenced the writer
	l.copied(t, w.Position())
	checkNumbered(t, l.reading, 11)
	own := map[string]int{}
	for {
		select {
		case subject := <-heard:
			own[subject]++
			continue
		case <-time.After(200 * time.Millisecond):
		}
		break
	}
	// Each was heard by its own end's spy only.
	want := map[string]int{pipelinetest.ConfigMap("a", "forged").Subject(): 2, siteOf("b").linkRecords("H_b"): 1, "hello": 2}
	if diff := cmp.Diff(want, own); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
}

// TestLinkUserIsNoClient uses the key of a link for an ordinary connection, and
// the other way round.
func TestLinkUserIsNoClient(t *testing.T) {
	key, seed := testUser(t)
	other, otherSeed := testUser(t)
	s := testServer(t, listening, func(c *ServerConfig) {
		c.LeafHost, c.LeafPort = "127.0.0.1", -1
		c.Users = []User{{NKey: key, Site: "a", Leaf: true}, {NKey: other, Site: "a"}}
	})
	if _, err := Connect(t.Context(), ConnectConfig{URL: s.URL(), NKeySeedFile: seed}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("connect with the key of a link: %v", err)
	}
	source := testServer(t, func(c *ServerConfig) {
		c.Link = &Link{Site: "a", URL: s.LinkURL(), NKeySeedFile: otherSeed}
	})
	c := inProcess(t, source)
	mustAppend(t, testWriter(t, c, "a"), put("a", "x", 1))
	eventually(t, "the link fails", func() bool { st, _ := source.Link(); return st.Err != nil })
	if _, err := inProcess(t, s).History("a").State(t.Context()); !errors.Is(err, pipeline.ErrNoHistory) {
		t.Errorf("a link with the key of a collector: %v", err)
	}
}

// TestLinkRefusesAnOlderHistory links a source whose history is older than what
// the destination holds.
func TestLinkRefusesAnOlderHistory(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	l.copied(t, mustAppend(t, w, put("a", "x", 1)))
	newer := testOptions().history(siteOf("a"), nextEpoch(t, w.epoch))
	newer.Subjects = nil
	newer.Mirror = &jetstream.StreamSource{Name: "H_a_" + w.epoch, External: &jetstream.ExternalStream{APIPrefix: "nowhere.api"}}
	newer.AllowAtomicPublish = false
	if _, err := l.reading.js.CreateStream(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the source is told", func() bool { st, _ := l.source.Link(); return errors.Is(st.Err, ErrConflict) })
}
