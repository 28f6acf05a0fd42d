package collect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

// connect makes a client of its own from a kubeconfig.
func (w *world) connect(kubeconfig string) *kube.Client {
	w.t.Helper()
	c, err := kube.Connect(kube.Settings{Kubeconfig: kubeconfig})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// tombstones returns the names of the objects whose last event is a deletion that nobody has to approve.
func (w *world) tombstones() []string {
	var names []string
	for ref, r := range w.current() {
		if r.Op == pipeline.OpDelete && r.Evidence != pipeline.EvidenceReset {
			names = append(names, ref.Name)
		}
	}
	return names
}

// offered returns the names of the objects whose deletion somebody has to approve.
func (w *world) offered() []string {
	var names []string
	for ref, r := range w.current() {
		if r.Op == pipeline.OpDelete && r.Evidence == pipeline.EvidenceReset {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return names
}

func TestDeletesWhileDownAreSwept(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("swept") + configMap("swept", "stays", "1") + configMap("swept", "goes", "1") +
		configMap("swept", "recreated", "1") +
		namespaceYAML("wiped") + configMap("wiped", "a", "1") + configMap("wiped", "b", "1"))
	w.start()
	w.caughtUp()
	w.stop()
	before := w.position()

	w.kubectl("delete", "-n", "swept", "configmap/goes", "configmap/recreated")
	w.apply(configMap("swept", "recreated", "2") + configMap("swept", "new", "1"))
	w.kubectl("delete", "-n", "wiped", "configmaps", "--all")
	w.start()
	w.caughtUp()

	events := w.eventsAfter(before)
	for name, want := range map[string][]string{
		"stays":     nil,
		"goes":      {"delete sweep"},
		"recreated": {"delete replaced", "put"},
		"new":       {"put"},
		"a":         {"delete sweep"},
		"b":         {"delete sweep"},
	} {
		if diff := cmp.Diff(want, of(events, name)); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", name, diff)
		}
	}
	if p := w.position(); p.Epoch != before.Epoch {
		t.Errorf("a new epoch began: %s after %s", p, before)
	}
}

func TestRestartWritesNothing(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("restart") + configMap("restart", "a", "1") + shop)
	w.start()
	w.caughtUp()
	w.stop()
	before := w.position()
	for range 2 {
		w.start()
		w.caughtUp()
		w.stop()
	}
	if events := w.eventsAfter(before); len(events) != 0 {
		t.Errorf("written by restarts: %v", events)
	}
}

func TestWatchCutAndCompacted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kubetest.Start(t))
	proxy := w.cluster.Proxy()
	w.source = w.connect(proxy.Kubeconfig())
	w.apply(namespaceYAML("shop") + configMap("shop", "goes", "1") + configMap("shop", "changes", "1"))
	w.start()
	w.caughtUp()

	proxy.Cut()
	w.kubectl("delete", "-n", "shop", "configmap/goes")
	w.apply(configMap("shop", "changes", "2"))
	if err := w.cluster.CompactNow(); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted while nothing could be seen: %v", got)
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	w.caughtUp()
	if diff := cmp.Diff([]string{"goes"}, w.tombstones()); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
}

func TestHalfListsDeleteNothing(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	var yaml strings.Builder
	yaml.WriteString(namespaceYAML("half"))
	for i := range 200 {
		yaml.WriteString(configMap("half", fmt.Sprintf("c%03d", i), incompressible(3000)))
	}
	w.apply(yaml.String())
	proxy := w.cluster.Proxy()
	w.start()
	w.caughtUp()
	w.stop()

	w.kubectl("delete", "-n", "half", "configmap/c007")
	w.source = w.connect(proxy.Kubeconfig())
	proxy.BreakAfter(200_000) // enough for discovery, not for all the ConfigMaps
	w.start()
	w.eventually("configmaps fail", func() string {
		if h := w.heartbeat(); h.Failing["configmaps"] == "" || h.Complete {
			return fmt.Sprintf("heartbeat %+v", h)
		}
		return ""
	})
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted by half a list: %v", got)
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	w.caughtUp()
	if diff := cmp.Diff([]string{"c007"}, w.tombstones()); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
}

// incompressible returns text that does not get smaller on its way.
func incompressible(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(rand.Text())
	}
	return b.String()
}

const readerRole = `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: collector-under-test}
rules:
- {apiGroups: [""], resources: [namespaces, secrets%s], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: collector-under-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: collector-under-test}
subjects: [{kind: User, name: collector, apiGroup: rbac.authorization.k8s.io}]
`

func TestForbiddenForAWhile(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.config.Kinds.Include = []string{"namespaces", "secrets", "configmaps"}
	w.apply(namespaceYAML("forbidden") + configMap("forbidden", "stays", "1") + configMap("forbidden", "goes", "1") + fmt.Sprintf(readerRole, ", configmaps"))
	w.source = w.connect(w.cluster.User("collector"))
	w.start()
	w.caughtUp()
	w.stop()

	w.apply(fmt.Sprintf(readerRole, ""))
	w.kubectl("delete", "-n", "forbidden", "configmap/goes")
	w.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: login, namespace: forbidden}\nstringData: {a: b}\n")
	w.start()
	w.eventually("configmaps are forbidden, secrets collected", func() string {
		h := w.heartbeat()
		if !strings.Contains(h.Failing["configmaps"], "forbidden") {
			return fmt.Sprintf("failing: %v", h.Failing)
		}
		for ref := range w.current() {
			if ref.Name == "login" {
				return ""
			}
		}
		return "no Secret"
	})
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted by a missing permission: %v", got)
	}
	w.apply(fmt.Sprintf(readerRole, ", configmaps"))
	w.caughtUp()
	if diff := cmp.Diff([]string{"goes"}, w.tombstones()); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
	if h := w.heartbeat(); len(h.Failing) != 0 {
		t.Errorf("still failing: %v", h.Failing)
	}
}

func TestRestoredSourceDeletesNothing(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"WhileRunning": true, "WhileDown": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kubetest.Start(t))
			w.apply(namespaceYAML("shop") + configMap("shop", "old", "1") + configMap("shop", "changed", "1"))
			w.start()
			w.caughtUp()
			snapshot, err := w.cluster.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			lost := configMap("shop", "changed", "2")
			var names []string
			for i := range 20 {
				names = append(names, fmt.Sprintf("lost%02d", i))
				lost += configMap("shop", names[i], "1")
			}
			w.apply(lost)
			w.kubectl("delete", "-n", "shop", "configmap/old")
			w.caughtUp()
			before := w.position()
			if !running {
				w.stop()
			}
			if err := w.cluster.Restore(snapshot); err != nil {
				t.Fatal(err)
			}
			if !running {
				w.start()
			}
			w.eventually("new epoch", func() string {
				if p := w.position(); p.Epoch == before.Epoch {
					return p.String()
				}
				return ""
			})
			// What the source lost is for somebody to decide; what it has is there as it has it.
			w.eventually("log has what the cluster has", func() string { return cmp.Diff(w.inCluster(), w.inLog()) })
			w.eventually("the deletion of what was lost is offered", func() string { return cmp.Diff(names, w.offered()) })
			if got := w.tombstones(); len(got) != 0 {
				t.Errorf("deleted: %v", got)
			}
			w.eventually("nothing is left to be told", func() string {
				if h := w.heartbeat(); h.Held != 0 {
					return fmt.Sprintf("%d are held", h.Held)
				}
				return ""
			})
			// In the new epoch deletions are deletions again, across a restart too.
			w.stop()
			w.kubectl("delete", "-n", "shop", "configmap/old")
			w.start()
			w.eventually("old is deleted", func() string { return cmp.Diff([]string{"old"}, w.tombstones()) })
		})
	}
}

// hooked is a Source with some methods replaced.
type hooked struct {
	Source
	clusterUID func(ctx context.Context) (string, error)
	kinds      func(ctx context.Context) ([]kube.Kind, error)
}

func (h *hooked) ClusterUID(ctx context.Context) (string, error) {
	if h.clusterUID != nil {
		return h.clusterUID(ctx)
	}
	return h.Source.ClusterUID(ctx)
}

func (h *hooked) Kinds(ctx context.Context) ([]kube.Kind, error) {
	if h.kinds != nil {
		return h.kinds(ctx)
	}
	return h.Source.Kinds(ctx)
}

func TestAnotherClusterUnderTheSameName(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("renamed") + configMap("renamed", "goes", "1"))
	w.start()
	w.caughtUp()
	w.stop()
	before := w.position()

	w.kubectl("delete", "-n", "renamed", "configmap/goes")
	w.source = &hooked{Source: w.source, clusterUID: func(context.Context) (string, error) { return "another", nil }}
	w.start()
	w.eventually("complete", func() string {
		if h := w.heartbeat(); h.Incarnation != "another" || !h.Complete {
			return fmt.Sprintf("%+v", h)
		}
		return ""
	})
	if p := w.position(); p.Epoch == before.Epoch {
		t.Error("no new epoch")
	}
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted: %v", got)
	}
	w.eventually("the deletion of what the other lacks is offered", func() string { return cmp.Diff([]string{"goes"}, w.offered()) })
}

// TestSwappedCluster has another cluster take the address while the collector runs: one that has come so far
// that the watches go on there without a list.
func TestSwappedCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kubetest.Start(t))
	proxy := w.cluster.Proxy()
	w.source = w.connect(proxy.Kubeconfig())
	w.apply(namespaceYAML("shop") + configMap("shop", "same", "first") + configMap("shop", "ours", "first"))
	w.start()
	w.caughtUp()
	first, err := w.cluster.Client().ClusterUID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	var seen uint64
	for _, version := range w.heartbeat().Through {
		seen = max(seen, number(version))
	}
	if err := w.cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.cluster.Dir(), "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Start(); err != nil {
		t.Fatal(err)
	}
	second, err := w.cluster.Client().ClusterUID(t.Context())
	if err != nil || second == first {
		t.Fatalf("the other cluster is %q, %v: want another than %q", second, err, first)
	}
	w.apply(namespaceYAML("shop"))
	for i, now := 0, uint64(0); now <= seen; i++ {
		w.put("shop", "filler", fmt.Sprint(i))
		filler, err := w.cluster.Client().Get(t.Context(), configMaps, "shop", "filler")
		if err != nil {
			t.Fatal(err)
		}
		now = number(filler.Version)
	}
	told := first // every term begins with a heartbeat
	var inOld []string
	w.log.SetFault(func(_ string, events []pipeline.Event) memlog.Fault {
		for _, e := range events {
			if h, err := e.Heartbeat(); err == nil {
				told = h.Incarnation
			} else if told == first {
				inOld = append(inOld, e.Op.String()+" "+e.Ref.Name)
			}
		}
		return memlog.Fault{}
	})
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	w.apply(configMap("shop", "same", "second") + configMap("shop", "theirs", "second"))
	w.eventually("collected from the other", func() string {
		if h := w.heartbeat(); h.Incarnation != second || !h.Complete {
			return fmt.Sprintf("%+v", h)
		}
		return ""
	})
	w.eventually("all of the other is in the log", func() string {
		here, there := w.inLog(), w.inCluster()
		maps.DeleteFunc(here, func(key, _ string) bool { return there[key] == "" }) // what only the first had is held
		return cmp.Diff(there, here)
	})
	w.stop()
	w.log.SetFault(nil)
	if len(inOld) > 0 {
		t.Errorf("the other cluster's changes went into the first's epoch: %v", inOld)
	}
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted: %v", got)
	}
}

func TestUnknownIdentityDeletesNothing(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("unknown") + configMap("unknown", "goes", "1"))
	w.start()
	w.caughtUp()
	w.stop()
	w.kubectl("delete", "-n", "unknown", "configmap/goes")

	client := w.cluster.Client()
	var broken atomic.Bool
	asked := make(chan struct{}, 100)
	w.source = &hooked{Source: client, clusterUID: func(ctx context.Context) (string, error) {
		if broken.Swap(true) {
			select {
			case asked <- struct{}{}:
			default:
			}
			return "", errors.New("cannot tell")
		}
		return client.ClusterUID(ctx)
	}}
	w.start()
	<-asked
	<-asked // it tries again
	if got := w.tombstones(); len(got) != 0 {
		t.Errorf("deleted: %v", got)
	}
	w.stop()
	w.source = client
	w.start()
	w.caughtUp()
	if diff := cmp.Diff([]string{"goes"}, w.tombstones()); diff != "" {
		t.Errorf("tombstones (-want +got):\n%s", diff)
	}
}

func TestSecondCollectorFencesTheFirst(t *testing.T) {
	w := newWorld(t, kubetest.Shared(t))
	w.apply(namespaceYAML("fence") + configMap("fence", "a", "1"))
	first := w.start()
	w.caughtUp()
	second := w.start()
	w.eventually("first ends", func() string {
		if first.ended() {
			return ""
		}
		return "runs on"
	})
	if err := first.stop(); !errors.Is(err, pipeline.ErrFenced) {
		t.Errorf("first: %v, want that it was fenced", err)
	}
	w.apply(configMap("fence", "b", "1"))
	w.caughtUp()
	if second.ended() {
		t.Error("the second has ended too")
	}
}
