package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Sizes of the volume figures.
const (
	bigFile     = 2 << 30
	smallFiles  = 100_000
	manyFiles   = 1_000_000
	smallSize   = 4 << 10
	edits       = 64
	killRounds  = 3
	carryRounds = 3
	moveTimeout = 15 * time.Minute
)

// volumes are the directories and programs of one volume figure.
type volumes struct {
	dir, from, mover, rsync string
	nats                    *natsserver.Server
	runs                    int
}

func openVolumes(dir string) (*volumes, error) {
	root, err := world.Root()
	if err != nil {
		return nil, err
	}
	v := &volumes{dir: dir, from: filepath.Join(dir, "from"), mover: filepath.Join(root, "bin", "rsync"), rsync: filepath.Join(root, ".cache", "bin", "rsync")}
	if v.nats, err = natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true}); err != nil {
		return nil, err
	}
	v.nats.Start()
	if !v.nats.ReadyForConnections(time.Minute) {
		return nil, errors.New("the NATS server does not start")
	}
	return v, os.Mkdir(v.from, 0o755)
}

func (v *volumes) close() {
	v.nats.Shutdown()
	v.nats.WaitForShutdown()
}

// local is plain rsync of the same data on this machine, the yardstick.
func (v *volumes) local(ctx context.Context, to string) (time.Duration, error) {
	begun := time.Now()
	out, err := exec.CommandContext(ctx, v.rsync, "-aHAXS", "--numeric-ids", v.from+"/", to+"/").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("local rsync: %w: %s", err, out)
	}
	return time.Since(begun), nil
}

// moved is one transfer by the movers.
type moved struct {
	took   time.Duration // of the destination's process, from its start to its end
	status world.MoverStatus
	memory int64 // peak resident of all the processes at both ends together
}

// start prepares two movers and starts them.
func (v *volumes) start(to, carrier string) (*world.Movers, error) {
	v.runs++
	m := &world.Movers{
		Dir: filepath.Join(v.dir, fmt.Sprint("run", v.runs)), Binary: v.mover, Rsync: v.rsync, From: v.from, To: to,
		Settings: rsync.Settings{Delete: true, Verify: rsync.VerifyNone}, // as plain rsync: without a second look
	}
	if carrier == "relay" {
		m.Relay = v.nats.ClientURL()
	}
	if err := errors.Join(os.MkdirAll(to, 0o755), os.Mkdir(m.Dir, 0o700)); err != nil {
		return nil, err
	}
	ports, err := world.FreePorts(1)
	if err != nil {
		return nil, err
	}
	if err := m.Prepare(fmt.Sprintf("127.0.0.1:%d", ports[0])); err != nil {
		return nil, err
	}
	return m, m.Source.Launch()
}

// move copies once. It ends with ctx, the movers too.
func (v *volumes) move(ctx context.Context, to, carrier string) (moved, error) {
	m, err := v.start(to, carrier)
	if err != nil {
		return moved{}, err
	}
	defer m.Source.Kill()
	defer m.Destination.Kill()
	var out moved
	begun := time.Now()
	if err := m.Destination.Launch(); err != nil {
		return moved{}, err
	}
	for m.Destination.Alive() && time.Since(begun) < moveTimeout {
		out.memory = max(out.memory, familyMemory(m.Destination.PID()), familyMemory(m.Source.PID()))
		_ = m.Destination.Wait(100 * time.Millisecond) // looked at again below
		if err := ctx.Err(); err != nil {
			return moved{}, err
		}
	}
	out.took = time.Since(begun)
	if err := m.Destination.Wait(time.Second); err != nil {
		return moved{}, err
	}
	out.status, err = m.Status(stream.Destination)
	return out, err
}

// familyMemory is the resident memory of a process and its descendants, each page
// that is shared counted once per sharer by its part.
func familyMemory(pid int) int64 {
	total := int64(0)
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)); err == nil {
		for line := range strings.Lines(string(text)) {
			var kb int64
			if n, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil && n == 1 {
				total += kb << 10
			}
		}
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // none: it has ended
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		for child := range strings.FieldsSeq(string(text)) {
			var id int
			if _, err := fmt.Sscan(child, &id); err == nil {
				total += familyMemory(id)
			}
		}
	}
	return total
}

// writeNoise writes n bytes that do not compress.
func writeNoise(path string, seed byte, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	r, block := rand.NewChaCha8([32]byte{seed}), make([]byte, 1<<20)
	for ; n > 0; n -= int64(len(block)) {
		_, _ = r.Read(block) // never fails
		if _, err := f.Write(block[:min(n, int64(len(block)))]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// writeTree writes files of one size, 500 to a directory.
func writeTree(root string, files, size int) error {
	r, b := rand.NewChaCha8([32]byte{7}), make([]byte, size)
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i/500))
		if i%500 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		_, _ = r.Read(b) // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// benchVolumeFile measures a 2 GiB file over both carriers, then a few edits in it,
// then what a killed copy sends again.
func benchVolumeFile(ctx context.Context, dir string) (_ []Figure, err error) {
	v, err := openVolumes(dir)
	if err != nil {
		return nil, err
	}
	defer v.close()
	big := filepath.Join(v.from, "big")
	if err := writeNoise(big, 1, bigFile); err != nil {
		return nil, err
	}
	to := filepath.Join(dir, "to")
	var figures []Figure
	for _, c := range []struct {
		carrier string
		bar     float64
	}{{"direct", 0.55}, {"relay", 0.25}} {
		var ratios, plain, product []float64
		for round := range carryRounds {
			if err := os.RemoveAll(to); err != nil {
				return nil, err
			}
			l, err := v.local(ctx, to)
			if err != nil {
				return nil, err
			}
			if err := os.RemoveAll(to); err != nil {
				return nil, err
			}
			m, err := v.move(ctx, to, c.carrier)
			if err != nil {
				return nil, err
			}
			ratios, plain, product = append(ratios, l.Seconds()/m.took.Seconds()), append(plain, l.Seconds()), append(product, m.took.Seconds())
			progress("%s, round %d: local %.1f s, movers %.1f s", c.carrier, round+1, l.Seconds(), m.took.Seconds())
		}
		figures = append(figures, atLeast("volume-file-"+c.carrier, median(ratios), c.bar, "ratio",
			fmt.Sprintf("plain local rsync of 2 GiB: %.1f s; movers %.1f s, storing included", median(plain), median(product))))
	}
	edited, err := v.edit(ctx, big, to)
	if err != nil {
		return nil, err
	}
	killed, err := v.killed(ctx, to)
	return append(append(figures, edited...), killed), err
}

// edit changes 64 places of the file and copies again.
func (v *volumes) edit(ctx context.Context, big, to string) ([]Figure, error) {
	f, err := os.OpenFile(big, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	r, b := rand.New(rand.NewPCG(9, 9)), make([]byte, smallSize)
	for range edits {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(b, r.Int64N(bigFile-smallSize)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	m, err := v.move(ctx, to, "direct")
	if err != nil {
		return nil, err
	}
	written := int64(0)
	for _, p := range m.status.Reports {
		written += p.Written
	}
	const yardstick = "64 edits of 4 KiB in 2 GiB; local rsync writes 2 GiB"
	return []Figure{
		atMost("volume-edits-wire", float64(m.status.Sent+m.status.Received)/1e6, 8, "MB", yardstick),
		atMost("volume-edits-written", float64(written)/(1<<20), 16, "MiB", yardstick),
	}, nil
}

// killed kills the destination in the middle, and measures what the next one receives
// beyond what was missing.
func (v *volumes) killed(ctx context.Context, to string) (Figure, error) {
	worst := 0.0
	for range killRounds {
		if err := os.RemoveAll(to); err != nil {
			return Figure{}, err
		}
		m, err := v.start(to, "relay")
		if err != nil {
			return Figure{}, err
		}
		at, arrived := rand.Int64N(bigFile*2/3)+bigFile/10, int64(0)
		err = m.Destination.Launch()
		for err == nil && arrived < at {
			if info, statErr := os.Stat(filepath.Join(to, "big")); statErr == nil {
				arrived = info.Size()
			}
			if err = pause(ctx, 5*time.Millisecond); err == nil && !m.Destination.Alive() {
				err = errors.Join(fmt.Errorf("the mover ended after %d bytes", arrived), m.Destination.Wait(time.Second))
			}
		}
		m.Destination.Kill()
		m.Source.Kill()
		if err != nil {
			return Figure{}, err
		}
		again, err := v.move(ctx, to, "relay")
		if err != nil {
			return Figure{}, err
		}
		excess := float64(again.status.Received-(bigFile-arrived)) / (1 << 20)
		progress("killed after %d MiB: %.0f MiB more than the rest", arrived>>20, excess)
		worst = max(worst, excess)
	}
	return atMost("volume-resume-excess", worst, 64, "MiB", fmt.Sprintf("what was missing of 2 GiB after kill -9, worst of %d", killRounds)), nil
}

// benchVolumeSmall measures many small files over both carriers.
func benchVolumeSmall(ctx context.Context, dir string) ([]Figure, error) {
	v, err := openVolumes(dir)
	if err != nil {
		return nil, err
	}
	defer v.close()
	if err := writeTree(v.from, smallFiles, smallSize); err != nil {
		return nil, err
	}
	to := filepath.Join(dir, "to")
	var figures []Figure
	for _, carrier := range []string{"direct", "relay"} {
		l, err := v.local(ctx, filepath.Join(dir, "local-"+carrier))
		if err != nil {
			return nil, err
		}
		m, err := v.move(ctx, to, carrier)
		if err != nil {
			return nil, err
		}
		figures = append(figures, atMost("volume-small-"+carrier, m.took.Seconds()/l.Seconds(), 1.5, "ratio",
			fmt.Sprintf("plain local rsync of 100,000 files of 4 KiB: %.1f s; movers %.1f s, storing included", l.Seconds(), m.took.Seconds())))
		if err := errors.Join(os.RemoveAll(to), os.RemoveAll(filepath.Join(dir, "local-"+carrier))); err != nil {
			return nil, err
		}
	}
	return figures, nil
}

// benchVolumeIdle measures a copy of a million files of which none has changed.
func benchVolumeIdle(ctx context.Context, dir string) ([]Figure, error) {
	v, err := openVolumes(dir)
	if err != nil {
		return nil, err
	}
	defer v.close()
	if err := writeTree(v.from, manyFiles, 1); err != nil {
		return nil, err
	}
	to := filepath.Join(dir, "to")
	if _, err := v.move(ctx, to, "direct"); err != nil {
		return nil, err
	}
	var ratios, plain, wire, memory []float64
	for round := range carryRounds {
		l, err := v.local(ctx, to)
		if err != nil {
			return nil, err
		}
		m, err := v.move(ctx, to, "direct")
		if err != nil {
			return nil, err
		}
		progress("round %d: local %.1f s, movers %.1f s", round+1, l.Seconds(), m.took.Seconds())
		ratios, plain = append(ratios, m.took.Seconds()/l.Seconds()), append(plain, l.Seconds())
		wire = append(wire, float64(m.status.Sent+m.status.Received)/manyFiles)
		memory = append(memory, float64(m.memory)/(1<<20))
	}
	const yardstick = "1,000,000 unchanged files"
	return []Figure{
		atMost("volume-idle", median(ratios), 1.3, "ratio", fmt.Sprintf("plain local rsync of %s: %.1f s", yardstick, median(plain))),
		atMost("volume-idle-wire", median(wire), 40, "B/file", yardstick),
		atMost("volume-idle-memory", median(memory), 256, "MiB", yardstick+"; one end's mover and its rsyncs together"),
	}, nil
}
