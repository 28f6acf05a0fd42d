package stream

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

const patience = 30 * time.Second

// testSession is a session that opens a claim for an hour.
func testSession() Session {
	return Session{ID: NewSessionID(), Claim: "prod/data/db", Epoch: 3, Expires: time.Now().Add(time.Hour)}
}

// testEnds makes the two ends of a session, each with the other's pin.
func testEnds(t testing.TB, s Session) (source, destination End) {
	t.Helper()
	a, b := testIdentity(t, s, Source), testIdentity(t, s, Destination)
	return End{s, Source, a, b.Pin()}, End{s, Destination, b, a.Pin()}
}

func testIdentity(t testing.TB, s Session, r Role) Identity {
	t.Helper()
	id, err := NewIdentity(s, r)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// testLog writes what goes wrong to the test's log while the test runs.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// testNATS starts a server in this process; port 0 takes a free one.
func testNATS(t testing.TB, port int) *natsserver.Server {
	t.Helper()
	if port == 0 {
		port = -1
	}
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// joined makes the carriers of both ends of a session.
type joined func(t testing.TB, s Session) (source, destination Carrier)

func closeLater(t testing.TB, carriers ...Carrier) {
	t.Cleanup(func() {
		for _, c := range carriers {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func joinPipe(t testing.TB, _ Session) (source, destination Carrier) {
	a, b := NewPipe()
	closeLater(t, a, b)
	return a, b
}

func joinDirect(t testing.TB, _ Session) (source, destination Carrier) {
	t.Helper()
	a, err := Listen(t.Context(), Source, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := Dial(Destination, a.Address().String())
	closeLater(t, a, b)
	return a, b
}

func joinReverse(t testing.TB, _ Session) (source, destination Carrier) {
	t.Helper()
	b, err := Listen(t.Context(), Destination, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := Dial(Source, b.Address().String())
	closeLater(t, a, b)
	return a, b
}

func joinRelay(t testing.TB, s Session) (source, destination Carrier) {
	t.Helper()
	return relayOver(t, s, testNATS(t, 0).ClientURL())
}

func relayOver(t testing.TB, s Session, url string) (source, destination *Relay) {
	t.Helper()
	var out [2]*Relay
	for i, r := range []Role{Source, Destination} {
		relay, err := NewRelay(t.Context(), s, r, RelayConfig{URL: url, Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, relay)
		out[i] = relay
	}
	return out[0], out[1]
}

var carriers = map[string]joined{"pipe": joinPipe, "direct": joinDirect, "direct, source dials": joinReverse, "relay": joinRelay}

// served serves the source's end until the test is over.
func served(t testing.TB, e End, c Carrier, handle func(context.Context, *Stream)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, e, c, 4, slog.New(slog.DiscardHandler), handle); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// opened opens a stream and closes it when the test is over.
func opened(t testing.TB, e End, c Carrier) *Stream {
	t.Helper()
	o, err := NewOpener(e, time.Second, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := o.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// cutting is a carrier whose connections end when the test says so.
type cutting struct {
	Carrier
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutting) Connect(ctx context.Context) (net.Conn, error) {
	conn, err := c.Carrier.Connect(ctx)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutting) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}
