package natslog

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// externalServer is a NATS server that knows nothing of us: no steward, and
// messages up to the default of 1 MiB.
func externalServer(t testing.TB, set ...func(*natsserver.Options)) string {
	t.Helper()
	opts := &natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		JetStreamMaxStore: 64 << 30,
	}
	for _, f := range set {
		f(opts)
	}
	s, err := natsserver.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { halt(s) })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

func TestConformanceExternal(t *testing.T) {
	t.Parallel()
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		return harness(testConn(t, ConnectConfig{URL: externalServer(t)}))
	})
}

// incompressible is n bytes that do not compress, the same in every run.
func incompressible(n int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = source.Read(b) // never fails
	return b
}

func TestDenialIsAnError(t *testing.T) {
	url := externalServer(t, func(o *natsserver.Options) {
		o.Users = []*natsserver.User{{Username: "u", Password: "p", Permissions: &natsserver.Permissions{
			Publish: &natsserver.SubjectPermission{Allow: []string{apiPrefix + ">"}, Deny: []string{apiPrefix + "STREAM.CREATE.C_a"}},
		}}}
	})
	url = "nats://u:p@" + url[len("nats://"):]
	c := testConn(t, ConnectConfig{URL: url})
	start := time.Now()
	_, err := c.Writer(t.Context(), "a", testOptions())
	if !errors.Is(err, ErrDenied) {
		t.Errorf("open: %v", err)
	}
	if took := time.Since(start); took > requestTimeout/2 {
		t.Errorf("the denial took %s", took)
	}
}

func TestCollectClaims(t *testing.T) {
	c := testConn(t, ConnectConfig{URL: externalServer(t)})
	w := testWriter(t, c, "a")
	s := siteOf("a")
	noise := incompressible(6 << 20)
	large := func(name string, version int, from int) pipeline.Event {
		return pipelinetest.PutBody(pipelinetest.ConfigMap("a", name), version, noise[from:from+2<<20])
	}
	mustAppend(t, w, large("x", 1, 0), large("y", 2, 1))
	mustAppend(t, w, large("x", 3, 2), put("a", "z", 4))
	later := time.Now().Add(time.Minute)
	if n, err := c.collectClaims(t.Context(), s, later); n != 0 || err != nil {
		t.Fatalf("collected %d, %v while the history refers to all", n, err)
	}
	trim(t, c, "a", 4)
	if n, err := w.CollectClaims(t.Context()); n != 0 || err != nil {
		t.Fatalf("collected %d, %v of young bodies", n, err)
	}
	if n, err := c.collectClaims(t.Context(), s, later); n != 1 || err != nil {
		t.Fatalf("collected %d, %v, want the one that was replaced", n, err)
	}
	for r, err := range c.History("a").Current(t.Context(), pipeline.Query{}) {
		if err != nil || pipeline.DigestOf(r.Body) != r.Digest {
			t.Errorf("%s: %d bytes, %v", r.Ref, len(r.Body), err)
		}
	}
}

func TestMissingBodyIsNamed(t *testing.T) {
	c := testConn(t, ConnectConfig{URL: externalServer(t)})
	w := testWriter(t, c, "a")
	mustAppend(t, w, pipelinetest.PutBody(pipelinetest.ConfigMap("a", "x"), 1, incompressible(2<<20)))
	last := mustAppend(t, w, put("a", "y", 2))
	if err := purge(t.Context(), c.nc, siteOf("a").claims(), siteOf("a").claimSubject()+".>", 0); err != nil {
		t.Fatal(err)
	}
	sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	if d, err := sub.Next(t.Context()); err != nil || !errors.Is(d.Invalid, errNoBody) || !errors.Is(d.Invalid, pipeline.ErrForeign) {
		t.Errorf("the record without its body: %v, %v", d.Invalid, err)
	}
	if d, err := sub.Next(t.Context()); err != nil || d.Position != last {
		t.Errorf("the next one: %s, %v", d.Position, err)
	}
	if got := readCurrent(t, c.History("a"), pipeline.Query{HeadersOnly: true}); len(got) != 2 {
		t.Errorf("headers: %v", got)
	}
}
