package volumes

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// binary is the mover under test, built from this tree; program the rsync it runs.
var binary, program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drs-volumes-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "mover")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/dr-syncer/dr-syncer/cmd/rsync")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the mover:", err)
		return 1
	}
	root, err := world.Root()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(root, ".cache", "bin", "rsync")
	if _, err := os.Stat(program); err != nil {
		fmt.Fprintln(os.Stderr, "there is no rsync to test with: run `make rsync`")
		return 1
	}
	if code := m.Run(); code != 0 {
		return code
	}
	// The spawner lives as long as the program: see package world.
	if err := goleak.Find(goleak.IgnoreTopFunction("github.com/dr-syncer/dr-syncer/test/world.init.func1.1")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const patience = 3 * time.Minute

// sized is the amount that a test works with: the second one in `make soak`.
func sized(always, soak int) int {
	if os.Getenv("DRS_SOAK") != "" {
		return soak
	}
	return always
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort is a port that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	ports, err := world.FreePorts(1)
	must(t, err)
	return ports[0]
}

// startNATS starts a server that can be stopped before the test ends.
func startNATS(t *testing.T, port int) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
	must(t, err)
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

// movers prepares two movers, over a NATS server if there is one.
func movers(t *testing.T, s rsync.Settings, nats *natsserver.Server) *world.Movers {
	t.Helper()
	dir := t.TempDir()
	m := &world.Movers{Dir: dir, Binary: binary, Rsync: program, From: filepath.Join(dir, "from"), To: filepath.Join(dir, "to"), Settings: s}
	if nats != nil {
		m.Relay = nats.ClientURL()
	}
	must(t, os.Mkdir(m.From, 0o755))
	must(t, os.Mkdir(m.To, 0o755))
	must(t, m.Prepare(fmt.Sprintf("127.0.0.1:%d", freePort(t))))
	t.Cleanup(func() {
		m.Source.Kill()
		m.Destination.Kill()
		if t.Failed() {
			t.Logf("source:\n%s\ndestination:\n%s", m.Source.Tail(20), m.Destination.Tail(20))
		}
	})
	return m
}

// finished waits for the destination to end well, and returns what it told last.
func finished(t *testing.T, m *world.Movers) world.MoverStatus {
	t.Helper()
	must(t, m.Destination.Wait(patience))
	s, err := m.Status(stream.Destination)
	must(t, err)
	if s.Phase != "Finished" || s.Verdict == nil || s.Verdict.Class != rsync.Done {
		t.Fatalf("the destination ended well and tells %+v", s)
	}
	return s
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

func noise(r *rand.Rand, n int) []byte {
	var seed [32]byte
	for i := range 8 {
		seed[i] = byte(r.Uint32())
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// plant makes a volume: a big file and many small ones.
func plant(t *testing.T, root string, big, small int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(big), uint64(small)))
	must(t, os.WriteFile(filepath.Join(root, "big"), noise(r, big), 0o640))
	for i := range small {
		path := filepath.Join(root, fmt.Sprintf("d%d", i%50), fmt.Sprintf("f%d", i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, noise(r, r.IntN(8192)), 0o644))
	}
}

// same fails the test if the volumes differ. What a copy keeps of a file beside its
// content is tested where rsync is run.
func same(t *testing.T, a, b string) {
	t.Helper()
	for _, way := range [][2]string{{a, b}, {b, a}} {
		must(t, filepath.WalkDir(way[0], func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(way[0], path)
			if err != nil {
				return err
			}
			x, err := os.Lstat(path)
			if err != nil {
				return err
			}
			y, err := os.Lstat(filepath.Join(way[1], name))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			if x.Mode() != y.Mode() || !x.ModTime().Equal(y.ModTime()) {
				t.Errorf("%s: %s %s and %s %s", name, x.Mode(), x.ModTime(), y.Mode(), y.ModTime())
			}
			if !d.Type().IsRegular() {
				return nil
			}
			p, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			q, err := os.ReadFile(filepath.Join(way[1], name))
			if err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				t.Errorf("%s differs", name)
			}
			return nil
		}))
	}
}
