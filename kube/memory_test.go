package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// counter is a Handler that keeps nothing.
type counter struct {
	observed int
	peak     uint64
	done     chan int
}

func (c *counter) Observe(kube.Object) {
	if c.observed++; c.observed%10_000 == 0 {
		c.peak = max(c.peak, heap())
	}
}
func (c *counter) Delete(kube.Object)                      {}
func (c *counter) Replace(present []kube.Object, _ string) { c.done <- len(present) }
func (c *counter) Progress(string)                         {}

// heap is what is alive.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkWatch streams an initial state of 50,000 objects of 2 KiB. The peer is a
// plain HTTP server in this process: what is measured is the watcher's own cost.
func BenchmarkWatch(b *testing.B) {
	const objects = 50_000
	text := strings.Repeat("some text of a data field ", 70)
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range objects {
			if _, err := fmt.Fprintf(w, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"object-%06d","namespace":"default","uid":"1b4e28ba-2fa1-11d2-883f-%012d","resourceVersion":"%d","creationTimestamp":"2026-01-01T00:00:00Z"},"data":{"text":%q}}}`+"\n", i, i, i+1, text); err != nil {
				return
			}
		}
		_, _ = fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n", objects+1)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	}))
	defer server.Close()
	defer close(stop)
	path := filepath.Join(b.TempDir(), "kubeconfig")
	config := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: %q}}]\n", server.URL)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	c, err := kube.Connect(kube.Settings{Kubeconfig: path})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	k := kube.Kind{GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1", Kind: "ConfigMap", Namespaced: true}
	for b.Loop() {
		before := heap()
		h := &counter{done: make(chan int, 1)}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.Watch(ctx, k, kube.WatchOptions{OnError: func(err error) {
				if err != nil {
					b.Error(err)
				}
			}}, h)
		}()
		if n := <-h.done; n != objects {
			b.Errorf("%d objects, want %d", n, objects)
		}
		b.ReportMetric(float64(int64(heap())-int64(before))/objects, "kept-B/object")
		b.ReportMetric(float64(int64(h.peak)-int64(before))/objects, "peak-B/object")
		cancel()
		<-ended
	}
	b.ReportMetric(float64(objects)*float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}
