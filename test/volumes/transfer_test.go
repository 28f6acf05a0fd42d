package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// products builds collector and applier beside the mover, once.
var products = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Dir(binary)+"/",
		"github.com/dr-syncer/dr-syncer/cmd/collector", "github.com/dr-syncer/dr-syncer/cmd/applier")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the products: %w: %s", err, out)
	}
	return nil
})

// stage is two clusters with a node each and the product between them.
type stage struct {
	*world.World
	prod, dr *world.Kubelet
}

func newStage(t *testing.T) *stage {
	t.Helper()
	must(t, products())
	dir := t.TempDir()
	movers := []string{"--mover-image", "mover"}
	w, err := world.New(t.Context(), world.Options{
		Dir: dir, Bin: filepath.Dir(binary), CollectorArgs: movers, ApplierArgs: movers,
	})
	must(t, err)
	t.Cleanup(w.Close)
	s := &stage{World: w}
	for _, n := range []struct {
		to      **world.Kubelet
		name    string
		cluster *kubetest.Cluster
	}{{&s.prod, "prod", w.Prod}, {&s.dr, "dr", w.DR}} {
		k := &world.Kubelet{Dir: filepath.Join(dir, "node-"+n.name), Binary: binary, Rsync: program, Node: n.name}
		must(t, k.Start(context.WithoutCancel(t.Context()), n.cluster))
		t.Cleanup(func() {
			if err := k.Close(); err != nil && t.Failed() {
				t.Log(err)
			}
		})
		*n.to = k
		must(t, n.cluster.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}"))
		must(t, n.cluster.Apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {namespace: shop, name: default}"))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("collector:\n%s\napplier:\n%s\nmovers:\n%s\n%s", w.Collector.Tail(25), w.Applier.Tail(25), s.prod.Tails(), s.dr.Tails())
			for _, c := range []*kubetest.Cluster{w.Prod, w.DR} {
				out, err := c.Kubectl("get", "vt,pods,pvc", "-n", "shop", "-oyaml")
				t.Logf("%v\n%s", err, out[:min(len(out), 12000)])
			}
		}
	})
	return s
}

// claim makes a claim of the source, and returns its directory.
func (s *stage) claim(t *testing.T, name string) string {
	t.Helper()
	must(t, s.Prod.Apply(fmt.Sprintf("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {namespace: shop, name: %s}\n"+
		"spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}", name)))
	dir, err := s.prod.Claim("shop", name)
	must(t, err)
	return dir
}

// transfer makes a VolumeTransfer.
func (s *stage) transfer(t *testing.T, name, spec string) {
	t.Helper()
	must(t, s.DR.Apply(fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: VolumeTransfer\nmetadata: {namespace: shop, name: %s}\nspec: %s\n", name, spec)))
}

// status reads that of a VolumeTransfer.
func (s *stage) status(t *testing.T, name string) v1alpha1.VolumeTransferStatus {
	t.Helper()
	out, err := s.DR.Kubectl("get", "vt", "-n", "shop", name, "-ojson")
	must(t, err)
	var vt v1alpha1.VolumeTransfer
	must(t, json.Unmarshal([]byte(out), &vt))
	return vt.Status
}

// until waits until a VolumeTransfer is as it is wanted.
func (s *stage) until(t *testing.T, name, what string, ok func(v1alpha1.VolumeTransferStatus) bool) v1alpha1.VolumeTransferStatus {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * patience)
	for {
		if st := s.status(t, name); ok(st) {
			return st
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s to be %s", name, what)
		}
	}
}

func ended(st v1alpha1.VolumeTransferStatus) bool {
	return st.Phase == v1alpha1.VolumeTransferComplete || st.Phase == v1alpha1.VolumeTransferFailed
}

// empty waits until neither cluster holds anything that movers need.
func (s *stage) empty(t *testing.T) {
	t.Helper()
	for _, c := range []*kubetest.Cluster{s.Prod, s.DR} {
		eventually(t, "nothing of the transfers to be left", func() bool {
			out, err := c.Kubectl("get", "pods,secrets", "-A", "-oname", "-l", transfer.LabelEnd)
			return err == nil && strings.TrimSpace(out) == ""
		})
	}
	for _, k := range []*world.Kubelet{s.prod, s.dr} {
		eventually(t, "no mover to run", func() bool { return len(k.Running()) == 0 })
	}
}

// TestTransfer has volumes copied by nothing but a resource: whole, looked after while they are, and with nothing left behind.
func TestTransfer(t *testing.T) {
	s := newStage(t)
	from := s.claim(t, "db")
	plant(t, from, 8<<20, 100)
	s.claim(t, "private")
	_, err := s.Prod.Kubectl("annotate", "pvc", "-n", "shop", "private", transfer.AnnotationPrevent+"=true")
	must(t, err)
	must(t, s.DR.Apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {namespace: shop, name: theirs}\n"+
		"spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}"))
	must(t, s.Start(t.Context()))
	s.transfer(t, "db", `{source: {site: prod, namespace: shop, claim: db}, destination: {claim: db-copy}, verify: Full, bandwidthLimit: 1Mi}`)
	s.transfer(t, "private", `{source: {site: prod, namespace: shop, claim: private}, destination: {}}`)
	s.transfer(t, "theirs", `{source: {site: prod, namespace: shop, claim: db}, destination: {claim: theirs}}`)
	s.until(t, "db", "seen to copy", func(st v1alpha1.VolumeTransferStatus) bool {
		if ended(st) {
			t.Fatalf("it ended before it was seen: %+v", st)
		}
		return st.Phase == v1alpha1.VolumeTransferTransferring && st.Copy != nil && st.Copy.Received > 0 && st.Copy.Carrier == "direct"
	})
	_, err = s.DR.Kubectl("patch", "vt", "-n", "shop", "db", "--type=json", "-p", `[{"op":"remove","path":"/spec/bandwidthLimit"}]`)
	must(t, err)
	st := s.until(t, "db", "done", ended)
	if st.Phase != v1alpha1.VolumeTransferComplete || st.Copy.Verified != "Full" || st.Failures != 0 || st.RecoveryPoint == nil || st.Source.Capacity.String() != "1Gi" {
		t.Errorf("it ended with %+v", st)
	}
	to, err := s.dr.Claim("shop", "db-copy")
	must(t, err)
	same(t, from, to)
	for name, want := range map[string]struct{ class, says string }{
		"private": {"Refused", transfer.AnnotationPrevent}, "theirs": {"Permanent", "adopt"},
	} {
		st := s.until(t, name, "refused", ended)
		if st.Phase != v1alpha1.VolumeTransferFailed || st.Outcome.Class != want.class || !strings.Contains(st.Outcome.Message, want.says) {
			t.Errorf("%s ended with %+v", name, st.Outcome)
		}
	}
	s.empty(t)
	// Once more, with a change: only that goes over, and what the source lost is deleted.
	must(t, errors.Join(os.WriteFile(filepath.Join(from, "new"), []byte("more"), 0o600), os.Remove(filepath.Join(from, "d1", "f1"))))
	s.transfer(t, "again", `{source: {site: prod, namespace: shop, claim: db}, destination: {claim: db-copy}, deletions: {}}`)
	st = s.until(t, "again", "done", ended)
	if st.Phase != v1alpha1.VolumeTransferComplete || st.Copy.Deleted != 1 || st.Copy.Received > 1<<20 {
		t.Errorf("it ended with %+v %+v", st.Outcome, st.Copy)
	}
	same(t, from, to)
	s.empty(t)
}

// TestTransferKilled kills the movers and both programs at random moments, again and again. The copy becomes whole, and nothing
// is left behind.
func TestTransferKilled(t *testing.T) {
	s := newStage(t)
	from := s.claim(t, "db")
	plant(t, from, 24<<20, 200)
	must(t, s.Start(t.Context()))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s.transfer(t, "db", `{source: {site: prod, namespace: shop, claim: db}, destination: {}, attempts: 50, bandwidthLimit: 2Mi}`)
	phases := []v1alpha1.VolumeTransferPhase{
		v1alpha1.VolumeTransferPreparing, v1alpha1.VolumeTransferConnecting, v1alpha1.VolumeTransferTransferring, v1alpha1.VolumeTransferTransferring,
	}
	victims := []string{"source", "destination", "applier", "collector"}
	r.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for i, victim := range victims {
		phase := phases[i]
		if victim == "source" || victim == "destination" {
			phase = v1alpha1.VolumeTransferTransferring // they run in no other
		}
		s.until(t, "db", "in phase "+string(phase), func(st v1alpha1.VolumeTransferStatus) bool {
			if ended(st) {
				t.Fatalf("it ended before the %s was killed: %+v", victim, st.Outcome)
			}
			return st.Phase == phase || phase != v1alpha1.VolumeTransferTransferring && st.Phase == v1alpha1.VolumeTransferTransferring
		})
		switch victim {
		case "source":
			s.prod.Kill("source")
		case "destination":
			s.dr.Kill("destination")
		case "applier":
			s.Applier.Kill()
			must(t, s.Applier.Start(t.Context()))
		case "collector":
			s.Collector.Kill()
			must(t, s.Collector.Start(t.Context()))
		}
	}
	_, err := s.DR.Kubectl("patch", "vt", "-n", "shop", "db", "--type=json", "-p", `[{"op":"remove","path":"/spec/bandwidthLimit"}]`)
	must(t, err)
	st := s.until(t, "db", "done", ended)
	if st.Phase != v1alpha1.VolumeTransferComplete {
		t.Errorf("it ended with %+v", st)
	}
	to, err := s.dr.Claim("shop", "db")
	must(t, err)
	same(t, from, to)
	s.empty(t)
}
