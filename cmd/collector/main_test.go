package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// output is what a program says on standard error.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is a collector that runs in this process.
type running struct {
	stderr *output
	cancel context.CancelFunc
	code   chan int
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stderr: &output{}, cancel: cancel, code: make(chan int, 1)}
	cmd := newCommand()
	cmd.SetArgs(append([]string{"--listen="}, args...))
	go func() { r.code <- app.Execute(ctx, cmd, r.stderr) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.code:
		default:
			r.code <- <-r.code
		}
		if t.Failed() {
			t.Logf("collector %v:\n%s", args, r.stderr)
		}
	})
	return r
}

// exit waits for the end of the program.
func (r *running) exit(t *testing.T) int {
	t.Helper()
	select {
	case code := <-r.code:
		r.code <- code
		return code
	case <-time.After(time.Minute):
		t.Fatalf("it runs on:\n%s", r.stderr)
		return -1
	}
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if code := r.exit(t); code != app.ExitOK {
		t.Errorf("exit code %d:\n%s", code, r.stderr)
	}
}

// says waits until the program has said something.
func (r *running) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, "it says "+text, func() error {
		if !strings.Contains(r.stderr.String(), text) {
			return errors.New(r.stderr.String())
		}
		return nil
	})
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not yet: %v", what, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// startLog starts a NATS server.
func startLog(t *testing.T, users ...natslog.User) *natslog.Server {
	t.Helper()
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.Host, cfg.Port, cfg.Users, cfg.SyncAlways = t.TempDir(), "127.0.0.1", -1, users, false
	cfg.MinFree = 1 << 20
	s, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestBadInputEndsWithOneLine(t *testing.T) {
	c := kubetest.Shared(t)
	log := startLog(t)
	unreachable := strings.Replace(string(read(t, c.Kubeconfig())), "server: https://", "server: https://"+nobody(t)+"/", 1)
	good := []string{"--site=prod", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + log.URL()}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"NoSite":          {[]string{"--nats-url=nats://a:4222"}, app.ExitUsage, "--site"},
		"BadSite":         {[]string{"--site=Prod.NYC", "--nats-url=nats://a:4222"}, app.ExitUsage, `--site "Prod.NYC" is no name for a cluster`},
		"NoURL":           {[]string{"--site=prod"}, app.ExitUsage, "--nats-url is missing"},
		"TwoLogs":         {[]string{"--site=prod", "--nats-url=nats://a:4222", "--link-url=tls://b:7422"}, app.ExitUsage, "leave one of them out"},
		"LinkPlain":       {[]string{"--site=prod", "--link-url=nats://b:7422"}, app.ExitUsage, "--link-no-tls if the network encrypts"},
		"LinkBadURL":      {[]string{"--site=prod", "--link-url=http://b"}, app.ExitUsage, "does not start with nats://, tls://"},
		"LinkNoSeed":      {[]string{"--site=prod", "--link-url=tls://b:7422", "--link-nkey=/none"}, app.ExitUsage, "the nkey seed file cannot be read"},
		"LinkOfAClient":   {[]string{"--site=prod", "--link-url=tls://b:7422", "--nats-ca=x"}, app.ExitUsage, "--nats-ca is for a log elsewhere"},
		"ClientOfALink":   {[]string{"--site=prod", "--nats-url=nats://a:4222", "--store-dir=x"}, app.ExitUsage, "--store-dir is for a log that is held here"},
		"LinkReplicas":    {[]string{"--site=prod", "--link-url=tls://b:7422", "--history-replicas=3"}, app.ExitUsage, "an embedded log is one server"},
		"BadURL":          {[]string{"--site=prod", "--nats-url=http://a"}, app.ExitUsage, "nats://"},
		"UnknownFlag":     {[]string{"--sight=prod"}, app.ExitUsage, "unknown flag: --sight"},
		"Argument":        {append(good, "more"), app.ExitUsage, "more"},
		"NoConfig":        {append(good, "--config=/nowhere"), app.ExitUsage, "check --config"},
		"BadConfig":       {append(good, "--config="+writeFile(t, "kinds: {include: [Pod]}")), app.ExitUsage, `kinds.include: "Pod" is not a kind`},
		"NoKubeconfig":    {append(good, "--kubeconfig=/nowhere"), app.ExitUsage, "/nowhere"},
		"BadKubeconfig":   {append(good, "--kubeconfig="+writeFile(t, "{")), app.ExitUsage, "kubeconfig"},
		"UnknownContext":  {append(good, "--context=other"), app.ExitUsage, "other"},
		"NoAPIServer":     {append(good, "--kubeconfig="+writeFile(t, unreachable)), app.ExitFailed, "is unreachable"},
		"NoCredsFile":     {append(good, "--nats-creds=/nowhere"), app.ExitUsage, "/nowhere"},
		"BadLogLevel":     {append(good, "--log-level=loud"), app.ExitUsage, "loud"},
		"AddressTaken":    {append(good, "--listen="+strings.TrimPrefix(log.URL(), "nats://")), app.ExitUsage, "--listen"},
		"SmallHistory":    {append(good, "--history-max-bytes=1"), app.ExitUsage, "history"},
		"LeaseNotAllowed": {append(good, "--kubeconfig="+c.User("nobody"), "--leader-elect", "--namespace=default"), app.ExitFailed, "grant get, create and update of leases"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, tc.args...)
			if code := r.exit(t); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			lines := strings.Split(strings.TrimSpace(r.stderr.String()), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "collector: ") || !strings.Contains(last, tc.want) {
				t.Errorf("last line %q, want %q in it", last, tc.want)
			}
			for _, line := range lines[:len(lines)-1] {
				if !strings.Contains(line, "level=") {
					t.Errorf("says more than a line: %q", line)
				}
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// refs reads which objects the log holds.
func refs(t *testing.T, log *natslog.Server) map[string]bool {
	t.Helper()
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{Name: "test", InProcess: log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	found := map[string]bool{}
	for r, err := range conn.History("prod").Current(t.Context(), pipeline.Query{HeadersOnly: true}) {
		if err != nil {
			return found
		}
		if r.Op == pipeline.OpPut {
			found[r.Ref.GroupResource().String()+" "+r.Ref.Namespace+"/"+r.Ref.Name] = true
		}
	}
	return found
}

func configMap(t *testing.T, c *kubetest.Cluster, namespace, name string) {
	t.Helper()
	if err := c.Apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n---\n"+
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\n", namespace, name, namespace)); err != nil {
		t.Fatal(err)
	}
}

func inLog(t *testing.T, log *natslog.Server, name string, want bool) {
	t.Helper()
	eventually(t, name+" in the log", func() error {
		if got := refs(t, log)[name]; got != want {
			return fmt.Errorf("%t, want %t", got, want)
		}
		return nil
	})
}

func TestCollectorWaitsForTheLogCollectsAndReloads(t *testing.T) {
	c, log := kubetest.Shared(t), startLog(t)
	configMap(t, c, "cmd-a", "one")
	configMap(t, c, "cmd-b", "two")
	config := writeFile(t, "namespaces: {include: [cmd-*]}\nheartbeat: 200ms\n")
	side := nobody(t)

	waiting := start(t, "--site=prod", "--kubeconfig="+c.Kubeconfig(), "--nats-url=nats://"+nobody(t))
	waiting.says(t, "waiting for the log")
	waiting.stop(t)

	r := start(t, "--site=prod", "--kubeconfig="+c.Kubeconfig(), "--nats-url="+log.URL(), "--config="+config, "--listen="+side)
	inLog(t, log, "configmaps cmd-a/one", true)
	inLog(t, log, "configmaps cmd-b/two", true)
	client := &http.Client{Timeout: 10 * time.Second}
	eventually(t, "ready", func() error {
		resp, err := client.Get("http://" + side + "/readyz")
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, %w", resp.StatusCode, err)
		}
		return nil
	})
	client.CloseIdleConnections()

	if err := os.WriteFile(config, []byte("namespaces: {include: []}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.says(t, "bad configuration, keeping the former")
	if err := os.WriteFile(config, []byte("namespaces: {include: [cmd-*], exclude: [cmd-b]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inLog(t, log, "configmaps cmd-b/two", false)
	inLog(t, log, "configmaps cmd-a/one", true)
	r.stop(t)
}

func TestSiteUserStartsAgain(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	c, log := kubetest.Shared(t), startLog(t, natslog.User{NKey: public, Site: "prod"})
	args := []string{
		"--site=prod", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + log.URL(), "--nats-nkey=" + writeFile(t, string(seed)),
		"--config=" + writeFile(t, "namespaces: {include: [again]}\nheartbeat: 100ms\n"),
	}
	for _, name := range []string{"one", "two"} {
		r := start(t, args...)
		r.says(t, "msg=collecting")
		configMap(t, c, "again", name)
		inLog(t, log, "configmaps again/"+name, true)
		r.stop(t)
		for _, bad := range []string{"cannot begin yet", "new epoch"} {
			if strings.Contains(r.stderr.String(), bad) {
				t.Errorf("it says %q:\n%s", bad, r.stderr)
			}
		}
	}
}

func TestReplicasTakeTurns(t *testing.T) {
	c, log := kubetest.Shared(t), startLog(t)
	args := []string{
		"--site=prod", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + log.URL(), "--leader-elect", "--namespace=default",
		"--config=" + writeFile(t, "namespaces: {include: [turns]}\n"),
	}
	first := start(t, args...)
	first.says(t, "msg=collecting")
	configMap(t, c, "turns", "one")
	inLog(t, log, "configmaps turns/one", true)
	second := start(t, args...)
	first.stop(t)
	configMap(t, c, "turns", "two")
	inLog(t, log, "configmaps turns/two", true)
	if strings.Contains(first.stderr.String()+second.stderr.String(), "another collector") {
		t.Error("they worked at the same time")
	}
	second.stop(t)
}

func TestTwoCollectorsOfOneSiteAreTold(t *testing.T) {
	c, log := kubetest.Shared(t), startLog(t)
	args := []string{
		"--site=prod", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + log.URL(),
		"--config=" + writeFile(t, "namespaces: {include: [two]}\nheartbeat: 100ms\n"),
	}
	first := start(t, args...)
	first.says(t, "msg=collecting")
	second := start(t, args...)
	first.says(t, "another collector writes to the history of this site")
	second.stop(t)
	configMap(t, c, "two", "one")
	inLog(t, log, "configmaps two/one", true)
	first.stop(t)
}
