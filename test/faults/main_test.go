package faults

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// bin holds the binaries under test, built from this tree.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "drs-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"github.com/dr-syncer/dr-syncer/cmd/collector", "github.com/dr-syncer/dr-syncer/cmd/applier", "github.com/nats-io/nats-server/v2")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs under test:", err)
		os.Exit(1)
	}
	if err := os.Rename(filepath.Join(dir, "v2"), filepath.Join(dir, "nats-server")); err != nil && !os.IsNotExist(err) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The worlds mostly wait. The flag -parallel says otherwise.
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(
			// The spawner lives as long as the program: see package world.
			goleak.IgnoreTopFunction("github.com/dr-syncer/dr-syncer/test/world.init.func1.1"),
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// start makes a running World that ends with the test and shows the programs'
// logs if the test failed.
func start(t *testing.T, o world.Options) *world.World {
	t.Helper()
	w := launch(t, o)
	run(t, w)
	return w
}

// launch makes a World whose programs do not run yet.
func launch(t *testing.T, o world.Options) *world.World {
	t.Helper()
	o.Dir, o.Bin = t.TempDir(), bin
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w, err := world.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		if t.Failed() {
			t.Logf("collector:\n%s\napplier:\n%s", w.Collector.Tail(60), w.Applier.Tail(60))
			if w.Log != nil {
				t.Logf("nats-server:\n%s", w.Log.Tail(30))
			}
		}
	})
	return w
}

// run starts the programs of a World.
func run(t *testing.T, w *world.World) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// random returns a generator whose seed is printed and can be set with DRS_SEED.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("DRS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("DRS_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("DRS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// anyDeletions is for replicate where so much is deleted that the guard would ask first.
const anyDeletions = "  deletionGuard: {disabled: true}\n"

// replicate creates a Replication named name of the given namespaces, with more of its spec in YAML (indented by two).
func replicate(t *testing.T, w *world.World, name, namespaces, more string) {
	t.Helper()
	if err := w.DR.Apply(fmt.Sprintf(`
apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: %s, namespace: default}
spec:
  source: {site: prod}
  namespaces: {names: [%s]}
%s`, name, namespaces, more)); err != nil {
		t.Fatal(err)
	}
}

// put writes an object at the source.
func put(t *testing.T, w *world.World, o world.Object) {
	t.Helper()
	if _, _, err := w.Prod.Client().Apply(t.Context(), o.Kind, o.Namespace, o.Name, o.Body); err != nil {
		t.Fatalf("write %s: %v", o.Ref(world.Site), err)
	}
}

// remove deletes an object at the source.
func remove(t *testing.T, w *world.World, o world.Object) {
	t.Helper()
	if err := w.Prod.Client().Delete(t.Context(), o.Kind, o.Namespace, o.Name, ""); err != nil {
		t.Fatalf("delete %s: %v", o.Ref(world.Site), err)
	}
}

// patience is how long a test waits for what has to come. What is silent for a minute counts as
// lost, and a busy machine needs its time.
const patience = 3 * time.Minute

// converges waits until both clusters are equal in scope.
func converges(t *testing.T, w *world.World, scope world.Scope) world.Comparison {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c, err := world.Compare(t.Context(), w.Prod.Client().REST(), w.DR.Client().REST(), scope)
		if err == nil && c.OK() {
			return c
		}
		if time.Now().After(deadline) {
			out, _ := w.DR.Kubectl("get", "replications", "-A", "-o", "yaml")
			t.Fatalf("not equal after %s: %v %s\n%s", patience, err, c, out)
		}
		wait(t, 200*time.Millisecond)
	}
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		wait(t, 50*time.Millisecond)
	}
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}

func same(namespaces ...string) world.Scope {
	s := world.Scope{Namespaces: make(map[string]string)}
	for _, n := range namespaces {
		s.Namespaces[n] = n
	}
	return s
}
