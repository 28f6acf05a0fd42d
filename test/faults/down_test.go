package faults

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestChangesWhileDown changes, creates and deletes objects while one part is
// down, and wants equality after it is back.
func TestChangesWhileDown(t *testing.T) {
	t.Parallel()
	w := start(t, world.Options{ExternalLog: filepath.Join(bin, "nats-server")})
	r := random(t)
	cases := []struct {
		name  string
		parts []*world.Process
		kill  bool
	}{
		{"CollectorStopped", []*world.Process{w.Collector}, false},
		{"CollectorKilled", []*world.Process{w.Collector}, true},
		{"ApplierStopped", []*world.Process{w.Applier}, false},
		{"ApplierKilled", []*world.Process{w.Applier}, true},
		{"LogStopped", []*world.Process{w.Log}, false},
		{"LogKilled", []*world.Process{w.Log}, true},
		{"AllKilled", []*world.Process{w.Collector, w.Applier, w.Log}, true},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ns := fmt.Sprintf("down-%d", i)
			put(t, w, world.Namespace(ns))
			var objects []world.Object
			for n := range 60 {
				o := world.Mixed(r, ns, n)
				objects = append(objects, o)
				put(t, w, o)
			}
			replicate(t, w, ns, ns, anyDeletions)
			converges(t, w, same(ns))
			for _, p := range c.parts {
				if c.kill {
					p.Kill()
				} else if err := p.Stop(30 * time.Second); err != nil {
					t.Error(err)
				}
			}
			for n, o := range objects {
				switch n % 4 {
				case 0:
					remove(t, w, o)
				case 1:
					if o.Kind.Resource == "configmaps" {
						put(t, w, world.ConfigMap(r, ns, o.Name, 300, n))
					}
				case 2:
					// Deleted and made anew under the same name.
					remove(t, w, o)
					put(t, w, o)
				}
			}
			for n := range 20 {
				put(t, w, world.Mixed(r, ns, 100+n))
			}
			for _, p := range slices.Backward(c.parts) {
				if err := p.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			t.Log(converges(t, w, same(ns)))
		})
	}
}

// TestNamespaceWipedWhileCollectorDown deletes a whole namespace at the source
// while nobody watches: the completed sweep finds it out, the guard asks first, and
// nothing else waits for the answer.
func TestNamespaceWipedWhileCollectorDown(t *testing.T) {
	t.Parallel()
	w := start(t, world.Options{Controllers: true})
	r := random(t)
	for _, ns := range []string{"wiped", "kept"} {
		put(t, w, world.Namespace(ns))
		for n := range 40 {
			put(t, w, world.Mixed(r, ns, n))
		}
	}
	replicate(t, w, "both", "wiped, kept", "")
	converges(t, w, same("wiped", "kept"))
	w.Collector.Kill()
	remove(t, w, world.Namespace("wiped"))
	eventually(t, "the namespace is gone at the source", func() bool {
		out, err := w.Prod.Kubectl("get", "namespace", "wiped", "--ignore-not-found")
		return err == nil && out == ""
	})
	if err := w.Collector.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletions are held", func() bool {
		return get(t, w, ".status.deletions.held", "replication", "both") != ""
	})
	put(t, w, world.ConfigMap(r, "kept", "after", 300, 1))
	converges(t, w, same("kept"))
	if out, err := w.DR.Kubectl("annotate", "replication", "both", v1alpha1.AnnotationApproveDeletions+"=yes"); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, "the namespace is gone at the destination", func() bool {
		out, err := w.DR.Kubectl("get", "namespace", "wiped", "--ignore-not-found")
		return err == nil && out == ""
	})
	converges(t, w, same("wiped", "kept"))
}

// TestFrozen stops each part in its tracks for longer than the heartbeats and
// lets it go on.
func TestFrozen(t *testing.T) {
	t.Parallel()
	w := start(t, world.Options{ExternalLog: filepath.Join(bin, "nats-server")})
	r := random(t)
	put(t, w, world.Namespace("frozen"))
	replicate(t, w, "frozen", "frozen", anyDeletions)
	for i, p := range []*world.Process{w.Collector, w.Applier, w.Log} {
		t.Run(p.Name, func(t *testing.T) {
			p.Freeze()
			for n := range 30 {
				put(t, w, world.Mixed(r, "frozen", 100*i+n))
			}
			wait(t, 12*time.Second)
			p.Thaw()
			converges(t, w, same("frozen"))
		})
	}
}
