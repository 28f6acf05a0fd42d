package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// site is a collector with a namespace for its rules, another that it collects, and a log.
type site struct {
	*testing.T
	cluster      *kubetest.Cluster
	log          *natslog.Server
	store        string
	system, shop string
	side         string
	*running
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	s := &site{T: t, cluster: kubetest.Shared(t), store: t.TempDir(), system: name + "-system", shop: name + "-shop", side: nobody(t)}
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.Host, cfg.Port, cfg.SyncAlways, cfg.MinFree = s.store, "127.0.0.1", -1, false, 1<<20
	var err error
	if s.log, err = natslog.StartServer(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.log.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, ns := range []string{s.system, s.shop} {
		s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + ns + "}\n")
	}
	return s
}

func (s *site) apply(yaml string) {
	s.Helper()
	if err := s.cluster.Apply(yaml); err != nil {
		s.Fatal(err)
	}
}

// rules puts a document of rules into the ConfigMap "rules".
func (s *site) rules(list string) {
	s.Helper()
	s.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rules, namespace: " + s.system + ", labels: {dr-syncer.io/transform: \"true\"}}\n" +
		"data:\n  r.yaml: |\n    rules:\n    " + strings.ReplaceAll(list, "\n", "\n    ") + "\n")
}

func (s *site) secret(namespace, name, value string) {
	s.Helper()
	s.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData: {password: %s, user: scott}\n", name, namespace, value))
}

func (s *site) collect(args ...string) {
	s.Helper()
	s.running = start(s.T, append([]string{
		"--site=prod", "--kubeconfig=" + s.cluster.Kubeconfig(), "--nats-url=" + s.log.URL(), "--namespace=" + s.system, "--listen=" + s.side,
		"--config=" + writeFile(s.T, "namespaces: {include: ["+s.shop+"]}\nkinds: {include: [secrets, configmaps]}\nheartbeat: 200ms\n"),
	}, args...)...)
}

// published are the passwords in the log, by name of the Secret; "-" where there is none.
func (s *site) published() map[string]string {
	s.Helper()
	conn, err := natslog.Connect(s.Context(), natslog.ConnectConfig{Name: "test", InProcess: s.log})
	if err != nil {
		s.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			s.Error(err)
		}
	}()
	found := map[string]string{}
	for r, err := range conn.History("prod").Current(s.Context(), pipeline.Query{}) {
		if err != nil {
			return found // there is no history yet
		}
		if r.Op == pipeline.OpPut && r.Ref.Resource == "secrets" {
			found[r.Ref.Name] = "-"
			if p := gjson.GetBytes(r.Body, "data.password"); p.Exists() {
				text, err := base64.StdEncoding.DecodeString(p.Str)
				if err != nil {
					s.Fatal(err)
				}
				found[r.Ref.Name] = string(text)
			}
		}
	}
	return found
}

func (s *site) publishes(want map[string]string) {
	s.Helper()
	eventually(s.T, "published", func() error {
		if diff := cmp.Diff(want, s.published()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// ready waits until readiness says a text about the rules.
func (s *site) ready(want string) {
	s.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(s.T, "ready", func() error {
		resp, err := client.Get("http://" + s.side + "/readyz")
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		for line := range strings.Lines(string(body)) {
			if strings.Contains(line, "source rules") && strings.Contains(line, want) {
				return nil
			}
		}
		return errors.New(string(body))
	})
}

// stored says whether a value is anywhere in the log's files, in any form a value has in a body.
func (s *site) stored(value string) bool {
	s.Helper()
	forms := [][]byte{[]byte(value), []byte(base64.StdEncoding.EncodeToString([]byte(value)))}
	found := false
	err := filepath.WalkDir(s.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // files come and go
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		for _, f := range forms {
			found = found || bytes.Contains(text, f)
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return found
}

const redactPasswords = "- {name: passwords, stage: source, match: {kinds: [secrets]}, jq: del(.data.password)}"

func TestSourceRulesKeepValuesAtHome(t *testing.T) {
	s := newSite(t, "redact")
	s.secret(s.shop, "login", "hunter2-of-production")
	s.secret(s.shop, "other", "hunter3-of-production")

	// Rules that do not compile, and no former ones: nothing leaves.
	s.rules("- {name: passwords, stage: source, match: {kinds: [secrets]}, jq: delete(.data.password)}\n- {name: other, jq: 'foo('}")
	s.collect()
	s.says(t, `state="nothing is published"`)
	s.ready("function not defined: delete/1")
	s.ready("unexpected EOF")
	s.publishes(map[string]string{})

	s.rules(redactPasswords)
	s.publishes(map[string]string{"login": "-", "other": "-"})
	s.ready("[+]")

	// Broken again: the former stay in force, and are said to.
	s.rules("- {name: passwords, stage: source, match: {kinds: [secrets]}, jq: .data.password = }")
	s.says(t, `state="the former rules stay in force"`)
	s.ready("the former rules stay in force")
	s.secret(s.shop, "later", "hunter4-of-production")
	s.publishes(map[string]string{"login": "-", "other": "-", "later": "-"})

	// A value of a Secret beside the rules, which changes.
	s.secret(s.system, "standby", "standby-one")
	s.rules("- name: passwords\n  stage: source\n  match: {kinds: [secrets], names: [login]}\n  params: {p: {fromSecret: {name: standby, key: password}}}\n" +
		"  jq: .data.password = ($params.p | @base64)\n- {name: others, stage: source, match: {kinds: [secrets], names: [other, later]}, jq: del(.data.password)}\n" +
		"- {name: far, params: {p: {fromSecret: {name: elsewhere, key: x}}}, jq: .}")
	s.publishes(map[string]string{"login": "standby-one", "other": "-", "later": "-"})
	s.secret(s.system, "standby", "standby-two")
	s.publishes(map[string]string{"login": "standby-two", "other": "-", "later": "-"})

	// A rule that fails on one keeps that one; the others go on.
	s.rules("- {name: passwords, stage: source, match: {kinds: [secrets]}, jq: 'if .metadata.name == \"bad\" then error(.data.password) else del(.data.password) end'}")
	s.publishes(map[string]string{"login": "-", "other": "-", "later": "-"})
	s.secret(s.shop, "bad", "hunter5-of-production")
	s.secret(s.shop, "good", "hunter6-of-production")
	s.publishes(map[string]string{"login": "-", "other": "-", "later": "-", "good": "-"})
	s.says(t, "rule keeps object from being published")

	s.stop(t)
	if !s.stored("scott") || !s.stored("standby-two") {
		t.Error("not even what was published is found in the log's files: the search is wrong")
	}
	for n := 2; n <= 6; n++ {
		value := fmt.Sprintf("hunter%d-of-production", n)
		if s.stored(value) {
			t.Errorf("%s is in the log", value)
		}
		for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
			if strings.Contains(s.stderr.String(), form) {
				t.Errorf("%s is in what the collector says", value)
			}
		}
	}
}

func TestSourceRulesThatMayNotBeRead(t *testing.T) {
	s := newSite(t, "unread")
	s.secret(s.shop, "login", "hunter2")
	s.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: unread-shop}
rules: [{apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}, {apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: unread-shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: unread-shop}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: unread}]
`)
	kubeconfig := s.cluster.User("unread")
	s.collect("--kubeconfig=" + kubeconfig)
	s.says(t, "cannot read rules of stage source")
	s.ready("the ConfigMaps with rules cannot be read, nothing is published")
	s.publishes(map[string]string{})
	s.stop(t)

	s.collect("--kubeconfig="+kubeconfig, "--source-rules=false")
	s.publishes(map[string]string{"login": "hunter2"})
	s.stop(t)

	if code := start(t, "--site=a", "--nats-url=nats://a:4222", "--namespace=", "--leader-elect=false").exit(t); code != app.ExitUsage {
		t.Errorf("without a namespace for rules it ended with %d", code)
	}
}
