package kubetest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Option changes the cluster that Start starts.
type Option func(*Config)

// WithControllers adds the controller manager: namespace deletion, garbage
// collection, service accounts, workloads.
func WithControllers() Option { return func(c *Config) { c.Controllers = true } }

// WithArgs adds flags of kube-apiserver.
func WithArgs(args ...string) Option {
	return func(c *Config) { c.APIServerArgs = append(c.APIServerArgs, args...) }
}

// Start starts a cluster for one test and closes it when the test ends. If the
// test failed, the ends of the logs are shown.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	cfg := Config{Dir: t.TempDir()}
	for _, opt := range opts {
		opt(&cfg)
	}
	c, err := Launch(context.Background(), cfg)
	if err != nil {
		t.Fatalf("start cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
		if t.Failed() {
			for _, name := range []string{"kube-apiserver.log", "etcd.log"} {
				t.Log(tail(c.path(name)))
			}
		}
	})
	return c.of(t)
}

// of returns a handle whose failures fail t.
func (c *Cluster) of(t testing.TB) *Cluster {
	return &Cluster{plane: c.plane, fail: func(err error) {
		t.Helper()
		t.Fatal(err)
	}}
}

// shared is the cluster of this test process.
var shared struct {
	once    sync.Once
	cluster *Cluster
	dir     string
	err     error
}

// Shared returns the one cluster that all tests of the package share, started
// at first use. Tests keep apart by namespaces of their own and do not stop it. The
// package's TestMain must be Main.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "kubetest-"); shared.err == nil { //nolint:usetesting // it outlives the test
			shared.cluster, shared.err = Launch(context.Background(), Config{Dir: shared.dir})
		}
	})
	if shared.err != nil {
		t.Fatalf("start shared cluster: %v", shared.err)
	}
	return shared.cluster.of(t)
}

// place matches the word that In replaces, not two letters of something longer.
var place = regexp.MustCompile(`\bNS\b`)

// In returns a text of a test with its namespace in the place of every word NS.
func In(namespace, text string) string { return place.ReplaceAllLiteralString(text, namespace) }

// Main is the TestMain of packages that use Shared: it runs the tests, closes the shared
// cluster, and fails if goroutines are left over.
func Main(m *testing.M, opts ...goleak.Option) {
	goleak.VerifyTestMain(closing{m}, opts...)
}

// closing runs the tests, then closes the shared cluster, before leaks are looked for.
type closing struct{ m *testing.M }

func (c closing) Run() int {
	code := c.m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "close shared cluster: %v\n", err)
			code = 1
		}
	}
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintf(os.Stderr, "remove shared cluster: %v\n", err)
		}
	}
	return code
}
