package kube_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// sawError reports whether the watch was told of an error that matches.
func (w *world) sawError(match func(error) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.errs, match)
}

func (w *world) isHealthy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.healthy
}

// keys returns what the handler believes to exist.
func (w *world) keys() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := make([]string, 0, len(w.objects))
	for k := range w.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func remove(t *testing.T, c *kube.Client, ns, name string) {
	t.Helper()
	if err := c.Delete(t.Context(), kindOf(t, c, "", "configmaps"), ns, name, ""); err != nil {
		t.Fatal(err)
	}
}

func TestCutWatchResumesWithoutAList(t *testing.T) {
	cluster := kubetest.Shared(t)
	direct, proxy := cluster.Client(), cluster.Proxy()
	ns := namespace(t, direct)
	put(t, direct, ns, "kept", "one")
	put(t, direct, ns, "removed", "one")
	c := connect(t, proxy.Kubeconfig())
	w := start(t, c, kindOf(t, c, "", "configmaps"), kube.WatchOptions{Namespace: ns})
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 })

	proxy.Cut()
	eventually(t, "the failure is reported", func() bool { return w.sawError(func(error) bool { return true }) })
	w.mu.Lock()
	w.connected = false
	w.mu.Unlock()
	put(t, direct, ns, "kept", "two")
	put(t, direct, ns, "added", "one")
	remove(t, direct, ns, "removed")
	if got, want := w.keys(), []string{ns + "/kept", ns + "/removed"}; !slices.Equal(got, want) {
		t.Errorf("while cut off the world is %v, want %v", got, want)
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changes arrive", func() bool {
		return slices.Equal(w.keys(), []string{ns + "/added", ns + "/kept"}) && w.text(ns+"/kept") == "two"
	})
	eventually(t, "health is reported", w.isHealthy)
	if w.lists() != 1 {
		t.Errorf("%d lists, want the watch to resume where it was", w.lists())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.deleted[ns+"/removed"]; !ok {
		t.Error("the deletion while cut off was not told as one")
	}
}

func TestExpiredWatchStartsOver(t *testing.T) {
	cluster := kubetest.Start(t)
	direct, proxy := cluster.Client(), cluster.Proxy()
	ns := namespace(t, direct)
	put(t, direct, ns, "kept", "one")
	put(t, direct, ns, "removed", "one")
	c := connect(t, proxy.Kubeconfig())
	w := start(t, c, kindOf(t, c, "", "configmaps"), kube.WatchOptions{Namespace: ns})
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 })

	proxy.Cut()
	remove(t, direct, ns, "removed")
	put(t, direct, ns, "added", "one")
	if err := cluster.CompactNow(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the state is right again", func() bool { return slices.Equal(w.keys(), []string{ns + "/added", ns + "/kept"}) })
	eventually(t, "health is reported", w.isHealthy)
	if w.lists() != 2 {
		t.Errorf("%d lists, want 2", w.lists())
	}
	if !w.sawError(kube.IsExpired) {
		t.Errorf("no 410 was reported: %v", w.errs)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.deleted[ns+"/removed"]; ok {
		t.Error("a deletion nobody saw was told as a DELETED event")
	}
}

func TestRestoredServerIsListedAgain(t *testing.T) {
	cluster := kubetest.Start(t)
	c := cluster.Client()
	ns := namespace(t, c)
	put(t, c, ns, "old", "one")
	snapshot, err := cluster.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, c, kindOf(t, c, "", "configmaps"), kube.WatchOptions{Namespace: ns})
	eventually(t, "the list is complete", func() bool { return w.lists() >= 1 })
	for i := range 500 {
		put(t, c, ns, "young", fmt.Sprint(i))
	}
	eventually(t, "the last change is seen", func() bool { return w.text(ns+"/young") == "499" })
	w.mu.Lock()
	before, lists := w.version, w.replaces
	w.mu.Unlock()

	if err := cluster.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the restored state is listed", func() bool { return w.lists() > lists })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.version) >= len(before) && w.version >= before {
		t.Errorf("the list's version is %s, want one before %s: the handler must be able to tell", w.version, before)
	}
	if !slices.Equal(w.listed, []string{ns + "/old"}) {
		t.Errorf("listed %v, want only what the snapshot holds", w.listed)
	}
	if _, ok := w.deleted[ns+"/young"]; ok {
		t.Error("what the restored server does not know was told as a DELETED event")
	}
}

func TestForbiddenWatchWaitsForItsGrant(t *testing.T) {
	cluster := kubetest.Shared(t)
	admin := cluster.Client()
	ns := namespace(t, admin)
	put(t, admin, ns, "one", "one")
	user := "watcher-" + ns
	w := start(t, connect(t, cluster.User(user)), kindOf(t, admin, "", "configmaps"), kube.WatchOptions{Namespace: ns})
	eventually(t, "the refusal is reported", func() bool {
		return w.sawError(func(err error) bool { return kube.IsForbidden(err) && pipeline.ClassOf(err) == pipeline.Forbidden })
	})
	if w.lists() != 0 {
		t.Error("a refused list was told as a complete one")
	}
	if err := cluster.Apply(fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: watcher, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: watcher, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: watcher}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[2]s}]
`, ns, user)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 && slices.Equal(w.keys(), []string{ns + "/one"}) })
	eventually(t, "health is reported", w.isHealthy)
}

func TestKindThatGoesAndComesBack(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	crd := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: visitors.watch.example.com}
spec:
  group: watch.example.com
  scope: Namespaced
  names: {plural: visitors, kind: Visitor, singular: visitor, listKind: VisitorList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`
	if err := cluster.Apply(crd); err != nil {
		t.Fatal(err)
	}
	k := awaitKind(t, c, "watch.example.com", "visitors")
	ns := namespace(t, c)
	visitor := []byte(`{"apiVersion":"watch.example.com/v1","kind":"Visitor","metadata":{"name":"one"},"data":{"text":"hello"}}`)
	if _, _, err := c.Apply(t.Context(), k, ns, "one", visitor); err != nil {
		t.Fatal(err)
	}
	w := start(t, c, k, kube.WatchOptions{})
	eventually(t, "the list is complete", func() bool { return w.lists() >= 1 })
	if got := w.text(ns + "/one"); got != "hello" {
		t.Errorf("the custom object says %q", got)
	}
	lists := w.lists()
	if err := cluster.Remove(crd); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind's end is reported", func() bool { return w.sawError(kube.IsNotFound) })
	if w.lists() != lists {
		t.Error("the vanished kind was told as an empty list")
	}
	if err := cluster.Apply(crd); err != nil {
		t.Fatal(err)
	}
	awaitKind(t, c, "watch.example.com", "visitors")
	if _, _, err := c.Apply(t.Context(), k, ns, "two", []byte(strings.Replace(string(visitor), `"one"`, `"two"`, 1))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind's return is seen", func() bool { return w.text(ns+"/two") == "hello" && w.isHealthy() })
}

// noise is text that does not compress: the server may compress its answers.
func noise(size int) string {
	b := make([]byte, size/2)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b)
}

func TestHalfAListIsNoList(t *testing.T) {
	cluster := kubetest.Shared(t)
	admin, proxy := cluster.Client(), cluster.Proxy()
	ns := namespace(t, admin)
	const count = 40
	for i := range count {
		put(t, admin, ns, fmt.Sprintf("object-%02d", i), noise(10<<10))
	}
	c := connect(t, proxy.Kubeconfig())
	k := kindOf(t, c, "", "configmaps")
	proxy.BreakAfter(150 << 10) // the initial state is about 400 KiB
	w := start(t, c, k, kube.WatchOptions{Namespace: ns})
	eventually(t, "several attempts broke", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.errs) >= 3
	})
	if w.lists() != 0 {
		t.Error("half a list was told as a complete one")
	}
	if n := len(w.keys()); n == 0 || n >= count {
		t.Errorf("%d objects were observed before the break, want some of %d", n, count)
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 })
	if n := len(w.keys()); n != count {
		t.Errorf("%d objects, want %d", n, count)
	}
}

func TestPagedListWhereTheServerDoesNotStream(t *testing.T) {
	cluster := kubetest.Start(t, kubetest.WithArgs("--feature-gates=WatchList=false"))
	c := cluster.Client()
	ns := namespace(t, c)
	const count = 700 // more than a page
	var wg sync.WaitGroup
	for part := range 10 {
		wg.Go(func() {
			for i := part; i < count; i += 10 {
				name := fmt.Sprintf("object-%03d", i)
				if _, _, err := c.Apply(t.Context(), kube.Kind{GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1"}, ns, name, note(ns, name, name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, metadataOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("metadata only %v", metadataOnly), func(t *testing.T) {
			w := &bodies{world: newWorld()}
			k := kindOf(t, c, "", "configmaps")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.Watch(ctx, k, kube.WatchOptions{Namespace: ns, MetadataOnly: metadataOnly, OnError: w.onError, OnConnect: w.onConnect}, w)
			}()
			eventually(t, "the list is complete", func() bool { return w.lists() == 1 })
			if n := len(w.keys()); n != count {
				t.Errorf("%d objects, want %d", n, count)
			}
			put(t, c, ns, "later", "later")
			eventually(t, "a change is seen", func() bool { return slices.Contains(w.keys(), ns+"/later") })
			remove(t, c, ns, "later")
			eventually(t, "the deletion is seen", func() bool { return !slices.Contains(w.keys(), ns+"/later") })
			cancel()
			<-done
			if n := w.blinds(); n > 0 {
				t.Errorf("%d objects were handed over before it was told that a server answers", n)
			}
			if len(w.errs) > 0 || len(w.bad) > 0 {
				t.Errorf("errors: %v; objects without type or identity: %.3v", w.errs, w.bad)
			}
		})
	}
}

// bodies also checks that each observed body is a whole object.
type bodies struct {
	*world
	bad []string
}

func (b *bodies) Observe(o kube.Object) {
	m, err := kube.MetaOf(o)
	if err != nil || m.UID != o.UID || m.Version != o.Version || m.Name != o.Name || m.Namespace != o.Namespace ||
		!strings.Contains(string(o.Raw), `"apiVersion":`) || !strings.Contains(string(o.Raw), `"kind":`) {
		b.bad = append(b.bad, string(o.Raw))
	}
	b.world.Observe(o)
}

func TestInitialStateIsStreamed(t *testing.T) {
	cluster := kubetest.Shared(t)
	ns := namespace(t, cluster.Client())
	put(t, cluster.Client(), ns, "one", "one")
	count := func(verb string) int {
		t.Helper()
		out, err := cluster.Kubectl("get", "--raw", "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "apiserver_request_total{") && strings.Contains(line, `resource="configmaps"`) &&
				strings.Contains(line, `scope="namespace"`) && strings.Contains(line, `verb="`+verb+`"`) {
				var n int
				if _, err := fmt.Sscanf(line[strings.LastIndex(line, " ")+1:], "%d", &n); err != nil {
					t.Fatal(err)
				}
				total += n
			}
		}
		return total
	}
	before := count("LIST")
	k := kindOf(t, cluster.Client(), "", "configmaps")
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld()
	done := make(chan struct{})
	go func() {
		defer close(done)
		cluster.Client().Watch(ctx, k, kube.WatchOptions{Namespace: ns}, w)
	}()
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 })
	cancel()
	<-done
	if n := count("LIST") - before; n != 0 {
		t.Errorf("%d LIST requests, want the initial state streamed", n)
	}
	if len(w.keys()) != 1 {
		t.Errorf("world: %v", w.keys())
	}
}

func TestWatchEndsAtOnceWhileTheServerIsAway(t *testing.T) {
	cluster := kubetest.Shared(t)
	proxy := cluster.Proxy()
	c := connect(t, proxy.Kubeconfig())
	k := kindOf(t, c, "", "configmaps")
	proxy.Cut()
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Watch(ctx, k, kube.WatchOptions{OnError: w.onError}, w)
	}()
	eventually(t, "several attempts failed", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.errs) >= 4
	})
	cancel()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("Watch waits out its backoff after its context ended")
	}
}

func TestFailingConversionIsNoAbsence(t *testing.T) {
	cluster := kubetest.Shared(t)
	c := cluster.Client()
	crd := func(conversion string) string {
		return `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: changelings.conversion.example.com}
spec:
  group: conversion.example.com
  scope: Namespaced
  names: {plural: changelings, kind: Changeling, singular: changeling, listKind: ChangelingList}
  conversion: ` + conversion + `
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`
	}
	if err := cluster.Apply(crd("{strategy: None}")); err != nil {
		t.Fatal(err)
	}
	k := awaitKind(t, c, "conversion.example.com", "changelings")
	if k.Version != "v2" {
		t.Fatalf("the preferred version is %s, want v2", k.Version)
	}
	old := k
	old.Version = "v1"
	ns := namespace(t, c)
	if _, _, err := c.Apply(t.Context(), old, ns, "one", []byte(`{"apiVersion":"conversion.example.com/v1","kind":"Changeling","metadata":{"name":"one"},"data":{"text":"hello"}}`)); err != nil {
		t.Fatal(err)
	}
	w := start(t, c, k, kube.WatchOptions{})
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 && w.text(ns+"/one") == "hello" })

	dead := `{strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: "https://127.0.0.1:1/"}}}`
	if err := cluster.Apply(crd(dead)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reading fails", func() bool {
		_, err := c.Get(t.Context(), k, ns, "one")
		return err != nil && pipeline.ClassOf(err) == pipeline.Dependency
	})
	fresh := start(t, c, k, kube.WatchOptions{})
	eventually(t, "the failure is reported", func() bool { return fresh.sawError(func(error) bool { return true }) })
	if fresh.lists() != 0 {
		t.Error("objects that cannot be converted were told as an empty list")
	}
	if got := w.keys(); !slices.Equal(got, []string{ns + "/one"}) {
		t.Errorf("while the conversion fails the world is %v", got)
	}
	if err := cluster.Apply(crd("{strategy: None}")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both watches are right again", func() bool {
		return fresh.text(ns+"/one") == "hello" && w.text(ns+"/one") == "hello" && fresh.lists() > 0
	})
}

func TestSilentLineIsNoticed(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "1")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "1")
	cluster := kubetest.Shared(t)
	direct, proxy := cluster.Client(), cluster.Proxy()
	ns := namespace(t, direct)
	c := connect(t, proxy.Kubeconfig())
	w := start(t, c, kindOf(t, c, "", "configmaps"), kube.WatchOptions{Namespace: ns})
	eventually(t, "the list is complete", func() bool { return w.lists() == 1 })
	proxy.Freeze()
	put(t, direct, ns, "one", "one")
	eventually(t, "the silence is reported", func() bool { return w.sawError(func(error) bool { return true }) })
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change arrives", func() bool { return w.text(ns+"/one") == "one" })
	if w.lists() != 1 {
		t.Errorf("%d lists, want the watch to resume where it was", w.lists())
	}
}
