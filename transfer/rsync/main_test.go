package rsync

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// TestMain makes this binary the shim too, when rsync starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv(ShimSocket) != "" {
		os.Exit(Shim())
	}
	goleak.VerifyTestMain(m)
}

const patience = 3 * time.Minute

// sized is the amount that a test works with: the second one in `make soak`.
func sized(always, soak int) int {
	if os.Getenv("DRS_SOAK") != "" {
		return soak
	}
	return always
}

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// program is the rsync that `make rsync` has fetched.
func program(t testing.TB) Program {
	t.Helper()
	path, err := filepath.Abs("../../.cache/bin/rsync")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("there is no rsync to test with: run `make rsync`")
	}
	return Program{Path: path}
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// pair is the two ends of a copy in one process.
type pair struct {
	*Copier
	Server *Server
	source string
	mu     sync.Mutex
	opened []*stream.Stream
}

// wire is what has come over the wire since it was last asked.
func (p *pair) wire() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := int64(0)
	for _, s := range p.opened {
		_, received := s.Wire()
		total += received
	}
	p.opened = nil
	return total
}

// testPair joins two directories of the test by streams.
func testPair(t testing.TB, s Settings) *pair {
	t.Helper()
	dir := t.TempDir()
	source, destination, work := filepath.Join(dir, "source"), filepath.Join(dir, "destination"), filepath.Join(dir, "work")
	for _, d := range []string{source, destination, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	session := stream.Session{ID: stream.NewSessionID(), Claim: "prod/data/db", Epoch: 1, Expires: time.Now().Add(time.Hour)}
	var ids [2]stream.Identity
	for i, r := range []stream.Role{stream.Source, stream.Destination} {
		var err error
		if ids[i], err = stream.NewIdentity(session, r); err != nil {
			t.Fatal(err)
		}
	}
	a, b := stream.NewPipe()
	opener, err := stream.NewOpener(stream.End{Session: session, Role: stream.Destination, Identity: ids[1], Peer: ids[0].Pin()}, time.Second, b)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{source: source}
	p.Server = &Server{Program: program(t), Root: source, Block: s.Block, Log: testLog(t)}
	p.Copier = &Copier{
		Program: program(t), Root: destination, Work: work, Shim: []string{os.Args[0]}, Settings: s,
		Open: func(ctx context.Context) (Stream, error) {
			s, err := opener.Open(ctx)
			if err != nil {
				return nil, err
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.opened = append(p.opened, s)
			return s, nil
		},
	}
	if s.Block {
		p.Server.Root, p.Root = filepath.Join(source, "device"), filepath.Join(destination, "device")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		end := stream.End{Session: session, Role: stream.Source, Identity: ids[0], Peer: ids[1].Pin()}
		err := stream.Serve(ctx, end, a, 2, p.Server.Log, func(ctx context.Context, s *stream.Stream) { p.Server.Serve(ctx, s) })
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return p
}

// copied runs a copy and fails the test if it does not end with the class.
func (p *pair) copied(t testing.TB, want Class) []Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	verdict, reports, err := p.Copy(ctx)
	if verdict.Class != want {
		t.Fatalf("the copy ended %s (%s), want %s; error %v\n%+v", verdict.Class, verdict.Reason, want, err, reports)
	}
	return reports
}
