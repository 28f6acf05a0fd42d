package kube_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// rewrite returns a copy of a kubeconfig with one text replaced.
func rewrite(t *testing.T, path, old, replacement string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(data), old, replacement, 1)
	if changed == string(data) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	out := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(out, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// line returns the line of a file that starts with prefix, after white space.
func line(t *testing.T, path, prefix string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(data)) {
		if strings.HasPrefix(strings.TrimSpace(l), prefix) {
			return strings.TrimSpace(l)
		}
	}
	t.Fatalf("%s has no line %s", path, prefix)
	return ""
}

func TestConnectNamesTheCure(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := kubetest.Shared(t).Kubeconfig()
	for _, tt := range []struct {
		name     string
		settings kube.Settings
		want     []string
	}{
		{"no such file", kube.Settings{Kubeconfig: "/none/such"}, []string{"/none/such", "does not exist", "--kubeconfig"}},
		{"not YAML", kube.Settings{Kubeconfig: write("{{{")}, []string{"load kubeconfig", "must work"}},
		{"no such context", kube.Settings{Kubeconfig: good, Context: "elsewhere"}, []string{"elsewhere", "get-contexts"}},
		{"broken certificate", kube.Settings{Kubeconfig: rewrite(t, good, "client-key-data: ", "client-key-data: AAAA")}, []string{"certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kube.Connect(tt.settings)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: does not say %q", err, want)
				}
			}
		})
	}
	t.Run("nothing configured", func(t *testing.T) {
		t.Setenv("KUBECONFIG", "")
		t.Setenv("HOME", t.TempDir())
		t.Setenv("KUBERNETES_SERVICE_HOST", "")
		if _, err := kube.Connect(kube.Settings{}); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
			t.Errorf("got %v, want an error that names --kubeconfig", err)
		}
	})
	t.Run("from the environment", func(t *testing.T) {
		t.Setenv("KUBECONFIG", good)
		c, err := kube.Connect(kube.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPingTellsFailuresApart(t *testing.T) {
	cluster := kubetest.Shared(t)
	good := cluster.Kubeconfig()
	server := line(t, good, "server: ")
	proxy := cluster.Proxy()
	proxy.Cut()
	for _, tt := range []struct {
		name       string
		kubeconfig string
		want       string
	}{
		{"nobody listens", proxy.Kubeconfig(), "is unreachable"},
		{"unknown host", rewrite(t, good, server, "server: https://no-such-host.invalid:6443"), "is unreachable"},
		{"unknown authority", rewrite(t, good, line(t, good, "certificate-authority-data: "), ""), "TLS with"},
		{"wrong token", rewrite(t, good, line(t, good, "client-certificate-data: ")+"\n    "+line(t, good, "client-key-data: "), "token: wrong"), "does not accept the credentials"},
		{"no credentials", rewrite(t, good, line(t, good, "client-certificate-data: ")+"\n    "+line(t, good, "client-key-data: "), ""), "check the credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := connect(t, tt.kubeconfig).Ping(ctx)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
		})
	}
	if err := cluster.Client().Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClusterUIDIsTheSystemNamespaces(t *testing.T) {
	cluster := kubetest.Shared(t)
	want, err := cluster.Kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cluster.Client().ClusterUID(t.Context())
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestClientSidelimitIsOff(t *testing.T) {
	c := kubetest.Shared(t).Client()
	if qps := c.REST().QPS; qps >= 0 {
		t.Errorf("QPS is %v: client-go would throttle", qps)
	}
	limited, err := kube.Connect(kube.Settings{Kubeconfig: kubetest.Shared(t).Kubeconfig(), QPS: 50})
	if err != nil {
		t.Fatal(err)
	}
	defer limited.Close()
	if r := limited.REST(); r.QPS != 50 || r.Burst != 100 {
		t.Errorf("QPS %v and burst %v, want 50 and 100", r.QPS, r.Burst)
	}
}
