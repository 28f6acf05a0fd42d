package kubetest_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

const note = `apiVersion: v1
kind: ConfigMap
metadata: {name: note, namespace: default}
data: {text: `

var configMaps = pipeline.GroupResource{Resource: "configmaps"}

// text reads the note through the client.
func text(t *testing.T, c *kube.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	k, err := c.Kind(ctx, configMaps)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Get(ctx, k, "default", "note")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(o.Raw), `"text":"`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

func TestClusterSurvivesStopAndKill(t *testing.T) {
	c := kubetest.Start(t)
	if err := c.Apply(note + "one}"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"restart", c.Restart},
		{"stop and start", func() error {
			if err := c.Stop(); err != nil {
				return err
			}
			if err := c.Client().Ping(t.Context()); err == nil {
				t.Error("the API server answers after Stop")
			}
			return c.Start()
		}},
		{"kill and start", func() error {
			if err := c.Kill(); err != nil {
				return err
			}
			return c.Start()
		}},
	} {
		start := time.Now()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		t.Logf("%s took %s", step.name, time.Since(start).Round(time.Millisecond))
		if got := text(t, c.Client()); got != "one" {
			t.Errorf("after %s the note says %q, want %q", step.name, got, "one")
		}
	}
}

func TestRestoreGoesBack(t *testing.T) {
	c := kubetest.Start(t)
	if err := c.Apply(note + "old}"); err != nil {
		t.Fatal(err)
	}
	snapshot, err := c.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(note + "new}"); err != nil {
		t.Fatal(err)
	}
	if got := text(t, c.Client()); got != "new" {
		t.Fatalf("before the restore the note says %q, want %q", got, "new")
	}
	if err := c.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	if got := text(t, c.Client()); got != "old" {
		t.Errorf("after the restore the note says %q, want %q", got, "old")
	}
}

func TestUserHasNoRights(t *testing.T) {
	c := kubetest.Shared(t)
	user, err := kube.Connect(kube.Settings{Kubeconfig: c.User("nobody")})
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	k, err := c.Client().Kind(t.Context(), configMaps)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.Get(t.Context(), k, "default", "note"); !kube.IsForbidden(err) {
		t.Errorf("a user without rights reads: %v, want forbidden", err)
	}
}

func TestProxyCutsAndFreezes(t *testing.T) {
	c := kubetest.Shared(t)
	proxy := c.Proxy()
	client, err := kube.Connect(kube.Settings{Kubeconfig: proxy.Kubeconfig()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ping := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return client.Ping(ctx)
	}
	if err := ping(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	if err := ping(10 * time.Second); err == nil {
		t.Error("the server answers through a cut line")
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := ping(10 * time.Second); err != nil {
		t.Errorf("after healing: %v", err)
	}
	proxy.Freeze()
	if err := ping(300 * time.Millisecond); err == nil {
		t.Error("the server answers through a frozen line")
	}
	if err := proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := ping(10 * time.Second); err != nil {
		t.Errorf("after thawing: %v", err)
	}
	proxy.BreakAfter(100)
	if err := ping(10 * time.Second); err == nil {
		t.Error("the server answers though the line breaks in the handshake")
	}
}

func TestControllers(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithControllers())
	if err := c.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: gone}\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl("delete", "namespace", "gone", "--timeout=30s"); err != nil {
		t.Errorf("a namespace cannot be deleted: %v", err)
	}
}

func TestCompactNow(t *testing.T) {
	c := kubetest.Shared(t)
	if err := c.CompactNow(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingBinaryIsNamedWithItsCure(t *testing.T) {
	t.Setenv(kubetest.EnvBinary, filepath.Join(t.TempDir(), "kube"))
	_, err := kubetest.Launch(t.Context(), kubetest.Config{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "make kube") {
		t.Errorf("launching without a binary: %v, want an error that names `make kube`", err)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	c, err := kubetest.Launch(t.Context(), kubetest.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	host := c.Client().Host()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := http.Get(host); err == nil { //nolint:noctx // a refused connection needs no deadline
		_ = resp.Body.Close()
		t.Error("the API server answers after Close")
	}
	if _, err := os.Stat(c.Kubeconfig()); err != nil {
		t.Errorf("Close removed what belongs to the caller: %v", err)
	}
}
