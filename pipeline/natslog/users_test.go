package natslog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// testUser makes a user's key pair: the public key, and a file with the seed.
func testUser(t testing.TB) (public, seedFile string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seedFile = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return public, seedFile
}

// twoSites is a server with a user for each of two sites, and their connections.
func twoSites(t testing.TB, a, b string) (s *Server, connA, connB *Conn) {
	t.Helper()
	keyA, seedA := testUser(t)
	keyB, seedB := testUser(t)
	s = testServer(t, listening, func(c *ServerConfig) {
		c.Users = []User{{NKey: keyA, Site: a}, {NKey: keyB, Site: b}}
	})
	connA = testConn(t, ConnectConfig{URL: s.URL(), NKeySeedFile: seedA, InboxPrefix: SiteInboxPrefix(a)})
	connB = testConn(t, ConnectConfig{URL: s.URL(), NKeySeedFile: seedB, InboxPrefix: SiteInboxPrefix(b)})
	return s, connA, connB
}

func put(siteName, name string, version int) pipeline.Event {
	return pipelinetest.Put(pipelinetest.ConfigMap(siteName, name), version)
}

func mustAppend(t testing.TB, w pipeline.Writer, events ...pipeline.Event) pipeline.Position {
	t.Helper()
	p, err := w.Append(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readCurrent returns the version of each object of Current, by name.
func readCurrent(t testing.TB, h pipeline.History, q pipeline.Query) map[string]string {
	t.Helper()
	versions := map[string]string{}
	positions := map[pipeline.Ref]pipeline.Position{}
	for r, err := range h.Current(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		if positions[r.Ref].Compare(r.Position) > 0 {
			t.Errorf("%s at %s after %s", r.Ref, r.Position, positions[r.Ref])
		}
		positions[r.Ref] = r.Position
		versions[r.Ref.Name] = r.Version
	}
	return versions
}

func TestSiteUserCanWorkForItsSite(t *testing.T) {
	const name = "prod.nyc"
	_, a, _ := twoSites(t, name, "other")
	w := testWriter(t, a, name)
	var batch []pipeline.Event
	for i := range 50 {
		batch = append(batch, put(name, "x"+string(rune('a'+i%26)), i+1))
	}
	mustAppend(t, w, batch...)
	mustAppend(t, w, put(name, "xa", 100))
	if _, err := w.NewEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, w, put(name, "xb", 101))
	for range readerSlots + 1 { // more often than there are names for readers
		got := readCurrent(t, a.History(name), pipeline.Query{})
		if len(got) != 26 || got["xa"] != "100" || got["xb"] != "101" {
			t.Fatalf("current holds %v", got)
		}
	}
	mustAppend(t, w, pipelinetest.Heartbeat(name, 1))
	for r, err := range a.History(name).Current(t.Context(), pipeline.Query{Heartbeat: true}) {
		if err != nil || r.Op != pipeline.OpHeartbeat || len(r.Body) == 0 {
			t.Errorf("read the heartbeat: %+v, %v", r, err)
		}
	}
}

func TestSiteUserStoresLargeBodies(t *testing.T) {
	key, seed := testUser(t)
	s := testServer(t, listening, func(c *ServerConfig) {
		c.Users = []User{{NKey: key, Site: "a"}}
		c.MaxPayload = 128 << 10
	})
	c := testConn(t, ConnectConfig{URL: s.URL(), NKeySeedFile: seed, InboxPrefix: SiteInboxPrefix("a")})
	e := pipelinetest.PutBody(pipelinetest.ConfigMap("a", "x"), 1, incompressible(1<<20))
	mustAppend(t, testWriter(t, c, "a"), e)
	for r, err := range c.History("a").Current(t.Context(), pipeline.Query{}) {
		if err != nil || pipeline.DigestOf(r.Body) != e.Digest {
			t.Errorf("read back %d bytes, %v", len(r.Body), err)
		}
	}
}

func TestSiteUserCannotReachAnotherSite(t *testing.T) {
	t.Parallel()
	s, a, b := twoSites(t, "a", "b")
	wb := testWriter(t, b, "b")
	last := mustAppend(t, wb, put("b", "x", 1))
	wa := testWriter(t, a, "a")
	mustAppend(t, wa, put("a", "x", 1))
	root := inProcess(t, s)
	if _, err := root.DeadLetters(t.Context(), "dr", DefaultDeadLetterOptions()); err != nil {
		t.Fatal(err)
	}
	before := streams(t, root)

	if _, err := a.Writer(t.Context(), "b", testOptions()); !errors.Is(err, ErrDenied) {
		t.Errorf("opening the other site's history for writing: %v", err)
	}
	if _, err := a.History("b").State(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("state of the other site: %v", err)
	}
	if _, err := a.DeadLetters(t.Context(), "dr", DefaultDeadLetterOptions()); !errors.Is(err, ErrDenied) {
		t.Errorf("dead letters: %v", err)
	}

	forged, err := pipeline.Encode(put("b", "forged", 2))
	if err != nil {
		t.Fatal(err)
	}
	own, err := pipeline.Encode(put("a", "x", 2))
	if err != nil {
		t.Fatal(err)
	}
	hb, ha := siteOf("b").history(last.Epoch), siteOf("a").history(wa.Position().Epoch)
	attempts := []struct {
		name string
		msg  nats.Msg
	}{
		{"publish", nats.Msg{Subject: forged.Subject, Header: forged.Header, Data: forged.Data}},
		{"heartbeat", nats.Msg{Subject: pipeline.HeartbeatSubject("b")}},
		{"body", nats.Msg{Subject: siteOf("b").claimSubject() + ".00.0"}},
		{"answer to a publish", nats.Msg{Subject: own.Subject, Header: own.Header, Data: own.Data, Reply: forged.Subject}},
		{"answer of the steward", nats.Msg{Subject: siteOf("a").control() + ".state", Data: []byte("{}"), Reply: forged.Subject}},
		{"answer to a pull", nats.Msg{Subject: sitePrefix + ".CONSUMER.MSG.NEXT." + siteOf("a").current() + "." + siteOf("a").readerName(0), Data: []byte(`{"batch":1}`), Reply: forged.Subject}},
		{"pull of the other's reader", nats.Msg{Subject: sitePrefix + ".CONSUMER.MSG.NEXT." + hb + "." + siteOf("b").readerName(0), Data: []byte(`{"batch":1}`)}},
		{"direct get", nats.Msg{Subject: apiPrefix + "DIRECT.GET." + hb, Data: []byte(`{"seq":1}`)}},
		{"get", nats.Msg{Subject: apiPrefix + "STREAM.MSG.GET." + hb, Data: []byte(`{"seq":1}`)}},
		{"consumer", nats.Msg{Subject: apiPrefix + "CONSUMER.CREATE." + hb + ".spy", Data: []byte(`{"stream_name":"` + hb + `","config":{"name":"spy","deliver_subject":"` + SiteInboxPrefix("a") + `.x","ack_policy":"none"}}`)}},
		{"mirror", nats.Msg{Subject: apiPrefix + "STREAM.CREATE.SPY", Data: []byte(`{"name":"SPY","mirror":{"name":"` + hb + `"}}`)}},
		{"delete own history", nats.Msg{Subject: apiPrefix + "STREAM.DELETE." + ha}},
		{"purge own current state", nats.Msg{Subject: apiPrefix + "STREAM.PURGE." + siteOf("a").current()}},
		{"shorten own history", nats.Msg{Subject: apiPrefix + "STREAM.UPDATE." + ha, Data: []byte(`{"name":"` + ha + `","max_msgs":1}`)}},
		{"delete the other's history", nats.Msg{Subject: apiPrefix + "STREAM.DELETE." + hb}},
	}
	for _, attempt := range attempts {
		t.Run(attempt.name, func(t *testing.T) {
			msg := attempt.msg
			if msg.Reply != "" {
				// It may well be accepted, but its answer must not go where it is told.
				if err := errors.Join(a.nc.PublishMsg(&msg), a.nc.Flush()); err != nil {
					t.Fatal(err)
				}
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if reply, err := a.nc.RequestMsgWithContext(ctx, &msg); err == nil {
				t.Errorf("answered with %q", reply.Data)
			}
		})
	}
	for _, subject := range []string{"drs.v1.b.>", "drs.>", "cur.>", ">", "$JS.EVENT.>", SiteInboxPrefix("b") + ".>", "_INBOX.>"} {
		sub, err := a.nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.NextMsg(200 * time.Millisecond); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("subscribe to %q: %v", subject, err)
		}
	}

	mustAppend(t, wb, put("b", "y", 2)) // nobody has disturbed the sequence
	after := streams(t, root)
	for name, n := range before {
		switch {
		case strings.HasPrefix(name, "H_b_"):
			n++
		case strings.HasPrefix(name, "H_a_"), strings.HasPrefix(name, "C_"):
			continue // its own user may write there, and these follow
		}
		if after[name] != n {
			t.Errorf("stream %s holds %d messages, want %d", name, after[name], n)
		}
	}
	if len(after) != len(before) {
		t.Errorf("streams before: %v, after: %v", before, after)
	}
	if got := readCurrent(t, root.History("b"), pipeline.Query{}); len(got) != 2 {
		t.Errorf("the other site's current state is %v", got)
	}
}

// streams are the numbers of messages by stream.
func streams(t testing.TB, c *Conn) map[string]uint64 {
	t.Helper()
	n := map[string]uint64{}
	lister := c.js.ListStreams(t.Context())
	for info := range lister.Info() {
		n[info.Config.Name] = info.State.Msgs
	}
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOperator(t *testing.T) {
	key, seed := testUser(t)
	s := testServer(t, listening, func(c *ServerConfig) { c.Users = []User{{NKey: key}} })
	c := testConn(t, ConnectConfig{URL: s.URL(), NKeySeedFile: seed})
	last := mustAppend(t, testWriter(t, c, "a"), put("a", "x", 1))
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := sub.Next(t.Context()); err != nil || d.Position != last {
		t.Errorf("followed to %s, %v", d.Position, err)
	}
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	err = c.do(t.Context(), func(ctx context.Context) error { return c.js.DeleteStream(ctx, siteOf("a").history(last.Epoch)) })
	if !errors.Is(err, ErrDenied) {
		t.Errorf("deleting history: %v", err)
	}
}

func TestUserOfNoSite(t *testing.T) {
	key, _ := testUser(t)
	_, stranger := testUser(t)
	s := testServer(t, listening, func(c *ServerConfig) { c.Users = []User{{NKey: key, Site: "a"}} })
	for name, cfg := range map[string]ConnectConfig{
		"unknown key": {URL: s.URL(), NKeySeedFile: stranger},
		"no key":      {URL: s.URL()},
	} {
		if c, err := Connect(t.Context(), cfg); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: %v", name, err)
			if c != nil {
				_ = c.Close()
			}
		}
	}
	inProcess(t, s) // this process needs no key
}

func TestUsersAddedLaterKeepTheLog(t *testing.T) {
	dir := t.TempDir()
	at := func(c *ServerConfig) { c.StoreDir = dir }
	s := testServer(t, at)
	c := inProcess(t, s)
	mustAppend(t, testWriter(t, c, "a"), put("a", "x", 7))
	if err := errors.Join(c.Close(), s.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	key, _ := testUser(t)
	s = testServer(t, at, func(c *ServerConfig) { c.Users = []User{{NKey: key, Site: "a"}} })
	if got := readCurrent(t, inProcess(t, s).History("a"), pipeline.Query{}); got["x"] != "7" {
		t.Errorf("current is %v", got)
	}
}
