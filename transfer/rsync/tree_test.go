package rsync

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// entry is all that a copy has to keep of one path.
type entry struct {
	Mode     fs.FileMode
	UID, GID uint32
	Rdev     uint64
	Size     int64
	Mtime    int64 // nanoseconds
	Link     string
	Sum      [sha256.Size]byte
	Xattrs   map[string]string // ACLs are among them
	Same     string            // first path with the same inode
	Sparse   bool
}

// treeOf reads a tree, independently of rsync.
func treeOf(t testing.TB, root string) map[string]entry {
	t.Helper()
	out, inodes := map[string]entry{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no stat")
		}
		e := entry{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Mtime: info.ModTime().UnixNano(), Xattrs: xattrsOf(path)}
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Size, e.Sum = info.Size(), sha256.Sum256(content)
			e.Sparse = st.Size > 1<<20 && st.Blocks*512 < st.Size/2
			if first, ok := inodes[st.Ino]; ok {
				e.Same = first
			} else {
				inodes[st.Ino] = name
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if e.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case info.Mode()&fs.ModeDevice != 0:
			e.Rdev = st.Rdev
		}
		out[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func xattrsOf(path string) map[string]string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil || n == 0 {
		return nil
	}
	out := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		if m, err := unix.Lgetxattr(path, name, value); err == nil {
			out[name] = string(value[:m])
		}
	}
	return out
}

// sameTree fails the test if the trees differ in anything.
func sameTree(t testing.TB, want, got string) {
	t.Helper()
	if diff := cmp.Diff(treeOf(t, want), treeOf(t, got)); diff != "" {
		t.Errorf("the trees differ (-source +copy):\n%s", diff)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acl is a POSIX ACL as the kernel has it: rwx for the owner, r-x for a user, r for the others.
func acl() []byte {
	const nobody = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, nobody}, {2, 5, 12345}, {4, 5, nobody}, {0x10, 5, nobody}, {0x20, 4, nobody}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// oddNames are names that have broken other movers.
var oddNames = []string{
	"#hash", "-leading-dash", "--delete", "with space", "new\nline", "tab\there", "\xff\xfe not UTF-8", "back\\slash", "*", "?", "[a]", "~",
	".hidden", "'quote\"", "$(touch x)", "`id`", "a;b|c&d", "%s%n", strings.Repeat("n", 255), "ünï", ":colon", "peer:x", "lost+found2", "\\#012",
}

// oddHoles is the size of the file with holes.
func oddHoles() int64 { return int64(sized(16, 64) << 20) }

// oddTree makes the fidelity matrix in a directory.
func oddTree(t testing.TB, root string) {
	t.Helper()
	write := func(name string, content []byte, mode fs.FileMode) string {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, content, 0o600))
		must(t, os.Chmod(path, mode))
		return path
	}
	for i, name := range oddNames {
		write(filepath.Join("names", name), fmt.Append(nil, "content ", i), 0o644)
		write(filepath.Join("dirs", name, "inside"), fmt.Append(nil, "inside ", i), 0o644)
	}
	for name, mode := range map[string]fs.FileMode{
		"setuid": 0o755 | fs.ModeSetuid, "setgid": 0o755 | fs.ModeSetgid, "all": 0o777, "readonly": 0o444, "secret": 0o600, "group": 0o070 | 0o400,
	} {
		write("modes/"+name, []byte(name), mode)
	}
	must(t, os.MkdirAll(filepath.Join(root, "modes/shared"), 0o755))
	must(t, os.Chmod(filepath.Join(root, "modes/shared"), 0o775|fs.ModeSetgid))
	must(t, os.MkdirAll(filepath.Join(root, "modes/sticky"), 0o755))
	must(t, os.Chmod(filepath.Join(root, "modes/sticky"), 0o777|fs.ModeSticky))
	write("modes/shared/inherits", []byte("x"), 0o644)

	first := write("links/first", []byte("linked"), 0o644)
	must(t, os.Mkdir(filepath.Join(root, "links/other"), 0o755))
	for _, name := range []string{"links/second", "links/other/third"} {
		must(t, os.Link(first, filepath.Join(root, name)))
	}
	for name, target := range map[string]string{
		"symlinks/absolute": "/etc/passwd", "symlinks/dangling": "nowhere/at/all", "symlinks/up": "../../../../../../etc",
		"symlinks/inside": "../links/first", "symlinks/loop": "loop", "symlinks/rsyncd-munged": "/rsyncd-munged/x",
	} {
		must(t, os.MkdirAll(filepath.Join(root, "symlinks"), 0o755))
		must(t, os.Symlink(target, filepath.Join(root, name)))
	}
	must(t, os.MkdirAll(filepath.Join(root, "special"), 0o755))
	must(t, unix.Mkfifo(filepath.Join(root, "special/fifo"), 0o640))

	sparse := write("sparse/holes", nil, 0o644)
	must(t, os.Truncate(sparse, oddHoles()))
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("data"), 2048), oddHoles()/2-1<<20)
	must(t, errors.Join(err, f.Close()))
	must(t, os.Truncate(write("sparse/empty-but-long", nil, 0o644), 8<<20))
	write("empty", nil, 0o644)
	must(t, os.MkdirAll(filepath.Join(root, "empty-directory"), 0o700))
	must(t, os.MkdirAll(filepath.Join(root, strings.Repeat("deep/", 200)), 0o755))

	attr := write("xattrs/file", []byte("x"), 0o644)
	must(t, unix.Setxattr(attr, "user.dr-syncer.test", []byte("value\x00with zero"), 0))
	must(t, unix.Setxattr(filepath.Dir(attr), "user.on.directory", []byte("y"), 0))
	must(t, unix.Setxattr(attr, "system.posix_acl_access", acl(), 0))
	must(t, os.Mkdir(filepath.Join(root, "xattrs/defaults"), 0o755))
	must(t, unix.Setxattr(filepath.Join(root, "xattrs/defaults"), "system.posix_acl_default", acl(), 0))

	if os.Getuid() == 0 {
		must(t, os.Lchown(write("owners/other", []byte("x"), 0o640), 1234, 5678))
		must(t, os.Lchown(write("owners/setgid", []byte("x"), 0o644), 1234, 5678))
		must(t, os.Chmod(filepath.Join(root, "owners/setgid"), 0o755|fs.ModeSetgid)) // after chown, which clears it
		must(t, os.Lchown(filepath.Join(root, "symlinks/dangling"), 4321, 8765))
		must(t, unix.Mknod(filepath.Join(root, "special/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	}
	stamp(t, root)
	must(t, os.Chmod(root, 0o751))
}

// stamp gives everything a time of its own, to the nanosecond.
func stamp(t testing.TB, root string) {
	t.Helper()
	var paths []string
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	slices.Reverse(paths) // a directory after what is in it
	for i, path := range paths {
		at := unix.NsecToTimespec(time.Date(2001, 2, 3, 4, 5, 6, 789+i, time.UTC).UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// randomTree makes files of random sizes; mutate changes some.
func randomTree(t testing.TB, r *rand.Rand, root string, files, most int) {
	t.Helper()
	for i := range files {
		path := filepath.Join(root, fmt.Sprintf("d%d/e%d/f%d", i%7, i%3, i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, noise(r, r.IntN(most)), 0o644))
	}
}

func noise(r *rand.Rand, n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], r.Uint64())
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// mutate rewrites, grows, cuts, removes, renames and adds files.
func mutate(t testing.TB, r *rand.Rand, root string) {
	t.Helper()
	var files []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	for _, path := range files {
		switch r.IntN(8) {
		case 0:
			must(t, os.Remove(path))
		case 1:
			must(t, os.Rename(path, path+"-renamed"))
		case 2:
			must(t, os.WriteFile(path, noise(r, r.IntN(100_000)), 0o644))
		case 3:
			must(t, os.Truncate(path, int64(r.IntN(50_000))))
		case 4:
			must(t, os.Remove(path))
			must(t, os.MkdirAll(filepath.Join(path, "now-a-directory"), 0o755))
		}
	}
	must(t, os.WriteFile(filepath.Join(root, fmt.Sprintf("new%d", r.IntN(1000))), noise(r, 10_000), 0o600))
}
