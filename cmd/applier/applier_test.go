package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

const crds = "../../charts/dr-syncer/crds/dr-syncer.io_"

func install(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	for _, kind := range []string{"replications", "replays"} {
		text, err := os.ReadFile(crds + kind + ".yaml")
		if err != nil {
			t.Fatalf("%v; run: make generate", err)
		}
		if err := c.Apply(string(text)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the CRDs are served", func() error {
		_, err := c.Kubectl("get", "replications,replays", "-A")
		return err
	})
}

func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	deadline := time.After(40 * time.Second)
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not in time: %s: %v", what, err)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addr, err := kubetest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// start runs an applier. stop ends it and returns its exit code and last words.
func start(t *testing.T, args ...string) (stop func() (int, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	type end struct {
		code int
		text string
	}
	done := make(chan end, 1)
	go func() {
		code, text := execute(ctx, append([]string{"--log-level=warn", "--leader-elect=false"}, args...)...)
		done <- end{code, text}
	}()
	stopped := false
	var last end
	stop = func() (int, string) {
		if !stopped {
			stopped = true
			cancel()
			last = <-done
		}
		return last.code, last.text
	}
	t.Cleanup(func() { stop() })
	return stop
}

func stopped(t *testing.T, stop func() (int, string)) {
	t.Helper()
	if code, text := stop(); code != app.ExitOK || text != "" {
		t.Errorf("the applier ended with exit code %d: %q", code, text)
	}
}

// source is a collector's half of the log.
type source struct {
	*testing.T
	conn   *natslog.Conn
	writer pipeline.Writer
	n      int
}

func connect(t *testing.T, address string) *source {
	t.Helper()
	s := &source{T: t}
	eventually(t, "the embedded log answers", func() (err error) {
		s.conn, err = natslog.Connect(t.Context(), natslog.ConnectConfig{URL: "nats://" + address, Log: slog.New(slog.DiscardHandler)})
		return err
	})
	eventually(t, "the history is open", func() (err error) {
		s.writer, err = s.conn.Writer(t.Context(), "prod", natslog.DefaultStreamOptions())
		return err
	})
	return s
}

func (s *source) close() {
	if err := s.conn.Close(); err != nil {
		s.Error(err)
	}
}

// put writes a namespace and a config map in it.
func (s *source) put(namespace, name, value string) {
	s.Helper()
	var events []pipeline.Event
	for _, o := range []struct {
		ref  pipeline.Ref
		body string
	}{
		{pipeline.Ref{Resource: "namespaces", Name: namespace}, fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, namespace)},
		{
			pipeline.Ref{Resource: "configmaps", Namespace: namespace, Name: name},
			fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q},"data":{"v":%q}}`, name, namespace, value),
		},
	} {
		s.n++
		o.ref.Site = "prod"
		e := pipelinetest.PutBody(o.ref, s.n, []byte(o.body))
		e.APIVersion, e.Kind = "v1", map[string]string{"namespaces": "Namespace", "configmaps": "ConfigMap"}[o.ref.Resource]
		events = append(events, e)
	}
	s.beat(events...)
}

// beat writes events and a heartbeat.
func (s *source) beat(events ...pipeline.Event) {
	s.Helper()
	beat, err := pipeline.Heartbeat{Time: time.Now(), Incarnation: "I"}.Event("prod")
	if err != nil {
		s.Fatal(err)
	}
	if _, err := s.writer.Append(s.Context(), append(events, beat)); err != nil {
		s.Fatal(err)
	}
}

func arrives(t *testing.T, c *kubetest.Cluster, namespace, name, value string) {
	t.Helper()
	eventually(t, "the change arrives", func() error {
		out, err := c.Kubectl("get", "configmap", "-n", namespace, name, "-o", "jsonpath={.data.v}")
		if err == nil && out != value {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

// TestReplicates runs an applier with the log inside, stops it and runs it again, as a
// user with no more rights than docs/rbac.md gives.
func TestReplicates(t *testing.T) {
	c := kubetest.Shared(t)
	install(t, c)
	kubeconfig := userWithRole(t, c)
	nats, side := freeAddress(t), freeAddress(t)
	args := []string{"--kubeconfig=" + kubeconfig, "--store-dir=" + filepath.Join(t.TempDir(), "log"), "--nats-listen=" + nats, "--listen=" + side, "--leader-elect=true"}
	stop := start(t, args...)
	src := connect(t, nats)
	src.put("whole", "a", "1")
	if err := c.Apply("apiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: whole, namespace: default}\nspec: {source: {site: prod}, namespaces: {names: [whole]}, onDelete: DeleteCopies}\n"); err != nil {
		t.Fatal(err)
	}
	arrives(t, c, "whole", "a", "1")
	src.put("whole", "a", "2")
	arrives(t, c, "whole", "a", "2")
	eventually(t, "the status says so", func() error { return replicated(c, 2) })
	ready(t, side, true)
	src.idle(c)
	src.close()
	stopped(t, stop)

	stop = start(t, args...)
	src = connect(t, nats)
	src.put("whole", "b", "3")
	arrives(t, c, "whole", "b", "3")
	eventually(t, "the status says so", func() error { return replicated(c, 3) })
	events, err := c.Kubectl("get", "events.events.k8s.io", "-n", "default", "-o", `jsonpath={.items[?(@.regarding.name=="whole")].reason}`)
	if err != nil || events != "FirstCopyComplete" {
		t.Errorf("events: %q, %v; want one of the first copy", events, err)
	}

	// Deleting it deletes the copies, since it says so.
	if _, err := c.Kubectl("delete", "replication", "-n", "default", "whole", "--timeout=30s"); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl("get", "configmaps", "-n", "whole", "-o", "name"); err != nil || strings.Contains(out, "/a") || strings.Contains(out, "/b") {
		t.Errorf("copies are left: %q %v", out, err)
	}
	src.close()
	stopped(t, stop)
}

// idle sends heartbeats for a while: no status may be written for them.
func (s *source) idle(c *kubetest.Cluster) {
	s.Helper()
	version := func() string {
		out, err := c.Kubectl("get", "replication", "-n", "default", "whole", "-o", "jsonpath={.metadata.resourceVersion}")
		if err != nil {
			s.Fatal(err)
		}
		return out
	}
	before := version()
	for range 300 {
		s.beat()
		<-time.After(10 * time.Millisecond)
	}
	if after := version(); after != before {
		s.Errorf("an idle source's heartbeats had the status written: version %s became %s", before, after)
	}
}

func replicated(c *kubetest.Cluster, synced int) error {
	out, err := c.Kubectl("get", "replication", "-n", "default", "whole", "-o",
		`jsonpath={.status.phase} {.status.counts} {.status.lastEvent.object} {.status.conditions[?(@.status=="True")].type}`)
	want := fmt.Sprintf(`Replicating {"failed":0,"parked":0,"pending":0,"synced":%d} configmaps whole/%s Ready SourceAvailable CaughtUp`, synced, map[int]string{2: "a", 3: "b"}[synced])
	if err == nil && out != want {
		err = fmt.Errorf("it is %q, want %q", out, want)
	}
	return err
}

// userWithRole returns the kubeconfig of a user who has the roles of docs/rbac.md.
func userWithRole(t *testing.T, c *kubetest.Cluster) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/rbac.md")
	if err != nil {
		t.Fatal(err)
	}
	_, roles, _ := strings.Cut(string(text), "```yaml\n")
	roles, _, ok := strings.Cut(roles, "```")
	if !ok {
		t.Fatal("docs/rbac.md holds no roles")
	}
	subject := "subjects: [{kind: User, name: applier, apiGroup: rbac.authorization.k8s.io}]"
	roles = "apiVersion: v1\nkind: Namespace\nmetadata: {name: dr-syncer}\n---\n" + roles + `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dr-syncer-applier}
roleRef: {kind: ClusterRole, name: dr-syncer-applier, apiGroup: rbac.authorization.k8s.io}
` + subject + `
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dr-syncer-applier, namespace: dr-syncer}
roleRef: {kind: Role, name: dr-syncer-applier, apiGroup: rbac.authorization.k8s.io}
` + subject + "\n"
	if err := c.Apply(roles); err != nil {
		t.Fatal(err)
	}
	return c.User("applier")
}

func ready(t *testing.T, side string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("readiness becomes %v", want), func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+side+"/readyz", nil)
		if err != nil {
			return err
		}
		req.Close = true
		resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
		if err != nil {
			return err
		}
		if got := resp.StatusCode == http.StatusOK; got != want {
			err = fmt.Errorf("status %s", resp.Status)
		}
		return errors.Join(err, resp.Body.Close())
	})
}

// TestLogOutlivesAPIServer starts an applier whose API server does not answer: the
// log inside must take events all the same, and what they say arrives later.
func TestLogOutlivesAPIServer(t *testing.T) {
	c := kubetest.Start(t)
	install(t, c)
	if err := c.Apply("apiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: later, namespace: default}\nspec: {source: {site: prod}}\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	nats, side := freeAddress(t), freeAddress(t)
	stop := start(t, "--kubeconfig="+c.Kubeconfig(), "--store-dir="+t.TempDir(), "--nats-listen="+nats, "--listen="+side)
	src := connect(t, nats)
	defer src.close()
	src.put("later", "a", "1")
	ready(t, side, true)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	arrives(t, c, "later", "a", "1")
	stopped(t, stop)
}

// TestRefusesToStart gives the applier surroundings that it cannot work in.
func TestRefusesToStart(t *testing.T) {
	bare := kubetest.Start(t) // does not know Replications
	known := kubetest.Shared(t)
	install(t, known)
	held := t.TempDir()
	server, err := natslog.StartServer(t.Context(), func() natslog.ServerConfig {
		cfg := natslog.DefaultServerConfig()
		cfg.StoreDir, cfg.Host, cfg.Port, cfg.Log = held, "127.0.0.1", -1, slog.New(slog.DiscardHandler)
		return cfg
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	dead := filepath.Join(t.TempDir(), "dead")
	if err := os.WriteFile(dead, []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://"+freeAddress(t)+"\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("prod "+key+" link\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	embedded := func(kubeconfig string) []string {
		return []string{"--kubeconfig=" + kubeconfig, "--store-dir=" + t.TempDir(), "--nats-listen="}
	}
	cases := map[string]struct {
		args []string
		code int
		want []string
	}{
		"NoCRDs":      {embedded(bare.Kubeconfig()), app.ExitUsage, []string{"does not know the custom resource Replication", "kubectl apply --server-side -f charts/dr-syncer/crds"}},
		"Forbidden":   {embedded(known.User("nobody")), app.ExitUsage, []string{"list replications", "docs/rbac.md"}},
		"LockedStore": {[]string{"--kubeconfig=" + known.Kubeconfig(), "--store-dir=" + held, "--nats-listen="}, app.ExitFailed, []string{held, "is locked by process"}},
		"Unreachable": {[]string{"--kubeconfig=" + dead, "--nats-url=" + server.URL()}, app.ExitFailed, []string{"is unreachable", "check its address"}},
		"TakenPort": {
			[]string{"--kubeconfig=" + known.Kubeconfig(), "--store-dir=" + t.TempDir(), "--nats-listen=" + strings.TrimPrefix(server.URL(), "nats://")},
			app.ExitFailed,
			[]string{strings.TrimPrefix(server.URL(), "nats://"), "choose another address with --nats-listen"},
		},
		"TakenLinkPort": {
			append(embedded(known.Kubeconfig()), "--nats-users-file="+users, "--link-listen="+strings.TrimPrefix(server.URL(), "nats://")),
			app.ExitFailed,
			[]string{strings.TrimPrefix(server.URL(), "nats://"), "choose another address with --link-listen"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			code, stderr := execute(ctx, append([]string{"--listen=", "--log-level=error", "--leader-elect=false"}, tc.args...)...)
			for _, want := range tc.want {
				if code != tc.code || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
					t.Errorf("exit code %d, %q; want %d and one line with %q", code, stderr, tc.code, want)
				}
			}
		})
	}
}
