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

const crd = "../../charts/dr-syncer/crds/dr-syncer.io_replications.yaml"

// cluster returns an API server that knows the CRD.
func cluster(t *testing.T) *kubetest.Cluster {
	t.Helper()
	c := kubetest.Shared(t)
	serve(t, c, "replications")
	return c
}

// serve has an API server serve one of our kinds, by its plural.
func serve(t *testing.T, c *kubetest.Cluster, plural string) {
	t.Helper()
	text, err := os.ReadFile(strings.ReplaceAll(crd, "replications", plural))
	if err != nil {
		t.Fatalf("%v; run: make generate", err)
	}
	if err := c.Apply(string(text)); err != nil {
		t.Fatal(err)
	}
	// Discovery takes a moment to say that it is served.
	deadline := time.After(90 * time.Second)
	for {
		out, err := c.Kubectl("get", plural, "-A")
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s are not served: %v: %s", plural, err, out)
		}
	}
}

// create applies the spec and returns what the API server said against it.
func create(t *testing.T, c *kubetest.Cluster, name, spec string) error {
	t.Helper()
	return apply(t, c, manifest(name, spec))
}

// apply applies a manifest and returns what the API server said against it.
func apply(t *testing.T, c *kubetest.Cluster, text string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl("apply", "--server-side", "-f", file); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func manifest(name, spec string) string {
	return fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: %s, namespace: default}\nspec: %s\n", name, spec)
}

// TestRules gives the API server specs and reads what it says of them.
func TestRules(t *testing.T) {
	c := cluster(t)
	cases := map[string]struct {
		spec string
		want string // part of the refusal; empty if the spec is good
	}{
		"Minimal": {`{source: {site: prod-nyc}}`, ""},
		"Full": {`{source: {site: prod}, namespaces: {names: [shop, "shop-*", "?x"], exclude: [shop-test], labelSelector: {matchLabels: {tier: gold}}},
			namespaceMapping: {names: {shop: store}, prefix: dr-, suffix: -copy}, kinds: ["*", "apps/*", "*/deployments", configmaps, stable.example.com/crontabs],
			excludeKinds: [events, "events.k8s.io/*"], labelSelector: {matchLabels: {a: b}}, excludeLabels: {matchLabels: {c: d}}, includeClusterScoped: true,
			mode: Continuous, paused: true, deletionPolicy: Retain, onDelete: DeleteCopies, conflictPolicy: Adopt,
			immutablePolicy: {default: Park, kinds: {services: Skip, batch/jobs: Recreate}}, workers: 256,
			retry: {attempts: 5, initialDelay: 500ms, maxDelay: 1m30s}}`, ""},

		"Transforms": {`{source: {site: a}, transforms: {names: [shop, house.rules], shared: [all], selector: {matchLabels: {team: shop}}}}`, ""},
		"Mapping": {`{source: {site: a}, mapping: {storageClasses: {"*": standard, fast: local}, accessModes: {"*": ReadWriteOnce}, ingressClasses: {nginx: traefik},
			hosts: {example.com: dr.example.com}, registries: {registry.example.com/shop: mirror.example.com}, keepNodePorts: true}}`, ""},
		"Standby": {`{source: {site: a}, standby: {enabled: true, workloads: Keep, cronJobs: Sleep, jobs: Keep, daemonSets: Keep, pods: Keep, autoscalers: Keep,
			services: Keep, ingresses: Rewrite, gateways: Keep, certificates: Keep, externalDNS: Keep, virtualMachines: Keep, webhooks: Keep, hosts: {example.com: dr.example.com}}}`, ""},
		"Awake":                 {`{source: {site: a}, standby: {enabled: false}}`, ""},
		"TransformName":         {`{source: {site: a}, transforms: {names: [Shop]}}`, "name a ConfigMap of this namespace"},
		"TransformElsewhere":    {`{source: {site: a}, transforms: {names: [other/shop]}}`, "name a ConfigMap of this namespace"},
		"TransformTwice":        {`{source: {site: a}, transforms: {names: [shop, shop]}}`, "duplicate entries"},
		"TransformShared":       {`{source: {site: a}, transforms: {shared: ["*"]}}`, "name a ConfigMap of DR-Syncer's namespace"},
		"AccessModeFrom":        {`{source: {site: a}, mapping: {accessModes: {RWO: ReadWriteMany}}}`, "map from ReadWriteOnce"},
		"AccessModeTo":          {`{source: {site: a}, mapping: {accessModes: {"*": RWX}}}`, `supported values: "ReadWriteOnce"`},
		"HostScheme":            {`{source: {site: a}, mapping: {hosts: {"https://example.com": dr.example.com}}}`, "map a domain to a domain"},
		"HostWildcard":          {`{source: {site: a}, mapping: {hosts: {"*.example.com": dr.example.com}}}`, "no wildcard"},
		"RegistryScheme":        {`{source: {site: a}, mapping: {registries: {"https://a": b}}}`, "without a scheme"},
		"ClassToNothing":        {`{source: {site: a}, mapping: {storageClasses: {fast: ""}}}`, "spec.mapping.storageClasses"},
		"StandbyPart":           {`{source: {site: a}, standby: {workloads: Wake}}`, `supported values: "Sleep", "Keep"`},
		"StandbyRewrite":        {`{source: {site: a}, standby: {services: Rewrite}}`, `supported values: "Sleep", "Keep"`},
		"StandbyRewriteNoHosts": {`{source: {site: a}, standby: {ingresses: Rewrite}}`, "Rewrite needs spec.standby.hosts"},
		"StandbyHosts":          {`{source: {site: a}, standby: {gateways: Rewrite, hosts: {Example.com: b}}}`, "map a domain to a domain"},

		"Scheduled":         {`{source: {site: a}, mode: Scheduled, schedule: "30 2 * * *", timeZone: Europe/Berlin, startingDeadlineSeconds: 60, suspend: true, concurrencyPolicy: Forbid, successfulRunsHistoryLimit: 0, failedRunsHistoryLimit: 5}`, ""},
		"Manual":            {`{source: {site: a}, mode: Manual, deletionGuard: {maxCount: 5, maxPercent: 10, minCount: 0, window: 1h}}`, ""},
		"NoSchedule":        {`{source: {site: a}, mode: Scheduled}`, "mode: Scheduled needs a schedule"},
		"ScheduleForNobody": {`{source: {site: a}, schedule: "@daily"}`, "no other mode has one"},
		"GuardPercent":      {`{source: {site: a}, deletionGuard: {maxPercent: 101}}`, "should be less than or equal to 100"},
		"GuardWindow":       {`{source: {site: a}, deletionGuard: {window: 5m30}}`, "write a duration from 1s to 24h"},
		"Overlapping":       {`{source: {site: a}, concurrencyPolicy: Allow}`, "Unsupported value"},
		"NoSource":          {`{paused: true}`, "spec.source: Required value"},
		"NoSite":            {`{source: {site: ""}}`, "a site's name is made of"},
		"SiteUpperCase":     {`{source: {site: Prod}}`, "a site's name is made of"},
		"SiteDot":           {`{source: {site: prod.nyc}}`, "a site's name is made of"},
		"SiteDash":          {`{source: {site: prod-}}`, "a site's name is made of"},
		"SiteLong":          {`{source: {site: ` + strings.Repeat("a", 64) + `}}`, "Too long"},
		"NamespaceCase":     {`{source: {site: a}, namespaces: {names: [Shop]}}`, "spec.namespaces.names[0]: Invalid value: a namespace is named with"},
		"NamespaceRegexp":   {`{source: {site: a}, namespaces: {names: ["shop.*"]}}`, "the wildcards * and ?"},
		"NamespaceEmpty":    {`{source: {site: a}, namespaces: {names: [""]}}`, "a namespace is named with"},
		"NamespaceExclude":  {`{source: {site: a}, namespaces: {exclude: ["[a]"]}}`, "a namespace is named with"},
		"MapFromGlob":       {`{source: {site: a}, namespaceMapping: {names: {"shop-*": store}}}`, "wildcards cannot be mapped to one name"},
		"MapToBad":          {`{source: {site: a}, namespaceMapping: {names: {shop: Store_1}}}`, "a destination namespace is named with"},
		"MapToNothing":      {`{source: {site: a}, namespaceMapping: {names: {shop: ""}}}`, "a destination namespace is named with"},
		"MapToLong":         {`{source: {site: a}, namespaceMapping: {names: {shop: ` + strings.Repeat("a", 64) + `}}}`, "Too long: may not be more than 63"},
		"MapTwoToOne":       {`{source: {site: a}, namespaceMapping: {names: {shop: store, shop2: store}}}`, "must not be mapped to one"},
		"MapToKubeSystem":   {`{source: {site: a}, namespaceMapping: {names: {shop: kube-system}}}`, "belong to Kubernetes"},
		"PrefixBad":         {`{source: {site: a}, namespaceMapping: {prefix: -dr}}`, "a prefix is made of"},
		"PrefixKube":        {`{source: {site: a}, namespaceMapping: {prefix: kube-}}`, "belong to Kubernetes"},
		"SuffixBad":         {`{source: {site: a}, namespaceMapping: {suffix: .dr}}`, "a suffix is made of"},
		"SuffixDash":        {`{source: {site: a}, namespaceMapping: {suffix: dr-}}`, "a suffix is made of"},
		"PrefixSuffixLong":  {`{source: {site: a}, namespaceMapping: {prefix: ` + strings.Repeat("p", 32) + `, suffix: ` + strings.Repeat("s", 31) + `}}`, "leave no room for a name"},
		"KindCamelCase":     {`{source: {site: a}, kinds: [Deployment]}`, "spec.kinds[0]: Invalid value: write a kind as"},
		"KindDots":          {`{source: {site: a}, kinds: [deployments.apps]}`, "write a kind as"},
		"KindVersion":       {`{source: {site: a}, kinds: [apps/v1/deployments]}`, "write a kind as"},
		"KindPartGlob":      {`{source: {site: a}, kinds: ["config*"]}`, "write a kind as"},
		"KindNone":          {`{source: {site: a}, kinds: []}`, "list at least one kind"},
		"ExcludeCamelCase":  {`{source: {site: a}, excludeKinds: [Pod]}`, "write a kind as"},
		"ExcludeAll":        {`{source: {site: a}, excludeKinds: ["*"]}`, "leaves nothing to replicate"},
		"ImmutableKind":     {`{source: {site: a}, immutablePolicy: {kinds: {Job: Park}}}`, "name a kind as"},
		"ImmutableAction":   {`{source: {site: a}, immutablePolicy: {kinds: {batch/jobs: Replace}}}`, `supported values: "Recreate", "Skip", "Park"`},
		"Mode":              {`{source: {site: a}, mode: Once}`, `supported values: "Continuous"`},
		"DeletionPolicy":    {`{source: {site: a}, deletionPolicy: Delete}`, `supported values: "Mirror", "Retain"`},
		"OnDelete":          {`{source: {site: a}, onDelete: Delete}`, `supported values: "Retain", "DeleteCopies"`},
		"ConflictPolicy":    {`{source: {site: a}, conflictPolicy: Overwrite}`, `supported values: "Refuse", "Adopt"`},
		"NoWorkers":         {`{source: {site: a}, workers: 0}`, "greater than or equal to 1"},
		"ManyWorkers":       {`{source: {site: a}, workers: 257}`, "less than or equal to 256"},
		"NoAttempts":        {`{source: {site: a}, retry: {attempts: 0}}`, "greater than or equal to 1"},
		"ManyAttempts":      {`{source: {site: a}, retry: {attempts: 1001}}`, "less than or equal to 1000"},
		"DelayNoUnit":       {`{source: {site: a}, retry: {initialDelay: "5"}}`, "write a duration from 10ms to 10m"},
		"DelayShort":        {`{source: {site: a}, retry: {initialDelay: 1ms}}`, "write a duration from 10ms to 10m"},
		"DelayNegative":     {`{source: {site: a}, retry: {initialDelay: -5s}}`, "write a duration from 10ms to 10m"},
		"MaxDelayWords":     {`{source: {site: a}, retry: {maxDelay: "an hour"}}`, "write a duration from 10ms to 1h"},
		"MaxDelayLong":      {`{source: {site: a}, retry: {maxDelay: 2h}}`, "write a duration from 10ms to 1h"},
		"DelaysTurnedRound": {`{source: {site: a}, retry: {initialDelay: 10s, maxDelay: 1s}}`, "initialDelay must not be longer than maxDelay"},
		"UnknownField":      {`{source: {site: a}, namespace: shop}`, ".spec.namespace: field not declared in schema"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := create(t, c, "rules-"+strings.ToLower(name), tc.spec)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("a good spec was refused: %v", err)
			case tc.want != "" && err == nil:
				t.Errorf("accepted, want a refusal with %q", tc.want)
			case tc.want != "" && !strings.Contains(flat(err.Error()), tc.want):
				t.Errorf("refused with %q, want %q", flat(err.Error()), tc.want)
			case err != nil && strings.Contains(err.Error(), "evaluat"):
				t.Errorf("the refusal speaks of the rule, not of the spec: %v", err)
			}
		})
	}
}

// flat leaves out what differs between versions of the API server: the value that it quotes.
func flat(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	for _, quoted := range []string{`Invalid value: "object": `, `Invalid value: "string": `, `Invalid value: "array": `} {
		s = strings.ReplaceAll(s, quoted, "Invalid value: ")
	}
	if i := strings.Index(s, `Invalid value: "`); i >= 0 {
		if j := strings.Index(s[i+16:], `": `); j >= 0 {
			s = s[:i+15] + s[i+16+j+3:]
		}
	}
	return s
}

func TestSourceIsForLife(t *testing.T) {
	c := cluster(t)
	if err := create(t, c, "life", `{source: {site: a}}`); err != nil {
		t.Fatal(err)
	}
	if err := create(t, c, "life", `{source: {site: a}, paused: true}`); err != nil {
		t.Errorf("another field could not be changed: %v", err)
	}
	err := create(t, c, "life", `{source: {site: b}}`)
	if err == nil || !strings.Contains(err.Error(), "make another Replication for another site") {
		t.Errorf("changing the source: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	c := cluster(t)
	if err := create(t, c, "defaults", `{source: {site: a}, immutablePolicy: {}, retry: {}}`); err != nil {
		t.Fatal(err)
	}
	got, err := c.Kubectl("get", "replication", "-n", "default", "defaults", "-o",
		"jsonpath={.spec.kinds} {.spec.mode} {.spec.deletionPolicy} {.spec.onDelete} {.spec.conflictPolicy} {.spec.workers} {.spec.immutablePolicy.default} {.spec.retry}")
	if err != nil {
		t.Fatal(err)
	}
	want := `["*"] Continuous Mirror Retain Refuse 16 Recreate {"attempts":12,"initialDelay":"200ms","maxDelay":"30s"}`
	if diff := cmp.Diff(want, strings.TrimSpace(got)); diff != "" {
		t.Errorf("defaults (-want +got)\n%s", diff)
	}
}

// TestColumns looks at a Replication as a person does.
func TestColumns(t *testing.T) {
	c := cluster(t)
	if err := create(t, c, "columns", `{source: {site: prod-nyc}}`); err != nil {
		t.Fatal(err)
	}
	status := `{"status":{"phase":"Replicating","counts":{"synced":1204,"pending":2,"failed":1,"parked":3},"lag":{"events":7,"seconds":4},` +
		`"position":{"epoch":"01J","sequence":99},"oldestMoment":"` + time.Now().Add(-36*time.Hour).UTC().Format(time.RFC3339) + `","lastEvent":{"object":"apps/deployments shop/web","action":"Configured","time":"2026-01-01T00:00:00Z"},` +
		`"conditions":[{"type":"Ready","status":"True","reason":"Replicating","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	if out, err := c.Kubectl("patch", "replication", "-n", "default", "columns", "--subresource=status", "--type=merge", "-p", status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for wide, want := range map[string][]string{
		"": {"NAME SOURCE PHASE SYNCED FAILED PARKED LAG AGE", "columns prod-nyc Replicating 1204 1 3 4"},
		"-owide": {
			"NAME SOURCE PHASE SYNCED FAILED PARKED LAG AGE MODE LAST RUN NEXT RUN REASON PENDING POSITION OLDEST MOMENT LAST EVENT",
			"columns prod-nyc Replicating 1204 1 3 4 AGE Continuous Replicating 2 99 36h apps/deployments shop/web",
		},
	} {
		args := []string{"get", "repl", "-n", "default", "columns"}
		if wide != "" {
			args = append(args, wide)
		}
		out, err := c.Kubectl(args...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		for i := range lines {
			words := strings.Fields(lines[i])
			if i == 1 && len(words) > 7 {
				words[7] = "AGE"
				if wide == "" {
					words = words[:7]
				}
			}
			lines[i] = strings.Join(words, " ")
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("columns %s (-want +got)\n%s", wide, diff)
		}
	}
}
