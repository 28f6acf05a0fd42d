package traces

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// telling are programs that fail over a Secret's value, each by another way into
// the error's text. $v is the value.
var telling = map[string]string{
	"error":      `error($v)`,
	"error-in":   `error({reason: $v})`,
	"error-text": `error("the password is \($v)")`,
	"caught":     `try error($v) catch error("caught " + .)`,
	"raised":     `try ($v | tonumber) catch error(.)`,
	"number":     `$v | tonumber`,
	"pattern":    `"x" | test("(" + $v)`,
	"flags":      `"x" | test("x"; $v)`,
	"index":      `$v | .[$v]`,
	"member":     `$v[$v]`,
	"iterate":    `$v | .[]`,
	"add":        `$v + 1`,
	"subtract":   `{($v): 1} - $v`,
	"json":       `[$v] | tojson | .[0:9] | fromjson`,
	"json-part":  `$v | fromjson`,
	"key":        `{($v): 1} | .[0]`,
	"implode":    `$v | implode`,
	"date":       `$v | strptime("%Y")`,
	"split":      `[$v] | split($v)`,
	"csv":        `[[$v]] | @csv`,
	"break":      `"x" | ltrimstr($v) | error($v)`,
	"path":       `setpath([$v, 0]; 1) | getpath([$v, "x"])`,
	"kind":       `.kind = $v`,
	"namespace":  `.metadata.namespace = "kube-system" | .metadata.name = $v`,
	"name":       `.metadata.name = $v + "/../" + $v`,
	"list":       `[$v]`,
	"text":       `$v`,
	"loop":       `$v | until(false; .)`,
	"memory":     `$v | until(false; . + .)`,
	"many":       `range(100) as $i | .metadata.name = $v + "\($i)"`,
	"twice":      `(.metadata.name = $v), (.metadata.name = $v)`,
	"unaccepted": `.metadata.labels = {x: ($v + "!")}`,
	"immutable":  `.metadata.annotations = {($v + "!"): "x"}`,
	"no-object":  `.data = {key: [$v]}`,
	"bad-base64": `if .kind == "Secret" then .data = {key: ($v + "!")} else .data = $v end`,
	"no-type":    `if .kind == "Secret" then .type = [$v] else .binaryData = {key: ($v + "!")} end`,
}

// TestSecretsAreNotTold has rules fail over the values of Secrets, those of objects and
// those of params, and looks for the values wherever the product tells of what it does.
func TestSecretsAreNotTold(t *testing.T) {
	const inObject, inParam = "hunter2-of-the-object", "hunter2-of-the-param"
	cluster := kubetest.Shared(t)
	client := cluster.Client()
	spans := telemetrytest.Spans(t)
	var said said
	log := slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))

	var manifest, rules strings.Builder
	fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Namespace\nmetadata: {name: vault}\n---\n")
	fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Secret\nmetadata: {name: rules, namespace: default}\nstringData: {key: %s}\n---\n", inParam)
	for name, jq := range telling {
		fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Secret\nmetadata: {name: object-%s, namespace: vault}\nstringData: {key: %s}\n---\n", name, inObject)
		fmt.Fprintf(&manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: param-%s, namespace: vault}\ndata: {key: plain}\n---\n", name)
		fmt.Fprintf(&rules, "    - {name: object-%s, match: {kinds: [secrets], names: [object-%s]}, jq: %q}\n", name, name, `(.data.key | @base64d) as $v | `+jq)
		fmt.Fprintf(&rules, "    - {name: param-%s, match: {kinds: [configmaps], names: [param-%s]}, params: {v: {fromSecret: {name: rules, key: key}}}, jq: %q}\n", name, name, `$params.v as $v | `+jq)
	}
	crds, err := os.ReadFile("../../charts/dr-syncer/crds/dr-syncer.io_replications.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(crds), manifest.String()} {
		if err := cluster.Apply(text); err != nil {
			t.Fatal(err)
		}
	}
	conn := connect(t)
	letters, err := conn.DeadLetters(t.Context(), "told", natslog.DefaultDeadLetterOptions())
	if err != nil {
		t.Fatal(err)
	}
	inventory := apply.NewInventory(client, log)
	engine := &control.Replays{
		Client: client, Inventory: inventory, DeadLetters: letters, Destination: "told", Log: log,
		History: func(site string) pipeline.History { return conn.History(site) },
	}
	together(t, collectorOf(t, client, conn, log).Run, inventory.Run, func(ctx context.Context) error {
		return control.Run(ctx, control.Settings{Client: client, Engine: engine, Namespace: "default", Log: log}, func() {})
	})
	until(t, "the Replication is accepted", func() error {
		return cluster.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rules, namespace: default}\ndata:\n  rules.yaml: |\n    rules:\n" + rules.String() +
			"---\napiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: vault, namespace: default}\nspec:\n  source: {site: " + world.Site +
			"}\n  kinds: [secrets, configmaps]\n  namespaces: {names: [vault]}\n  namespaceMapping: {prefix: copy-}\n  transforms: {names: [rules]}\n")
	})
	var told string
	until(t, "all of them have failed", func() error {
		n := 0
		told = ""
		for d, err := range letters.List(t.Context(), "") {
			if err != nil {
				return err
			}
			told += d.Message + "\n"
			n++
		}
		if n < 2*len(telling)-4 { // some of them may be accepted
			return fmt.Errorf("%d dead letters for %d objects", n, 2*len(telling))
		}
		status, err := cluster.Kubectl("get", "replications", "-n", "default", "-o", "yaml")
		if err != nil {
			return err
		}
		events, err := cluster.Kubectl("get", "events", "-A", "-o", "yaml")
		if err != nil {
			return err
		}
		if !strings.Contains(status, "parked") || !strings.Contains(status, "lastError") || !strings.Contains(events, "Parked") {
			return fmt.Errorf("status and events tell of nothing parked")
		}
		told += status + events
		return nil
	})
	for what, text := range map[string]string{"spans": spans.Text(), "logs": said.String(), "status, events and dead letters": told} {
		for _, value := range []string{inObject, inParam} {
			for form, hidden := range map[string]string{
				"plain": value, "in base64": base64.StdEncoding.EncodeToString([]byte(value)), "in part": value[:7],
			} {
				if at := strings.Index(text, hidden); at >= 0 {
					t.Errorf("%s tell %s %s: ... %s ...", what, value, form, text[max(at-300, 0):min(at+60, len(text))])
				}
			}
		}
	}
}

// until waits until look finds nothing wrong.
func until(t *testing.T, what string, look func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s: %v", what, err)
		}
		wait(t, 200*time.Millisecond)
	}
}

// said is what the log says. It is safe for concurrent use.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
