package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// blocks are the fenced blocks of a page, in order.
func blocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var found []block
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found = append(found, block{m[1], m[2]})
	}
	if len(found) == 0 {
		t.Fatalf("%s has no examples", page)
	}
	return found
}

type block struct{ language, text string }

// TestCookbook runs what docs/cookbook.md shows, as a reader would.
func TestCookbook(t *testing.T) {
	for _, b := range blocks(t, "cookbook.md") {
		got := drsync(t, "", "transform", "test", file(t, "recipe.yaml", b.text))
		if got.code != app.ExitOK || got.out != "1 test, 0 failed\n" {
			t.Errorf("%s\n%s%s", b.text, got.out, got.err)
		}
		// The rules as they would stand in a ConfigMap.
		results, err := transform.RunTests(t.Context(), b.text, nil)
		if err != nil || len(results) != 1 || results[0].Want == "" {
			t.Errorf("%v %v: an example that expects nothing", results, err)
		}
	}
}

func TestRedactionPage(t *testing.T) {
	for _, b := range blocks(t, "redaction.md") {
		set, err := transform.Compile([]transform.Document{{Key: "page", Text: b.text}}, transform.Options{Stage: transform.AtSource})
		if err != nil || len(set.Rules()) == 0 {
			t.Errorf("%v:\n%s", err, b.text)
		}
	}
}

// TestPage runs the commands of docs/drsync.md, one after another, in a directory with the
// files that the page shows, a cluster and a log.
func TestPage(t *testing.T) {
	c, h := kubetest.Start(t), newHistory(t)
	install(t, c)
	if err := c.Apply(`apiVersion: dr-syncer.io/v1alpha1
kind: Replication
metadata: {name: shop, namespace: default}
spec:
  source: {site: prod}
  namespaces: {names: [shop]}
  namespaceMapping: {suffix: -standby}
  standby: {enabled: false}
`); err != nil {
		t.Fatal(err)
	}
	h.namespace(t, "shop", "{}")
	h.deployment(t, "shop", 3)
	h.put(t, "configmaps", "shop", "debug", "v1", "ConfigMap", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"debug","namespace":"shop"}}`)

	if out, err := c.Kubectl("patch", "replication", "shop", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Replicating",
		"counts":{"synced":41,"pending":0,"failed":0,"parked":1},"lag":{"events":1,"seconds":2},"conditions":[
		{"type":"Degraded","status":"True","reason":"ObjectsParked","message":"1 object is parked.","lastTransitionTime":"2026-01-02T03:04:05Z"}]}}`); err != nil {
		t.Fatal(out, err)
	}
	h.park(t, pipeline.DeadLetter{
		Owner: "default/shop", Ref: pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "api"},
		Message: `rule "small": every Deployment needs a label team`, Position: pipeline.Position{Epoch: "01M838KZPPDPWK3BNAGG2BCW8B", Seq: 7},
	})

	found := blocks(t, "drsync.md")
	t.Chdir(t.TempDir())
	t.Setenv("KUBECONFIG", c.Kubeconfig())
	t.Setenv("NO_COLOR", "1")
	code, commands := 0, 0
	for _, b := range found {
		if name, ok := strings.CutPrefix(b.text, "# "); ok && b.language == "yaml" {
			name, _, _ = strings.Cut(name, "\n")
			if err := os.WriteFile(name, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for example := range strings.SplitSeq("\n"+b.text, "\n$ ") {
			line, want, _ := strings.Cut(example, "\n")
			switch words := strings.Fields(strings.ReplaceAll(line, "nats://dr.example.com:4222", h.server.URL())); {
			case len(words) == 0:
			case line == "echo $?":
				if strings.TrimSpace(want) != strconv.Itoa(code) {
					t.Errorf("the command before ended with %d, not %s", code, want)
				}
			case words[0] == "drsync":
				got := drsync(t, "", words[1:]...)
				code = got.code
				commands++
				if diff := cmp.Diff(strings.TrimRight(want, "\n"), strings.TrimRight(got.out+got.err, "\n")); diff != "" {
					t.Errorf("$ %s (-page +said):\n%s", line, diff)
				}
			default:
				t.Errorf("the page shows a command that is not run: %s", line)
			}
		}
	}
	if commands < 8 {
		t.Errorf("%d commands run", commands)
	}
}
