package v1alpha1_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// withTransfers returns an API server that knows VolumeTransfers.
func withTransfers(t *testing.T) *kubetest.Cluster {
	t.Helper()
	c := cluster(t)
	text, err := os.ReadFile(strings.ReplaceAll(crd, "replications", "volumetransfers"))
	if err != nil {
		t.Fatalf("%v; run: make generate", err)
	}
	if err := c.Apply(string(text)); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(60 * time.Second)
	for {
		out, err := c.Kubectl("get", "volumetransfers", "-A")
		if err == nil {
			return c
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("VolumeTransfers are not served: %v: %s", err, out)
		}
	}
}

func createTransfer(t *testing.T, c *kubetest.Cluster, name, spec string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "transfer.yaml")
	text := fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: VolumeTransfer\nmetadata: {name: %s, namespace: default}\nspec: %s\n", name, spec)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl("apply", "--server-side", "-f", file); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func TestVolumeTransferIsValidated(t *testing.T) {
	c := withTransfers(t)
	const from = `source: {site: prod, namespace: shop, claim: db}`
	for name, tc := range map[string]struct{ spec, want string }{
		"least": {`{` + from + `, destination: {}}`, ""},
		"full": {`{` + from + `, destination: {claim: db-copy, storageClass: fast, capacity: 10Gi, accessModes: [ReadWriteOnce], adopt: true}, include: [/keep],
			exclude: ["*.tmp"], deletions: {maxCount: 5, maxPercent: 1, allowEmpty: true}, verify: Full, snapshots: Require, keep: 7, moverSecurity: Privileged,
			attempts: 3, timeout: 90m, bandwidthLimit: 50Mi, suspend: true}`, ""},
		"site":     {`{source: {site: Prod, namespace: shop, claim: db}, destination: {}}`, "a site's name is made of"},
		"claim":    {`{source: {site: prod, namespace: shop, claim: ../db}, destination: {}}`, "a claim is named with"},
		"noclaim":  {`{source: {site: prod, namespace: shop}, destination: {}}`, "spec.source.claim"},
		"verify":   {`{` + from + `, destination: {}, verify: Some}`, "Unsupported value"},
		"timeout":  {`{` + from + `, destination: {}, timeout: 5s}`, "write a duration from 1m to 720h"},
		"limit":    {`{` + from + `, destination: {}, bandwidthLimit: 100}`, "a bandwidth limit is bytes per second"},
		"percent":  {`{` + from + `, destination: {}, deletions: {maxPercent: 101}}`, "maxPercent"},
		"readonly": {`{` + from + `, destination: {accessModes: [ReadOnlyMany]}}`, "a copy is written"},
		"keep":     {`{` + from + `, destination: {}, keep: 0}`, "spec.keep"},
	} {
		t.Run(name, func(t *testing.T) {
			err := createTransfer(t, c, "validated-"+name, tc.spec)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("a good spec was refused: %v", err)
			case tc.want != "" && err == nil:
				t.Errorf("accepted, want a refusal with %q", tc.want)
			case tc.want != "" && !strings.Contains(flat(err.Error()), tc.want):
				t.Errorf("refused with %q, want %q", flat(err.Error()), tc.want)
			}
		})
	}
	for change, want := range map[string]string{
		`, destination: {}, bandwidthLimit: 1Gi, suspend: true`: "",
		`, destination: {}, verify: None`:                       "make another one",
		`, destination: {}, exclude: [a]`:                       "make another one",
		`, destination: {}, deletions: {maxCount: 1}`:           "make another one",
		`, destination: {claim: other}`:                         "make another one",
	} {
		err := createTransfer(t, c, "validated-least", `{`+from+change+`}`)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(flat(err.Error()), want) {
			t.Errorf("changed by %q: %v, want %q", change, err, want)
		}
	}
}

// TestVolumeTransferColumns looks at a VolumeTransfer as a person does.
func TestVolumeTransferColumns(t *testing.T) {
	c := withTransfers(t)
	if err := createTransfer(t, c, "shown", `{source: {site: prod, namespace: shop, claim: db}, destination: {}}`); err != nil {
		t.Fatal(err)
	}
	status := `{"status":{"phase":"Transferring","progress":"41%","failures":2,"copy":{"carrier":"direct","bytes":1,"files":2,"sent":0,"received":0,"rate":0,"verified":"Full","node":"n1"},` +
		`"recoveryPoint":{"snapshot":"s1","time":"2026-01-01T00:00:00Z","consistency":"Fuzzy"}}}`
	if out, err := c.Kubectl("patch", "vt", "-n", "default", "shown", "--subresource=status", "--type=merge", "-p", status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := c.Kubectl("get", "vt", "-n", "default", "shown", "-owide")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	words := strings.Fields(lines[len(lines)-1])
	const age = 7
	if len(words) <= age {
		t.Fatalf("shown as %q", out)
	}
	words[age] = "-"
	got := strings.Join(strings.Fields(lines[0]), " ") + "\n" + strings.Join(words, " ")
	want := "NAME SITE SOURCE PHASE PROGRESS CARRIER FAILURES AGE SNAPSHOT VERIFIED NODE\nshown prod db Transferring 41% direct 2 - s1 Full n1"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("columns (-want +got)\n%s", diff)
	}
}
