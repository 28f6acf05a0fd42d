package natslog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// proxy stands between client and server and misbehaves on demand.
type proxy struct {
	t        testing.TB
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	mute   bool // what the server says is swallowed
	refuse bool // new connections are closed at once
	closed bool
}

func newProxy(t testing.TB, url string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: strings.TrimPrefix(url, "nats://"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.refusing() {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		if !p.add(client, server) {
			return
		}
		p.wg.Go(func() { p.pipe(server, client, func() bool { return false }) })
		p.wg.Go(func() { p.pipe(client, server, p.muted) })
	}
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			_ = c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.closed
}

func (p *proxy) muted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mute
}

func (p *proxy) pipe(to io.WriteCloser, from io.ReadCloser, swallow func() bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !swallow() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// setMute swallows the server's answers from now on, or no longer.
func (p *proxy) setMute(mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = mute
}

func (p *proxy) refusing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuse
}

// down breaks all connections and lets no new one through, until up.
func (p *proxy) down() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// appendUntilDone repeats an append until its outcome is known, as a collector does.
func appendUntilDone(t testing.TB, w *Writer, patience time.Duration, events []pipeline.Event) pipeline.Position {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		p, err := w.Append(ctx, events)
		cancel()
		switch {
		case err == nil:
			return p
		case errors.Is(err, pipeline.ErrFenced), time.Now().After(deadline):
			t.Fatalf("append: %v", err)
		}
		pause(t.Context(), time.Millisecond)
	}
}

// TestAnswerLost loses the answer to an append that was stored: repeating it
// finds it, and does not store it again.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]uint64{"one": 1, "batch": 9} {
		t.Run(name, func(t *testing.T) {
			s := testServer(t, listening)
			p := newProxy(t, s.URL())
			w := testWriter(t, testConn(t, ConnectConfig{URL: p.url()}), "a")
			direct := inProcess(t, s)
			var events []pipeline.Event
			for n := range size {
				events = append(events, numbered(n+2))
			}
			mustAppend(t, w, numbered(1))
			p.setMute(true)
			if size == 1 { // a batch waits for its first answer and then sends the rest
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				_, err := w.Append(ctx, events)
				cancel()
				if err == nil || errors.Is(err, pipeline.ErrFenced) {
					t.Fatalf("append without an answer: %v", err)
				}
				eventually(t, "it is stored", func() bool {
					newest, _ := testState(t, direct, "a").newest()
					return newest.Last == 2
				})
			}
			p.cut()
			p.setMute(false)
			if got := appendUntilDone(t, w, time.Second, events); got.Seq != size+1 {
				t.Errorf("ended at %s", got)
			}
			mustAppend(t, w, numbered(size+2))
			checkNumbered(t, direct, size+2)
		})
	}
}

// TestAnswerLostAndGivenUp appends something else after an append whose answer
// was lost.
func TestAnswerLostAndGivenUp(t *testing.T) {
	t.Parallel()
	s := testServer(t, listening)
	p := newProxy(t, s.URL())
	w := testWriter(t, testConn(t, ConnectConfig{URL: p.url()}), "a")
	direct := inProcess(t, s)
	p.setMute(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	_, err := w.Append(ctx, []pipeline.Event{numbered(1)})
	cancel()
	if err == nil {
		t.Fatal("no error")
	}
	eventually(t, "it is stored", func() bool {
		newest, _ := testState(t, direct, "a").newest()
		return newest.Last == 1
	})
	p.cut()
	p.setMute(false)
	if got := appendUntilDone(t, w, time.Second, []pipeline.Event{numbered(2), numbered(3)}); got.Seq != 3 {
		t.Errorf("ended at %s", got)
	}
	checkNumbered(t, direct, 3)
}

// TestStormyConnection appends while connections break and answers get lost at
// random: every event is there once and in order, and a follower on an equally
// bad connection sees the same.
func TestStormyConnection(t *testing.T) {
	const total = 600
	s := testServer(t, listening)
	p := newProxy(t, s.URL())
	bad := testConn(t, ConnectConfig{URL: p.url()})
	w := testWriter(t, bad, "a")
	sub, err := bad.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	ctx, stop := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	storm.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		for ctx.Err() == nil {
			pause(ctx, time.Duration(random.IntN(60))*time.Millisecond)
			if random.IntN(2) == 0 {
				p.setMute(true)
				pause(ctx, time.Duration(random.IntN(20))*time.Millisecond)
			}
			p.cut()
			p.setMute(false)
			pause(ctx, time.Duration(200+random.IntN(300))*time.Millisecond)
		}
	})
	var follower sync.WaitGroup
	follower.Go(func() {
		for n := uint64(1); n <= total; {
			d, err := sub.Next(t.Context())
			if err != nil {
				t.Errorf("follow: %v", err)
				return
			}
			switch {
			case d.Position.Seq == n:
				n++
			case d.Position.Seq > n:
				t.Errorf("record %d instead of %d", d.Position.Seq, n)
				return
			}
			if d.Settler != nil {
				_ = d.Settler.Ack() // the connection may be down
			}
		}
	})
	for n := uint64(0); n < total; {
		var batch []pipeline.Event
		for range min(1+n%11, total-n) {
			n++
			batch = append(batch, numbered(n))
		}
		if got := appendUntilDone(t, w, 300*time.Millisecond, batch); got.Seq != n {
			t.Fatalf("ended at %s, want %d", got, n)
		}
		pause(t.Context(), 5*time.Millisecond) // so that the storm has something to hit
	}
	stop()
	storm.Wait()
	follower.Wait()
	checkNumbered(t, inProcess(t, s), total)
}

// TestRestartedServer restarts the server under writer, reader and follower.
func TestRestartedServer(t *testing.T) {
	t.Parallel()
	s := testServer(t, listening)
	conns := map[string]*Conn{"in process": inProcess(t, s), "tcp": testConn(t, ConnectConfig{URL: s.URL()})}
	w := testWriter(t, conns["tcp"], "a")
	subs := map[string]pipeline.Subscription{}
	for name, c := range conns {
		sub, err := c.History("a").Follow(t.Context(), name, pipeline.Position{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Close() }()
		subs[name] = sub
	}
	next := uint64(1)
	for range 3 {
		for range 10 {
			appendUntilDone(t, w, time.Second, []pipeline.Event{numbered(next)})
			for name, sub := range subs {
				d, err := sub.Next(t.Context())
				if err != nil || d.Position.Seq != next {
					t.Fatalf("%s: record %s instead of %d, %v", name, d.Position, next, err)
				}
			}
			next++
		}
		halt(s.inner)
		if err := s.start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the connection stands again", func() bool {
		st, err := conns["in process"].History("a").State(t.Context())
		return err == nil && st.Last.Seq == next-1
	})
	checkNumbered(t, conns["in process"], next-1)
}

// TestHole takes records out of a history, which only a stream that is not one
// of ours permits, and damage.
func TestHole(t *testing.T) {
	c := inProcess(t, testServer(t))
	s := siteOf("a")
	epoch := nextEpoch(t, "")
	cfg := testOptions().history(s, epoch)
	cfg.DenyDelete = false
	stream, err := c.js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &Writer{conn: c, site: s, opts: testOptions(), epoch: epoch, name: "test"}
	for n := range uint64(10) {
		mustAppend(t, w, numbered(n+1))
	}
	for _, seq := range []uint64{5, 6} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	for n := range uint64(4) {
		if d, err := sub.Next(t.Context()); err != nil || d.Position.Seq != n+1 {
			t.Fatalf("record %s, %v", d.Position, err)
		}
	}
	for range 2 {
		if _, err := sub.Next(t.Context()); !errors.Is(err, pipeline.ErrGap) || !strings.Contains(err.Error(), "5 to 6") {
			t.Errorf("after the hole: %v", err)
		}
	}
	sub, err = c.History("a").Follow(t.Context(), "reader", pipeline.Position{Epoch: epoch, Seq: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	if d, err := sub.Next(t.Context()); err != nil || d.Position.Seq != 7 {
		t.Errorf("behind the hole: %s, %v", d.Position, err)
	}
}

// TestDamagedBlock flips a bit of the stored history: the server is silent about
// it, a follower is not, and the current state has lost nothing.
func TestDamagedBlock(t *testing.T) {
	t.Parallel()
	for _, where := range []struct {
		name string
		find func(block []byte) int
	}{
		{"head of a record", func(block []byte) int { return len(block) / 2 }},
		{"body of a record", func(block []byte) int { return bytes.LastIndex(block, []byte(`"version":"5"`)) + len(`"version":"`) }},
	} {
		t.Run(where.name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(cfg *ServerConfig) { cfg.StoreDir = dir }
			s := testServer(t, at)
			c := inProcess(t, s)
			w := testWriter(t, c, "a")
			for n := range uint64(10) {
				mustAppend(t, w, numbered(n+1))
			}
			last := w.Position()
			eventually(t, "the current stream takes it up", func() bool { return testState(t, c, "a").Through == last })
			if err := errors.Join(c.Close(), s.Shutdown(t.Context())); err != nil {
				t.Fatal(err)
			}
			blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "H_a_*", "msgs", "1.blk"))
			if err != nil || len(blocks) != 1 {
				t.Fatalf("blocks %v, %v", blocks, err)
			}
			data, err := os.ReadFile(blocks[0])
			if err != nil {
				t.Fatal(err)
			}
			data[where.find(data)] ^= 1
			if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
				t.Fatal(err)
			}

			c = inProcess(t, testServer(t, at))
			if err := followToTheEnd(t, c, 10); !errors.Is(err, pipeline.ErrGap) {
				t.Errorf("follow over the damage: %v", err)
			}
			w = testWriter(t, c, "a")
			if w.Position().Compare(last) < 0 {
				t.Errorf("goes on at %s after %s", w.Position(), last)
			}
			if got := readCurrent(t, c.History("a"), pipeline.Query{}); len(got) != 10 {
				t.Errorf("current is %v", got)
			}
			next := mustAppend(t, w, numbered(1))
			sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{Epoch: next.Epoch, Seq: next.Seq - 1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Close() }()
			if d, err := sub.Next(t.Context()); err != nil || d.Position != next {
				t.Errorf("following goes on at %s, %v", d.Position, err)
			}
		})
	}
}

// followToTheEnd follows from the beginning and returns the error that ends it,
// or nil when it came to sequence n.
func followToTheEnd(t testing.TB, c *Conn, n uint64) error {
	t.Helper()
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	for {
		d, err := sub.Next(t.Context())
		if err != nil || d.Position.Seq >= n {
			return err
		}
	}
}

// TestHistoryGoesBack loses the end of a history that only the writer knows of:
// the sequences are not given out again.
func TestHistoryGoesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := freePort(t)
	at := func(cfg *ServerConfig) { cfg.StoreDir, cfg.Port = dir, port }
	s := testServer(t, at)
	c := testConn(t, ConnectConfig{URL: s.URL()})
	w := testWriter(t, c, "a")
	mustAppend(t, w, numbered(1))
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	// The store is copied, goes on, and is replaced by its copy.
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	older := t.TempDir()
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = testServer(t, at)
	last := appendUntilDone(t, w, time.Second, []pipeline.Event{numbered(2), numbered(3)})
	for n := range last.Seq {
		if d, err := sub.Next(t.Context()); err != nil || d.Position.Seq != n+1 {
			t.Fatalf("record %s, %v", d.Position, err)
		}
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	testServer(t, func(cfg *ServerConfig) { cfg.StoreDir, cfg.Port = older, port })

	if _, err := sub.Next(t.Context()); !errors.Is(err, pipeline.ErrGap) {
		t.Errorf("following what is gone: %v", err)
	}
	eventually(t, "the connection stands again", func() bool { return c.Healthy() == nil })
	if _, err := w.Append(t.Context(), []pipeline.Event{numbered(4)}); !errors.Is(err, pipeline.ErrFenced) || !strings.Contains(err.Error(), "lost") {
		t.Errorf("append: %v", err)
	}
	if next := testWriter(t, c, "a").Position(); next.Compare(last) <= 0 {
		t.Errorf("goes on at %s after %s", next, last)
	}
}

// TestCurrentBehind fills the current stream up, so that it takes up no more of
// the history: Current is as new as ever, over a change of the epoch too.
func TestCurrentBehind(t *testing.T) {
	t.Parallel()
	c := inProcess(t, testServer(t))
	opts := testOptions()
	opts.CurrentMaxBytes = 1 << 20
	w, err := c.Writer(t.Context(), "a", opts)
	if err != nil {
		t.Fatal(err)
	}
	noise := incompressible(80 << 10)
	fill := func(version, count int) {
		for i := range count {
			e := put("a", "object-"+strconv.Itoa(i), version)
			e.Body = noise[i<<10 : (i+40)<<10]
			e.Digest = pipeline.DigestOf(e.Body)
			mustAppend(t, w, e)
		}
	}
	want := map[string]string{}
	check := func(when string, version, count int) {
		t.Helper()
		for i := range count {
			want["object-"+strconv.Itoa(i)] = strconv.Itoa(version)
		}
		kind := put("a", "x", 1).Ref.GroupResource()
		for name, q := range map[string]pipeline.Query{"all": {}, "kind": {Kind: &kind}, "headers": {HeadersOnly: true}} {
			if diff := cmp.Diff(want, readCurrent(t, c.History("a"), q)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", when, name, diff)
			}
		}
	}
	fill(1, 20)
	check("filled", 1, 20)
	fill(2, 40)
	check("over the limit", 2, 40)
	old := w.Position()
	if _, err := w.NewEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("in a new epoch", 2, 0)
	fill(3, 30)
	check("filled in a new epoch", 3, 30)
	if st := testState(t, c, "a"); st.Sourced != old.Epoch || st.Through.Compare(old) >= 0 {
		t.Errorf("the current stream is at %s and sources %v", st.Through, st.Sourced)
	}
	// Opening raises the limit, and then everything is taken up in order.
	eventually(t, "the current stream catches up over the epochs", func() bool {
		w = testWriter(t, c, "a")
		return testState(t, c, "a").Through == w.Position()
	})
	check("after catching up", 3, 0)
}

// TestHistoryDestroyed deletes the streams under a writer and a follower, and
// begins anew.
func TestHistoryDestroyed(t *testing.T) {
	c := inProcess(t, testServer(t))
	w := testWriter(t, c, "a")
	last := mustAppend(t, w, numbered(1))
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	if _, err := sub.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name := range streams(t, c) {
		if err := c.js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	w2 := testWriter(t, c, "a")
	if w2.Position().Compare(last) <= 0 {
		t.Errorf("the new history begins at %s, the old one ended at %s", w2.Position(), last)
	}
	mustAppend(t, w2, numbered(1))
	if _, err := w.Append(t.Context(), []pipeline.Event{numbered(2)}); !errors.Is(err, pipeline.ErrFenced) {
		t.Errorf("append to the old history: %v", err)
	}
	// It has looked for its epoch before there was the new one, or after.
	if _, err := sub.Next(t.Context()); !errors.Is(err, pipeline.ErrEpochEnded) && !errors.Is(err, pipeline.ErrNoHistory) {
		t.Errorf("following the old history: %v", err)
	}
}

// TestInterruptedNewEpoch finds a history that was closed without a successor.
func TestInterruptedNewEpoch(t *testing.T) {
	c := inProcess(t, testServer(t))
	w := testWriter(t, c, "a")
	last := mustAppend(t, w, numbered(1))
	if err := (&local{conn: c}).closeHistory(t.Context(), siteOf("a"), last.Epoch); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(t.Context(), []pipeline.Event{numbered(2)}); err == nil {
		t.Error("appended to a closed history")
	}
	w2 := testWriter(t, c, "a")
	if w2.Position().Epoch <= last.Epoch || w2.Position().Seq != 0 {
		t.Errorf("goes on at %s", w2.Position())
	}
	mustAppend(t, w2, numbered(2))
	if got := readCurrent(t, c.History("a"), pipeline.Query{}); len(got) != 2 {
		t.Errorf("current is %v", got)
	}
}

// TestForgottenEpoch lets retention empty an old epoch: it is dropped when the
// site is opened next.
func TestForgottenEpoch(t *testing.T) {
	c := inProcess(t, testServer(t))
	w := testWriter(t, c, "a")
	old := mustAppend(t, w, numbered(1))
	if _, err := w.NewEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := siteOf("a").history(old.Epoch)
	update(t, c, name, func(cfg *jetstream.StreamConfig) {
		cfg.MaxAge, cfg.Duplicates = 100*time.Millisecond, 100*time.Millisecond
	})
	eventually(t, "retention empties it", func() bool { return streams(t, c)[name] == 0 })
	testWriter(t, c, "a")
	if st := testState(t, c, "a"); len(st.Histories) != 1 || st.Sourced != st.Histories[0].Epoch {
		t.Errorf("still there: %+v", st)
	}
	if got := readCurrent(t, c.History("a"), pipeline.Query{}); len(got) != 1 {
		t.Errorf("current is %v", got)
	}
}
