package rsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestFidelity copies everything that a filesystem can hold, and compares the copy
// with the source and with what rsync -aHAX makes of it locally.
func TestFidelity(t *testing.T) {
	p := testPair(t, Settings{Delete: true, Verify: VerifyFull})
	oddTree(t, p.source)
	p.copied(t, Done)
	sameTree(t, p.source, p.Root)
	local := filepath.Join(t.TempDir(), "local")
	out, err := exec.Command(p.Program.Path, "-aHAXS", "--numeric-ids", p.source+"/", local+"/").CombinedOutput()
	if err != nil {
		t.Fatalf("local rsync: %v: %s", err, out)
	}
	sameTree(t, local, p.Root)

	p.wire()
	for _, r := range p.copied(t, Done) {
		if r.Stats.Transferred+r.Stats.Created+r.Stats.Deleted > 0 {
			t.Errorf("the second copy still had something to do in its %s pass: %+v", r.Pass, r.Stats)
		}
	}
}

// TestChangesFollow has trees change at random, and copies again.
func TestChangesFollow(t *testing.T) {
	for seed := range sized(1, 3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 5))
			p := testPair(t, Settings{Delete: true, DeletePercent: 100, Verify: VerifyNone})
			randomTree(t, r, p.source, 60, 80_000)
			for range 4 {
				p.copied(t, Done)
				sameTree(t, p.source, p.Root)
				mutate(t, r, p.source)
			}
		})
	}
}

func TestDeletions(t *testing.T) {
	cases := map[string]struct {
		settings Settings
		source   int // files there
		extra    int // files that only the destination has
		want     Class
		left     int // of them
	}{
		"NotAsked":          {Settings{}, 10, 5, Done, 5},
		"WithinTheLimit":    {Settings{Delete: true, DeleteCount: 5}, 10, 5, Done, 0},
		"BeyondTheLimit":    {Settings{Delete: true, DeleteCount: 4}, 10, 5, TooManyDeletions, 5},
		"WithinThePercents": {Settings{Delete: true, DeletePercent: 50}, 10, 5, Done, 0},
		"EmptySource":       {Settings{Delete: true, DeleteCount: 5}, 0, 5, TooManyDeletions, 5},
		"EmptyIsRight":      {Settings{Delete: true, DeleteCount: 5, AllowEmpty: true}, 0, 5, Done, 0},
		"Default":           {Settings{Delete: true}, 1, 101, TooManyDeletions, 101},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testPair(t, c.settings)
			for i := range c.source {
				must(t, os.WriteFile(filepath.Join(p.source, fmt.Sprint("file", i)), []byte("x"), 0o644))
			}
			for i := range c.extra {
				must(t, os.WriteFile(filepath.Join(p.Root, fmt.Sprint("extra", i)), []byte("x"), 0o644))
			}
			p.copied(t, c.want)
			left, err := filepath.Glob(filepath.Join(p.Root, "extra*"))
			if err != nil || len(left) != c.left {
				t.Errorf("%d of what only the destination has is left, want %d; error %v", len(left), c.left, err)
			}
			if copied, _ := filepath.Glob(filepath.Join(p.Root, "file*")); len(copied) != c.source {
				t.Errorf("%d files were copied, want %d", len(copied), c.source)
			}
		})
	}
}

// TestNothingIsDeletedAfterAnUncleanPass has one file that cannot be copied: what the
// scan does not notice, and rsync's own delete options then ignore.
func TestNothingIsDeletedAfterAnUncleanPass(t *testing.T) {
	p := testPair(t, Settings{Delete: true, DeleteCount: 100})
	must(t, os.WriteFile(filepath.Join(p.source, "good"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(p.source, "bad"), []byte("new"), 0o644))
	must(t, os.WriteFile(filepath.Join(p.Root, "bad"), []byte("old content"), 0o644))
	must(t, os.WriteFile(filepath.Join(p.Root, "extra"), []byte("x"), 0o644))
	if os.Getuid() != 0 {
		must(t, os.Chmod(filepath.Join(p.source, "bad"), 0))
	} else { // root reads everything, and may write everything but this
		immutable(t, filepath.Join(p.Root, "bad"), true)
		t.Cleanup(func() { immutable(t, filepath.Join(p.Root, "bad"), false) })
	}
	reports := p.copied(t, Partial)
	if _, err := os.Stat(filepath.Join(p.Root, "extra")); err != nil {
		t.Errorf("what only the destination has: %v", err)
	}
	if _, err := os.Stat(filepath.Join(p.Root, "good")); err != nil {
		t.Errorf("the file that can be copied: %v", err)
	}
	if text := strings.Join(reports[0].Problems, "\n"); !strings.Contains(text, "bad") {
		t.Errorf("the report does not name the file: %s", text)
	}
}

func immutable(t *testing.T, path string, on bool) {
	t.Helper()
	const immutableFlag = 0x10
	f, err := os.Open(path)
	must(t, err)
	flags := 0
	if on {
		flags = immutableFlag
	}
	must(t, errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), f.Close()))
}

// TestDirectoryBecomesFile has full directories be in the way of files.
func TestDirectoryBecomesFile(t *testing.T) {
	for limit, want := range map[int]Class{10: Done, 1: TooManyDeletions} {
		t.Run(want.String(), func(t *testing.T) {
			p := testPair(t, Settings{Delete: true, DeleteCount: limit})
			must(t, os.WriteFile(filepath.Join(p.source, "name"), []byte("a file"), 0o644))
			must(t, os.WriteFile(filepath.Join(p.source, "other"), []byte("x"), 0o644))
			must(t, os.MkdirAll(filepath.Join(p.Root, "name", "sub"), 0o755))
			must(t, os.WriteFile(filepath.Join(p.Root, "name", "sub", "file"), []byte("x"), 0o644))
			must(t, os.WriteFile(filepath.Join(p.Root, "extra"), []byte("x"), 0o644))
			p.copied(t, want)
			if want == Done {
				sameTree(t, p.source, p.Root)
			} else if _, err := os.Stat(filepath.Join(p.Root, "name", "sub", "file")); err != nil {
				t.Errorf("it is gone beyond the limit: %v", err)
			}
		})
	}
}

func TestExcludes(t *testing.T) {
	p := testPair(t, Settings{Exclude: []string{"/cache", "*.tmp"}, Include: []string{"keep.tmp"}, Delete: true, DeleteCount: 10, Verify: VerifyFull})
	for _, name := range []string{"cache/x", "a.tmp", "keep.tmp", "data", "lost+found/y", "sub/lost+found"} {
		path := filepath.Join(p.source, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(name), 0o644))
	}
	must(t, os.MkdirAll(filepath.Join(p.Root, "lost+found"), 0o700))
	p.copied(t, Done)
	var got []string
	for name, e := range treeOf(t, p.Root) {
		if e.Mode.IsRegular() {
			got = append(got, name)
		}
	}
	if diff := cmp.Diff(map[string]bool{"data": true, "keep.tmp": true, "sub/lost+found": true}, setOf(got)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(p.Root, "lost+found")); err != nil {
		t.Errorf("the destination's lost+found: %v", err)
	}
}

func setOf(list []string) map[string]bool {
	out := map[string]bool{}
	for _, s := range list {
		out[s] = true
	}
	return out
}

// TestVerificationFindsAFlippedBit has one byte of the copy change, behind rsync's back.
func TestVerificationFindsAFlippedBit(t *testing.T) {
	for _, verify := range []Verify{VerifySample, VerifyFull} {
		t.Run(string(verify), func(t *testing.T) {
			p := testPair(t, Settings{Verify: verify})
			r := rand.New(rand.NewPCG(1, 1))
			randomTree(t, r, p.source, 50, 50_000)
			bad := filepath.Join("odd\nname", "#bad")
			must(t, os.MkdirAll(filepath.Join(p.source, "odd\nname"), 0o755))
			must(t, os.WriteFile(filepath.Join(p.source, bad), noise(r, 20_000), 0o644))
			p.copied(t, Done)
			path := filepath.Join(p.Root, bad)
			before, err := os.Stat(path)
			must(t, err)
			content, err := os.ReadFile(path)
			must(t, err)
			content[10_000] ^= 1
			must(t, os.WriteFile(path, content, 0o644))
			must(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
			reports := p.copied(t, Different)
			last := reports[len(reports)-1]
			if diff := cmp.Diff([]string{`odd\#012name/#bad`}, last.Differences); diff != "" || last.Different != 1 {
				t.Errorf("%d differ: %s", last.Different, diff)
			}
		})
	}
}

func TestBlock(t *testing.T) {
	p := testPair(t, Settings{Block: true, Verify: VerifyFull})
	r := rand.New(rand.NewPCG(3, 3))
	content := noise(r, sized(24, 64)<<20)
	must(t, os.WriteFile(p.Server.Root, content, 0o600))
	must(t, os.WriteFile(p.Root, make([]byte, len(content)), 0o600))
	same := func() {
		t.Helper()
		p.copied(t, Done)
		got, err := os.ReadFile(p.Root)
		must(t, err)
		if want, _ := os.ReadFile(p.Server.Root); string(got) != string(want) {
			t.Error("the devices differ")
		}
	}
	same()
	f, err := os.OpenFile(p.Server.Root, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(noise(r, 1<<20), 10<<20)
	must(t, errors.Join(err, f.Close()))
	p.wire()
	same()
	if received := p.wire(); received > 4<<20 {
		t.Errorf("for 1 MiB of changes %d bytes came over the wire", received)
	}
}

func TestPreflight(t *testing.T) {
	small := usage{MaxBytes: 1 << 30, MaxInodes: 1000}
	cases := map[string]struct {
		destination, source usage
		want                error
	}{
		"Fits":              {small, usage{Bytes: 1 << 29, Inodes: 500}, nil},
		"TooManyBytes":      {small, usage{Bytes: 2 << 30}, ErrNoSpace},
		"TooManyInodes":     {small, usage{Inodes: 2000}, ErrNoSpace},
		"InodesAsNeeded":    {usage{MaxBytes: 1 << 30}, usage{Inodes: 2000}, nil},
		"NotAVolume":        {usage{}, usage{Bytes: 1 << 60}, nil},
		"SourceIsNoVolume":  {small, usage{}, nil},
		"OtherFilesystem":   {small, usage{Bytes: 1<<30 + 1<<20}, nil}, // what it needs for itself
		"HardlyAnythingFit": {usage{MaxBytes: 1}, usage{Bytes: 1 << 20}, ErrNoSpace},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := c.destination.fits(c.source); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestOldRsyncIsRefused(t *testing.T) {
	old := filepath.Join(t.TempDir(), "rsync")
	must(t, os.WriteFile(old, []byte("#!/bin/sh\necho 'rsync  version 3.2.7  protocol version 31'\n"), 0o755))
	p := testPair(t, Settings{})
	good := p.Program
	p.Program.Path = old
	if verdict, _, err := p.Copy(t.Context()); verdict.Class != Permanent || !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "install 3.5.0") {
		t.Errorf("the destination: %+v, %v", verdict, err)
	}
	p.Program = good
	p.Server.Program.Path = old
	verdict, _, err := p.Copy(t.Context())
	if verdict.Class != Permanent || !errors.Is(err, ErrPeerRefused) || !strings.Contains(err.Error(), "3.2.7") {
		t.Errorf("the source: %+v, %v", verdict, err)
	}
}

func TestCancel(t *testing.T) {
	p := testPair(t, Settings{})
	must(t, os.WriteFile(filepath.Join(p.source, "big"), noise(rand.New(rand.NewPCG(4, 4)), 32<<20), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	open := p.Open
	p.Open = func(ctx context.Context) (Stream, error) {
		s, err := open(ctx)
		cancel() // in the middle
		return s, err
	}
	verdict, _, err := p.Copy(ctx)
	if verdict.Class != Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", verdict, err)
	}
	p.Open = open
	p.copied(t, Done)
	sameTree(t, p.source, p.Root)
}
