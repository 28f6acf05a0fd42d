package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

func TestMain(m *testing.M) {
	kubetest.Main(m,
		// A stream that is about to source from another waits up to 30 s for the
		// answer, after the server has shut down too. It ends then, and touches nothing.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}

// ended is how a command line ended.
type ended struct {
	code     int
	out, err string
}

// drsync runs a command line in this process.
func drsync(t *testing.T, stdin string, args ...string) ended {
	t.Helper()
	var out, stderr bytes.Buffer
	code := execute(t.Context(), append([]string{"drsync"}, args...), streams{in: strings.NewReader(stdin), out: &out, err: &stderr})
	return ended{code, out.String(), stderr.String()}
}

// file writes a file of the test's own.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {replicas: 3}\n"
	scaleRule  = "rules:\n- {name: scale, match: {kinds: [apps/deployments]}, jq: .spec.replicas = 1}\n- {name: other, match: {kinds: [secrets]}, jq: .}\n"
)

func TestCommandLine(t *testing.T) {
	rules, object := file(t, "rules.yaml", scaleRule), file(t, "object.yaml", deployment)
	for name, tc := range map[string]struct {
		args []string
		want ended // parts of what is said
	}{
		"Alone":        {nil, ended{app.ExitOK, "Exit codes: 0 all is well", ""}},
		"Group":        {[]string{"transform"}, ended{app.ExitOK, "Run tests of rules", ""}},
		"Version":      {[]string{"--version"}, ended{app.ExitOK, "drsync version ", ""}},
		"Completion":   {[]string{"completion", "bash"}, ended{app.ExitOK, "__start_drsync", ""}},
		"Complete":     {[]string{"__complete", "transform", "show", ""}, ended{app.ExitOK, "workloads\n", ""}},
		"NoCommand":    {[]string{"bogus"}, ended{app.ExitUsage, "", `unknown command "bogus" for "drsync"`}},
		"NoSubcommand": {[]string{"transform", "bogus"}, ended{app.ExitUsage, "", `unknown command "bogus"`}},
		"NoFlag":       {[]string{"transform", "test", "--bogus"}, ended{app.ExitUsage, "", "unknown flag: --bogus (see drsync transform test --help)"}},
		"Format":       {[]string{"transform", "show", "-o", "xml"}, ended{app.ExitUsage, "", `--output "xml" is not one of text, json, yaml`}},
		"Color":        {[]string{"transform", "show", "--color=pink"}, ended{app.ExitUsage, "", `--color "pink" is not one of auto, always, never`}},
		"NoTests":      {[]string{"transform", "test"}, ended{app.ExitUsage, "", "requires at least 1 arg(s)"}},
		"NoTestFile":   {[]string{"transform", "test", "/nowhere"}, ended{app.ExitUsage, "", "/nowhere"}},
		"NoTestInside": {[]string{"transform", "test", file(t, "empty.yaml", "# nothing")}, ended{app.ExitUsage, "", "no test in these files"}},
		"NotTests":     {[]string{"transform", "test", rules}, ended{app.ExitUsage, "", "rules.yaml: read tests: the case at line 1"}},
		"NoObject":     {[]string{"transform", "explain"}, ended{app.ExitUsage, "", "--filename is missing"}},
		"NoObjectFile": {[]string{"transform", "explain", "-f", "/nowhere"}, ended{app.ExitUsage, "", "/nowhere"}},
		"EmptyObject":  {[]string{"transform", "explain", "-f", file(t, "none.yaml", "")}, ended{app.ExitUsage, "", "no object in these files"}},
		"NoRulesFile":  {[]string{"transform", "explain", "-f", object, "-r", "/nowhere"}, ended{app.ExitUsage, "", "/nowhere"}},
		"NotRules":     {[]string{"transform", "explain", "-f", object, "-r", object}, ended{app.ExitUsage, "", "apps/deployments shop/web is no place for rules"}},
		"Stage":        {[]string{"transform", "explain", "-f", object, "-r", rules, "--stage=middle"}, ended{app.ExitUsage, "", `--stage "middle" is not one of`}},
		"BadName":      {[]string{"transform", "show", "--configmap=rules", "--kubeconfig=" + kubetest.Shared(t).Kubeconfig()}, ended{app.ExitUsage, "", `"rules" is not of the form NAMESPACE/NAME`}},
		"NoKubeconfig": {[]string{"transform", "show", "--configmap=a/b", "--kubeconfig=/nowhere"}, ended{app.ExitUsage, "", "/nowhere"}},
		"NoConfigMap":  {[]string{"transform", "show", "--configmap=a/b", "--kubeconfig=" + kubetest.Shared(t).Kubeconfig()}, ended{app.ExitFailed, "", `get configmaps "b" in namespace "a"`}},
		"NothingShown": {[]string{"transform", "show", "nothing"}, ended{app.ExitUsage, "", `nothing is called "nothing"`}},
	} {
		t.Run(name, func(t *testing.T) {
			got := drsync(t, "", tc.args...)
			if got.code != tc.want.code || !strings.Contains(got.out, tc.want.out) || !strings.Contains(got.err, tc.want.err) {
				t.Errorf("ended with %d\n%s\n%s\nwant %d with %q and %q", got.code, got.out, got.err, tc.want.code, tc.want.out, tc.want.err)
			}
			if got.code != app.ExitOK && (strings.Count(got.err, "\n") != 1 || !strings.HasPrefix(got.err, "drsync: ")) {
				t.Errorf("says more than a line: %q", got.err)
			}
		})
	}
}

func TestPlugin(t *testing.T) {
	for name, tc := range map[string]struct{ program, arg, want string }{
		"Command":    {"/usr/bin/kubectl-drsync", "--help", "kubectl drsync [command]"},
		"Completion": {"/usr/bin/kubectl_complete-drsync", "transf", "transform"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			code := execute(t.Context(), []string{tc.program, tc.arg}, streams{out: &out, err: &stderr})
			if code != app.ExitOK || !strings.Contains(out.String(), tc.want) {
				t.Errorf("ended with %d\n%s%s, want %q in it", code, &out, &stderr, tc.want)
			}
		})
	}
}

func TestOurOwnCases(t *testing.T) {
	got := drsync(t, "", "transform", "test", "../../transform/testdata")
	if got.code != app.ExitOK || !strings.HasSuffix(got.out, " tests, 0 failed\n") || strings.HasPrefix(got.out, "0 ") {
		t.Errorf("ended with %d\n%s%s", got.code, got.out, got.err)
	}
}

const failingTests = `name: good
jq: .x = 1
json: '{"metadata":{"name":"a"}}'
want: '+ .x: 1'
---
name: bad
jq: .x = 2
object: object.json
want: '+ .x: 1'
---
name: broken
jq: .
object: absent.json
want: same
`

func TestTestsThatFail(t *testing.T) {
	tests := file(t, "tests.yaml", failingTests)
	if err := os.MkdirAll(filepath.Join(filepath.Dir(tests), "objects"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(tests), "objects", "object.json"), []byte(`{"metadata":{"name":"a"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	got := drsync(t, "", "transform", "test", "-v", tests)
	for _, want := range []string{"ok   " + tests + ":1: good\n", "FAIL " + tests + ":6: bad\n", "+ .x: 2", "FAIL " + tests + ":11: broken", "absent.json", "3 tests, 2 failed"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("said:\n%s\nwithout %q", got.out, want)
		}
	}
	if got.code != exitNo || got.err != "drsync: 2 of 3 tests failed\n" {
		t.Errorf("ended with %d: %q", got.code, got.err)
	}

	got = drsync(t, "", "transform", "test", "--update", "-o", "json", tests)
	if got.code != exitNo || !strings.Contains(got.out, `"name": "bad",`+"\n    \"ok\": true") {
		t.Errorf("--update ended with %d:\n%s%s", got.code, got.out, got.err)
	}
	text, err := os.ReadFile(tests)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "want: |-\n  + .x: 2") {
		t.Errorf("--update wrote:\n%s", text)
	}
}

func TestColors(t *testing.T) {
	object, rules := file(t, "object.yaml", deployment), file(t, "rules.yaml", scaleRule)
	args := []string{"transform", "explain", "-f", object, "-r", rules}
	if got := drsync(t, "", append(args, "--color=always")...); !strings.Contains(got.out, "\x1b[33m    ~ .spec.replicas: 3 -> 1\x1b[0m\n") {
		t.Errorf("no colors: %q", got.out)
	}
	for _, arg := range []string{"--color=auto", "--color=never"} {
		if got := drsync(t, "", append(args, arg)...); strings.Contains(got.out, "\x1b") {
			t.Errorf("%s: colors: %q", arg, got.out)
		}
	}
}

func TestTable(t *testing.T) {
	p := &printer{}
	p.table([]string{"NAME", "SIZE", ""}, [][]string{{"ü", "10", "x"}, {"long", "", ""}})
	if diff := cmp.Diff("NAME   SIZE\nü      10     x\nlong\n", p.out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
