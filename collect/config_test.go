package collect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	text := `
namespaces: {include: ["shop-*", kube-system], exclude: [shop-tmp]}
kinds:
  include: ["*", apiregistration.k8s.io/apiservices]
  exclude: [secrets, "example.com/*", "*/gadgets"]
labels: {include: "app in (a, b)", exclude: "tier=cache"}
ownedByCustom: Skip
helmReleases: true
clean:
  keepFinalizers: {"example.com/*": ["example.com/*"]}
  keepStatus: [example.com/gadgets]
outbox: {maxBytes: 64Mi, batchBytes: 2097152, batchEvents: 1000}
heartbeat: 1m
`
	got, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Namespaces:    NamespaceConfig{Include: []string{"shop-*", "kube-system"}, Exclude: []string{"shop-tmp"}},
		Kinds:         KindConfig{Include: []string{"*", "apiregistration.k8s.io/apiservices"}, Exclude: []string{"secrets", "example.com/*", "*/gadgets"}},
		Labels:        LabelConfig{Include: "app in (a, b)", Exclude: "tier=cache"},
		OwnedByCustom: OwnedSkip,
		HelmReleases:  true,
		Clean:         CleanConfig{KeepFinalizers: map[string][]string{"example.com/*": {"example.com/*"}}, KeepStatus: []string{"example.com/gadgets"}},
		Outbox:        OutboxConfig{MaxBytes: 64 << 20, BatchBytes: 2 << 20, BatchEvents: 1000},
		Heartbeat:     Duration(time.Minute),
		Discovery:     Duration(30 * time.Second),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if got, err := ParseConfig(nil); err != nil || !cmp.Equal(got, Default()) {
		t.Errorf("empty configuration: %+v, %v", got, err)
	}
}

func TestParseConfigSaysWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"NotYAML":        {"a: [", "read configuration"},
		"UnknownField":   {"namespace: [a]", `unknown field "namespace"`},
		"RepeatedField":  {"helmReleases: true\nhelmReleases: false", "already"},
		"WrongType":      {"kinds: [a]", "kinds"},
		"NoNamespaces":   {"namespaces: {include: []}", `namespaces.include: is empty, so nothing would be collected: leave it out or write ["*"]`},
		"NoKinds":        {"kinds: {include: []}", "kinds.include: is empty"},
		"BadNamespace":   {"namespaces: {exclude: [Shop]}", `namespaces.exclude: "Shop" is neither a namespace nor a glob`},
		"BadKind":        {"kinds: {include: [apps/v1/deployments]}", `kinds.include: "apps/v1/deployments" is not a kind: write the plural resource`},
		"CapitalKind":    {"kinds: {exclude: [Deployment]}", `"Deployment" is not a kind`},
		"BadStatusKind":  {`clean: {keepStatus: ["a b"]}`, "clean.keepStatus"},
		"BadGlob":        {`clean: {keepFinalizers: {secrets: ["[a"]}}`, "clean.keepFinalizers"},
		"BadLabels":      {"labels: {include: 'a in b'}", "labels.include"},
		"BadOwned":       {"ownedByCustom: sometimes", "use Auto, Collect or Skip"},
		"BadDuration":    {"heartbeat: fast", `"fast" is not a duration such as "5s"`},
		"ShortHeartbeat": {"heartbeat: 1ms", "heartbeat: is 1ms: use 100ms to 10m"},
		"LongDiscovery":  {"discovery: 24h", "discovery: is 24h0m0s: use 1s to 1h"},
		"BadSize":        {"outbox: {maxBytes: 4MB}", `"4MB" is not a size such as 4194304 or "4Mi"`},
		"SmallOutbox":    {"outbox: {maxBytes: 1}", "outbox.maxBytes: is 1: at least 1Mi is needed"},
		"LargeBatch":     {"outbox: {batchEvents: 5000}", "outbox.batchEvents: is 5000: use 2 to 1000"},
		"LargeBatchSize": {"outbox: {batchBytes: 1Gi}", "outbox.batchBytes"},
		"HugeSize":       {"outbox: {maxBytes: 99999999999Gi}", "is not a size"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
	_, err := ParseConfig([]byte("heartbeat: 1ms\nownedByCustom: x"))
	if err == nil || !strings.Contains(err.Error(), "heartbeat") || !strings.Contains(err.Error(), "ownedByCustom") {
		t.Errorf("not everything that is wrong is said: %v", err)
	}
}

// FuzzParseConfig: whatever a file holds, a configuration comes out that can be worked with, or an error.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("kinds: {include: [\"*\"]}"))
	f.Add([]byte("labels: {include: \"a=b\"}\noutbox: {maxBytes: 1Gi}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := ParseConfig(text)
		if err != nil {
			return
		}
		if _, err := NewSelector(cfg, ""); err != nil {
			t.Errorf("selector of a valid configuration: %v", err)
		}
		if _, err := NewCleaner(cfg); err != nil {
			t.Errorf("cleaner of a valid configuration: %v", err)
		}
	})
}

// TestDeniedKindsParse: a rule whose kind does not parse would never apply.
func TestDeniedKindsParse(t *testing.T) {
	for _, d := range deniedObjects {
		if len(d.kinds) == 0 || d.reason == "" || d.when == nil {
			t.Errorf("rule %q has no kinds, reason or condition", d.reason)
		}
	}
	source, err := os.ReadFile("denylist.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range strings.Split(string(source), "kindsNamed(")[1:] {
		names := call[:strings.IndexByte(call, ')')]
		for name := range strings.SplitSeq(names, ",") {
			name = strings.Trim(name, ` "`)
			if strings.HasPrefix(name, "names ") { // the function itself
				continue
			}
			if _, err := parseKindPattern(name); err != nil {
				t.Errorf("%s: %v", filepath.Base("denylist.go"), err)
			}
		}
	}
}

func TestKindPatterns(t *testing.T) {
	deployments, pods := kindOf("apps", "deployments"), kindOf("", "pods")
	for pattern, want := range map[string][2]bool{ // deployments, pods
		"*": {true, true}, "*/*": {true, true}, "apps/*": {true, false}, "apps/deployments": {true, false},
		"*/deployments": {true, false}, "deployments": {false, false}, "pods": {false, true}, "*/pods": {false, true},
	} {
		p, err := parseKindPattern(pattern)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
		if got := [2]bool{p.matches(deployments), p.matches(pods)}; got != want {
			t.Errorf("%s matches %v, want %v", pattern, got, want)
		}
	}
}

func TestUIDsAreKept(t *testing.T) {
	i := newInventory()
	for _, text := range []string{
		"0f4c8a1e-7b1d-4a7e-9b0a-3f0d6a1c2b3d", "0F4C8A1E-7B1D-4A7E-9B0A-3F0D6A1C2B3D", "", "x",
		"00000000-0000-0000-0000-000000000000", "0f4c8a1e_7b1d-4a7e-9b0a-3f0d6a1c2b3d", "0f4c8a1e-7b1d-4a7e-9b0a-3f0d6a1c2b3g",
	} {
		if got := i.uidText(i.uidOf(text)); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
	}
}

func TestVersionsAreNumbers(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "0": 0, "7": 7, "18446744073709551615": 1<<64 - 1, "007": 0, "+7": 0, "-1": 0, "abc": 0, "1.5": 0} {
		if got := number(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}
