//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/test/node"
	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

const (
	// moverPort is where the source's mover is reached at prod's node.
	moverPort = 32333
	// moverUser is the user of all Pods, and the owner of the data.
	moverUser = 65532
	// most of the data is one large file, slow enough for faults to come in between.
	largeFile = 64 << 20
	slowly    = 4 << 20
)

// TestMoversCopyClaims copies a claim's data, in use by a Pod, to a claim of the other
// cluster, by Pods under the strictest security standard, though the source's mover is
// killed and the cable is cut meanwhile.
func TestMoversCopyClaims(t *testing.T) {
	image := moverImage(t)
	for _, c := range []*node.Cluster{prod, dr} {
		if err := c.Load(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, prod, manifest(t, "database.yaml", nil))
	t.Cleanup(func() { remove(t, prod, "namespace/movers") })
	rollout(t, prod, "movers", "deployment/database")
	from := volume(t, prod)
	plant(t, from)

	m := world.Movers{
		Dir: t.TempDir(), From: "/data", To: "/data", Rsync: "/usr/bin/rsync", Listen: ":7000", Limit: slowly,
		Settings: rsync.Settings{Delete: true, Verify: rsync.VerifyFull},
	}
	if err := m.Prepare(net.JoinHostPort(cable.Address(prod).String(), strconv.Itoa(moverPort))); err != nil {
		t.Fatal(err)
	}
	apply(t, prod, manifest(t, "mover-source.yaml", session(t, m, stream.Source)))
	rollout(t, prod, "movers", "deployment/mover")
	apply(t, dr, manifest(t, "mover-destination.yaml", session(t, m, stream.Destination)))
	t.Cleanup(func() {
		if t.Failed() {
			for _, c := range []*node.Cluster{prod, dr} {
				out, err := c.Kubectl("logs", "--namespace=movers", "--selector=app=mover", "--tail=40")
				t.Logf("log of the mover in %s (%v):\n%s", c.Name, err, out)
			}
		}
		remove(t, dr, "namespace/movers")
	})
	t.Log("the movers are started")
	to := ""
	eventually(t, "some of the data is there", func(context.Context) error {
		var err error
		if to, err = dr.Volume("movers", "data"); err != nil {
			return err
		}
		if some := used(to); some < largeFile/8 {
			return fmt.Errorf("%d bytes are", some)
		}
		return nil
	})
	if err := prod.Kill(t.Context(), "movers", "app=mover"); err != nil {
		t.Fatal(err)
	}
	half := used(to)
	t.Logf("the source's mover is killed at %d MiB", half>>20)
	eventually(t, "more of the data is there", func(context.Context) error {
		if more := used(to); more < half+largeFile/8 {
			return fmt.Errorf("%d bytes are", more)
		}
		return nil
	})
	if err := cable.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the cable is cut at %d MiB", used(to)>>20)
	before := used(to)
	stays := time.NewTimer(5 * time.Second) // long enough for connections to fill and stall
	<-stays.C
	if err := cable.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("it is whole again, at %d MiB", used(to)>>20)
	if before >= largeFile {
		t.Fatal("the copy was over before the cable was cut")
	}
	eventually(t, "the copy is done", func(context.Context) error {
		out, err := dr.Kubectl("get", "job", "--namespace=movers", "mover", "--output=jsonpath={.status.succeeded} {.status.failed}")
		if err == nil && strings.TrimSpace(out) != "1" {
			err = fmt.Errorf("its Job says %q", out)
		}
		return err
	})
	same(t, from, to)
	verdict := kubectl(t, dr, "get", "pods", "--namespace=movers", "--output=jsonpath={.items[*].status.containerStatuses[*].state.terminated.message}")
	var status world.MoverStatus
	if err := json.Unmarshal([]byte(verdict), &status); err != nil {
		t.Fatalf("the mover's last words are %q: %v", verdict, err)
	}
	if status.Verdict == nil || status.Verdict.Class != rsync.Done || status.Attempts < 2 {
		t.Fatalf("the mover's last words are %s", verdict)
	}
	t.Logf("done in %d attempts, %d MiB received", status.Attempts, status.Received>>20)
}

// session is what a mover is given, for its manifest.
func session(t *testing.T, m world.Movers, r stream.Role) map[string]string {
	t.Helper()
	values := map[string]string{"port": strconv.Itoa(moverPort)}
	for name, file := range map[string]string{"config": "config.json", "identity": "identity.pem"} {
		text, err := os.ReadFile(filepath.Join(m.Dir, r.String(), file))
		if err != nil {
			t.Fatal(err)
		}
		values[name] = base64.StdEncoding.EncodeToString(text)
	}
	return values
}

// volume is the directory of the claim movers/data.
func volume(t *testing.T, c *node.Cluster) string {
	t.Helper()
	dir, err := c.Volume("movers", "data")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// moverImage is the mover, a real rsync, and the libraries it needs.
func moverImage(t *testing.T) node.Image {
	t.Helper()
	tools := filepath.Join(root, ".cache", "bin")
	program, libraries := filepath.Join(tools, "rsync"), ""
	if own := filepath.Join(tools, "rsync.d", "root"); exists(own) { // else it is a link to the system's
		program = filepath.Join(own, "usr", "bin", "rsync")
		found, err := filepath.Glob(filepath.Join(own, "usr", "lib", "*", "libpopt.so.0"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the libraries of rsync are not in %q: %v", own, err)
		}
		libraries = filepath.Dir(found[0])
	}
	image := node.Image{
		Name: "dr-syncer.test/mover:e2e", Entrypoint: []string{"/usr/bin/mover"}, User: strconv.Itoa(moverUser),
		Files: []node.File{{Path: "/usr/bin/mover", From: filepath.Join(root, "bin", "rsync")}, {Path: "/usr/bin/rsync", From: program}},
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), "LD_TRACE_LOADED_OBJECTS=1", "LD_LIBRARY_PATH="+libraries)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) { // "libx.so.1 => /lib/libx.so.1 (0x7f)", or the loader by its path
		name, path, ok := strings.Cut(strings.TrimSpace(line), " => ")
		inImage := "/usr/lib/" + name
		if !ok {
			inImage, _, _ = strings.Cut(name, " (")
			path = name
		}
		if path, _, _ = strings.Cut(path, " ("); filepath.IsAbs(path) { // what the kernel itself provides has none
			image.Files = append(image.Files, node.File{Path: inImage, From: path})
		}
	}
	return image
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// used is how many bytes the files of a tree occupy now.
func used(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil // what is renamed meanwhile counts at the next look
	})
	return sum
}

// plant makes a tree with what trees have: many files, a large and a sparse one, odd
// names, links of both kinds, modes.
func plant(t *testing.T, dir string) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	content := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	var errs []error
	write := func(name string, data []byte, mode os.FileMode) {
		path := filepath.Join(dir, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, mode), os.Chmod(path, mode))
	}
	for i := range 300 {
		write(fmt.Sprintf("small/%d/%d", i%7, i), content(r.IntN(5000)), 0o640)
	}
	write("large", content(largeFile), 0o600)
	write("odd/a\nb \xff'\"*", []byte("odd"), 0o444)
	write("odd/-rf", nil, 0o755)
	write("sparse", nil, 0o600)
	errs = append(errs,
		os.Truncate(filepath.Join(dir, "sparse"), 1<<20),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
		os.Symlink("../outside", filepath.Join(dir, "symlink")),
		os.Link(filepath.Join(dir, "odd", "-rf"), filepath.Join(dir, "hard link")),
		filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			return os.Lchown(path, moverUser, moverUser)
		}))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// same asks rsync itself what differs between two trees, contents included.
func same(t *testing.T, from, to string) {
	t.Helper()
	if have := used(to); have < largeFile {
		t.Fatalf("there are only %d bytes", have)
	}
	program := filepath.Join(root, ".cache", "bin", "rsync")
	out, err := exec.CommandContext(t.Context(), program, "-aHAXn", "--checksum", "--delete", "--numeric-ids", "--itemize-changes", from+"/", to+"/").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The directories themselves are the providers'.
	for line := range strings.Lines(string(out)) {
		if !strings.HasSuffix(line, " ./\n") {
			t.Errorf("differs: %s", line)
		}
	}
}
