package rsync

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// counting is a stream that tells how much was read of it.
type counting struct {
	Stream
	read *atomic.Int64
	at   int64
	hit  func()
	once *sync.Once
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if c.read.Add(int64(n)) >= c.at {
		c.once.Do(c.hit)
	}
	return n, err
}

// killRsync kills every rsync that has the path among its arguments.
func killRsync(path string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // none: nothing is killed, and the test sees it
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(path)) || !bytes.Contains(line, []byte("rsync\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// TestKilledAnywhere kills one part of a copy at random points, and copies again: the
// copy becomes equal, nothing stray is left, and what had arrived does not come again.
func TestKilledAnywhere(t *testing.T) {
	trees := map[string]func(t *testing.T, r *rand.Rand, root string) int64{
		"BigFile": func(t *testing.T, r *rand.Rand, root string) int64 {
			size := sized(96, 200) << 20
			must(t, os.WriteFile(filepath.Join(root, "big"), noise(r, size), 0o644))
			return int64(size)
		},
		"ManyFiles": func(t *testing.T, r *rand.Rand, root string) int64 {
			files := sized(400, 1500)
			randomTree(t, r, root, files, 20_000)
			return int64(files) * 10_000
		},
		"Odd": func(t *testing.T, _ *rand.Rand, root string) int64 {
			oddTree(t, root)
			return oddHoles() + 12<<20 // holes are sent as zeros
		},
	}
	victims := map[string]func(p *pair, s *stream.Stream){
		"TheSourcesRsync":      func(p *pair, _ *stream.Stream) { killRsync(p.source) },
		"TheDestinationsRsync": func(p *pair, _ *stream.Stream) { killRsync(p.Root) },
		"TheStream":            func(_ *pair, s *stream.Stream) { _ = s.SetDeadline(aLongTimeAgo) },
	}
	for tree, plant := range trees {
		for victim, kill := range victims {
			t.Run(tree+"/"+victim, func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(len(tree)), uint64(len(victim))))
				p := testPair(t, Settings{Delete: true, Verify: VerifyNone})
				total := plant(t, r, p.source)
				open, read := p.Open, &atomic.Int64{}
				written := int64(0)
				for round := range 2 {
					// Late enough that to begin anew would show, even with little to copy.
					rest := max(total-written, 1)
					arrived, once := rest/3+r.Int64N(rest/4+1), &sync.Once{}
					p.Open = func(ctx context.Context) (Stream, error) {
						s, err := open(ctx)
						if err != nil {
							return nil, err
						}
						secure, ok := s.(*stream.Stream)
						if !ok {
							return nil, fmt.Errorf("a stream of type %T", s)
						}
						read.Store(0)
						return &counting{s, read, arrived, func() { kill(p, secure) }, once}, nil
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					verdict, reports, err := p.Copy(ctx)
					cancel()
					// A small tree may be whole before the kill takes hold.
					if verdict.Class != Transient && verdict.Class != Done {
						t.Fatalf("round %d ended %+v, %v: %+v", round, verdict, err, reports)
					}
					written += read.Load()
					if verdict.Class == Done && tree == "BigFile" {
						t.Fatalf("the kill after %d bytes of %d had no effect", arrived, total)
					}
				}
				p.Open = open
				p.wire()
				arrived := sizeOf(t, p.Root)
				const slack = 32 << 20                            // on its way when the kill came, and the checksums of what is there
				if tree == "BigFile" && written-arrived > slack { // others have holes
					t.Errorf("%d bytes were received, and %d are there", written, arrived)
				}
				p.copied(t, Done)
				if again, bound := p.wire(), total-arrived+total/100+slack; again > bound {
					t.Errorf("%d bytes came again, %d of %d had arrived", again, arrived, total)
				}
				sameTree(t, p.source, p.Root)
			})
		}
	}
}

// sizeOf is what the files of a tree take up, holes left out.
func sizeOf(t *testing.T, root string) int64 {
	t.Helper()
	total := int64(0)
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st syscall.Stat_t
		err = syscall.Lstat(path, &st)
		total += min(st.Size, st.Blocks*512)
		return err
	}))
	return total
}
