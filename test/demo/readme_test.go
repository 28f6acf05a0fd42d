package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestReadmesCommands runs every command that the README shows, as far as it can be run here: kubectl's against a
// cluster, those of the products up to the point where they would begin to work.
func TestReadmesCommands(t *testing.T) {
	root, err := world.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(readme)
	if shown == nil {
		t.Fatal("the README shows no Replication")
	}
	c := kubetest.Start(t)
	files := map[string]string{
		"charts/dr-syncer/crds": filepath.Join(root, "charts", "dr-syncer", "crds"),
		"replication.yaml":      filepath.Join(t.TempDir(), "replication.yaml"),
	}
	if err := os.WriteFile(files["replication.yaml"], []byte(shown[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args []string) {
		for i, arg := range args {
			if path, ok := files[arg]; ok {
				args[i] = path
			}
		}
		if len(args) < 3 || args[0] != "--kubeconfig" || args[1] != "dr.kubeconfig" {
			t.Errorf("kubectl %v is not for dr", args)
			return
		}
		if out, err := c.Kubectl(args[2:]...); err != nil {
			t.Errorf("kubectl %v: %v\n%s", args, err, out)
		}
		if out, err := c.Kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ran := map[string]int{}
	for _, command := range shellCommands(readme) {
		word := command[0]
		ran[word]++
		switch word {
		case "git":
			if want := []string{"git", "clone", "https://github.com/dr-syncer/dr-syncer"}; !slices.Equal(command, want) {
				t.Errorf("%v, want %v", command, want)
			}
		case "cd", "make": // TestDocsNameTargetsThatExist looks at the targets
		case "kubectl":
			kubectl(command[1:])
		case "bin/applier", "bin/collector":
			help(t, root, word, command[1:]...)
		default:
			t.Errorf("nothing checks %v", command)
		}
	}
	for _, word := range []string{"git", "make", "kubectl", "bin/applier", "bin/collector"} {
		if ran[word] == 0 {
			t.Errorf("the README shows no command %s: what is it read from?", word)
		}
	}
	if err := c.Apply(replication); err != nil {
		t.Errorf("the demo's Replication: %v", err)
	}

	known := help(t, root, "bin/applier") + help(t, root, "bin/collector")
	prose := shellBlock.ReplaceAllString(readme, "")
	for _, flag := range regexp.MustCompile("--([a-z-]+)[`= ]").FindAllStringSubmatch(prose, -1) {
		if name := flag[1]; name != "help" && !regexp.MustCompile("--"+name+`[\s=\[]`).MatchString(known) {
			t.Errorf("the README speaks of --%s, which no product has", name)
		}
	}
}

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// shellCommands are the commands in a page's blocks of shell, in words.
func shellCommands(page string) [][]string {
	var commands [][]string
	for _, block := range shellBlock.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			for part := range strings.SplitSeq(line, "&&") {
				if words := strings.Fields(part); len(words) > 0 {
					commands = append(commands, words)
				}
			}
		}
	}
	return commands
}

// help asks a product for its help after it has read the flags: one that it does not know, or whose value is
// nonsense, fails the test.
func help(t *testing.T, root, program string, args ...string) string {
	t.Helper()
	path := filepath.Join(root, program)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	out, err := exec.CommandContext(t.Context(), path, append(args, "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func TestCollectorNeedsNoMoreThanTheDocsGrant(t *testing.T) {
	root, err := world.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "rbac.md"))
	if err != nil {
		t.Fatal(err)
	}
	roles := regexp.MustCompile("(?s)## Collector.*?```yaml\n(.*?)```").FindSubmatch(page)
	if roles == nil {
		t.Fatal("docs/rbac.md shows no roles of the collector")
	}
	w, err := world.New(t.Context(), world.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	for _, text := range []string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: dr-syncer}}", string(roles[1]), `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dr-syncer-collector}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dr-syncer-collector}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: collector}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dr-syncer-collector, namespace: dr-syncer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: dr-syncer-collector}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: collector}]
`,
	} {
		if err := w.Prod.Apply(text); err != nil {
			t.Fatal(err)
		}
	}
	w.Collector.Args = append(w.Collector.Args, "--kubeconfig", w.Prod.User("collector"), "--leader-elect=true")
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		resp, err := http.Get(w.CollectorURL + "/metrics")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if !regexp.MustCompile(`(?m)^drsyncer_collect_objects\{.*\} [1-9]`).Match(text) {
			return errors.New("the collector has collected nothing")
		}
		if m := regexp.MustCompile(`(?m)^drsyncer_collect_errors_total.* [1-9].*`).Find(text); m != nil {
			return fmt.Errorf("the collector is refused something: %s", m)
		}
		return nil
	})
	if log := w.Collector.Tail(1000); strings.Contains(log, "forbidden") || strings.Contains(log, "level=WARN") {
		t.Errorf("the collector is not content:\n%s", log)
	}
}
