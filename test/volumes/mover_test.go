package volumes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// eachCarrier runs a test over the direct way and over the relay.
func eachCarrier(t *testing.T, test func(t *testing.T, m func(rsync.Settings) *world.Movers)) {
	for _, carrier := range []string{"direct", "relay"} {
		t.Run(carrier, func(t *testing.T) {
			test(t, func(s rsync.Settings) *world.Movers {
				var nats *natsserver.Server
				if carrier == "relay" {
					nats = startNATS(t, -1)
				}
				return movers(t, s, nats)
			})
		})
	}
}

func TestCopy(t *testing.T) {
	eachCarrier(t, func(t *testing.T, with func(rsync.Settings) *world.Movers) {
		m := with(rsync.Settings{Delete: true, Verify: rsync.VerifyFull})
		plant(t, m.From, 20<<20, 300)
		must(t, os.WriteFile(filepath.Join(m.To, "extra"), nil, 0o644))
		must(t, m.Source.Launch())
		must(t, m.Destination.Launch())
		s := finished(t, m)
		same(t, m.From, m.To)
		var passes []rsync.Pass
		for _, r := range s.Reports {
			passes = append(passes, r.Pass)
		}
		if diff := cmp.Diff([]rsync.Pass{rsync.PassData, rsync.PassDelete, rsync.PassFull}, passes); diff != "" {
			t.Error(diff)
		}
		if want := strings.Split(t.Name(), "/")[1]; s.Carrier != want {
			t.Errorf("it went over %s, want %s", s.Carrier, want)
		}
		if s.Received < 20<<20 || s.Received > 25<<20 {
			t.Errorf("it tells of %d bytes received", s.Received)
		}
		must(t, m.Source.Stop(patience)) // ends well when it is asked to
	})
}

// TestMoverKilled kills or freezes one of the two at random moments; what is started
// again goes on, and the copy becomes equal.
func TestMoverKilled(t *testing.T) {
	victims := map[string]func(m *world.Movers) []error{
		"Source":      func(m *world.Movers) []error { m.Source.Kill(); return []error{m.Source.Launch()} },
		"Destination": func(m *world.Movers) []error { m.Destination.Kill(); return []error{m.Destination.Launch()} },
		"Both": func(m *world.Movers) []error {
			m.Destination.Kill()
			m.Source.Kill()
			return []error{m.Source.Launch(), m.Destination.Launch()}
		},
		"Frozen": func(m *world.Movers) []error {
			m.Destination.Freeze()
			time.AfterFunc(500*time.Millisecond, m.Destination.Thaw)
			return nil
		},
	}
	size, limit := sized(64, 150)<<20, sized(30, 60)<<20
	eachCarrier(t, func(t *testing.T, with func(rsync.Settings) *world.Movers) {
		for name, kill := range victims {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := with(rsync.Settings{Delete: true, Verify: rsync.VerifyNone})
				m.Limit = int64(limit) // so that there is a middle
				must(t, m.Prepare(fmt.Sprintf("127.0.0.1:%d", freePort(t))))
				plant(t, m.From, size, 500)
				must(t, m.Source.Launch())
				must(t, m.Destination.Launch())
				// Late enough that to begin anew would show, even with little to copy.
				at := int64(size/2 + rand.IntN(size/6))
				eventually(t, "so much to arrive", func() bool {
					info, err := os.Stat(filepath.Join(m.To, "big"))
					return err == nil && info.Size() > at
				})
				must(t, errors.Join(kill(m)...))
				must(t, m.SetLimit(0))
				s := finished(t, m)
				same(t, m.From, m.To)
				if name == "Destination" || name == "Both" { // what the new process has received is what came after
					const slack = 16 << 20 // the small files, and the checksums of what is there
					if bound := int64(size) - at + slack; s.Received > bound {
						t.Errorf("%d bytes came after %d had arrived, of %d", s.Received, at, size)
					}
				}
			})
		}
	})
}

// TestNATSRestart restarts the relay's server in the middle: no attempt is lost.
func TestNATSRestart(t *testing.T) {
	nats := startNATS(t, -1)
	port, ok := nats.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%v is no TCP address", nats.Addr())
	}
	m := movers(t, rsync.Settings{Verify: rsync.VerifyFull}, nats)
	m.Limit = int64(sized(20, 40) << 20)
	must(t, m.Prepare(""))
	plant(t, m.From, sized(50, 100)<<20, 10)
	must(t, m.Source.Launch())
	must(t, m.Destination.Launch())
	eventually(t, "a part to arrive", func() bool {
		info, err := os.Stat(filepath.Join(m.To, "big"))
		return err == nil && info.Size() > int64(sized(10, 20)<<20)
	})
	nats.Shutdown()
	nats.WaitForShutdown()
	startNATS(t, port.Port)
	if s := finished(t, m); s.Attempts != 1 {
		t.Errorf("it took %d attempts", s.Attempts)
	}
	same(t, m.From, m.To)
}

// TestLimit has a copy be slow, and then not: the limit is obeyed, and lifted while it runs.
func TestLimit(t *testing.T) {
	eachCarrier(t, func(t *testing.T, with func(rsync.Settings) *world.Movers) {
		t.Parallel()
		limit := int64(sized(2, 4) << 20)
		m := with(rsync.Settings{Verify: rsync.VerifyNone})
		m.Limit = limit
		must(t, m.Prepare(fmt.Sprintf("127.0.0.1:%d", freePort(t))))
		plant(t, m.From, sized(140, 300)<<20, 1) // over a minute at that rate
		must(t, m.Source.Launch())
		launched := time.Now()
		must(t, m.Destination.Launch())
		arrived := func() int64 {
			s, err := m.Status(stream.Destination)
			if err != nil {
				return 0
			}
			return s.Received
		}
		// What the status tells has arrived by now, whatever its age: the upper bound is
		// sharp. How slow a busy machine makes it is not known.
		eventually(t, "five seconds of it", func() bool { return arrived() > 5*limit })
		if rate := float64(arrived()) / time.Since(launched).Seconds(); rate < float64(limit)/10 || rate > float64(limit)*1.1 {
			t.Errorf("the rate was %.0f, the limit is %d", rate, limit)
		}
		must(t, m.SetLimit(0))
		lifted := time.Now()
		finished(t, m)
		if took := time.Since(lifted); took > 45*time.Second {
			t.Errorf("without the limit it still took %s", took)
		}
		same(t, m.From, m.To)
	})
}

// TestStranger has a destination with keys of its own, and one for another claim: it
// gets nothing, and says so soon.
func TestStranger(t *testing.T) {
	m := movers(t, rsync.Settings{}, nil)
	plant(t, m.From, 1<<20, 10)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	must(t, m.Prepare(address))
	other := *m
	other.Dir = t.TempDir()
	must(t, other.Prepare(address)) // another session, with the same address
	must(t, m.Source.Launch())
	other.Destination.Args = append(other.Destination.Args, "--attempts", "1")
	must(t, other.Destination.Launch())
	var exit *exec.ExitError
	if err := other.Destination.Wait(patience); !errors.As(err, &exit) {
		t.Fatalf("the stranger ended with %v", err)
	}
	left, err := os.ReadDir(m.To)
	if err != nil || len(left) > 0 {
		t.Errorf("the stranger got %v, %v", left, err)
	}
	must(t, m.Destination.Launch()) // the right one still does
	finished(t, m)
	same(t, m.From, m.To)
}

// TestStopped asks a mover to stop in the middle of a copy: it ends soon, with nothing left behind.
func TestStopped(t *testing.T) {
	m := movers(t, rsync.Settings{}, nil)
	m.Limit = 1 << 20
	must(t, m.Prepare(fmt.Sprintf("127.0.0.1:%d", freePort(t))))
	plant(t, m.From, 50<<20, 1)
	must(t, m.Source.Launch())
	must(t, m.Destination.Launch())
	eventually(t, "a part to arrive", func() bool {
		info, err := os.Stat(filepath.Join(m.To, "big"))
		return err == nil && info.Size() > 0
	})
	if err := m.Destination.Stop(30 * time.Second); err == nil || strings.Contains(err.Error(), "still running") {
		t.Errorf("it says of a copy that is not whole: %v", err)
	}
	s, err := m.Status(stream.Destination)
	must(t, err)
	if s.Verdict == nil || s.Verdict.Class != rsync.Canceled {
		t.Errorf("it tells %+v", s.Verdict)
	}
	names, err := os.ReadDir(m.To)
	must(t, err)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".") {
			t.Errorf("%s is left behind", n.Name())
		}
	}
}
