package apply

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// The limits of a Replication's numbers.
const maxWorkers = 256

var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	globPattern  = regexp.MustCompile(`^[-a-z0-9*?]+$`)
	groupName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	resourceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	prefixText   = regexp.MustCompile(`^([a-z0-9][-a-z0-9]*)?$`)
	suffixText   = regexp.MustCompile(`^([-a-z0-9]*[a-z0-9])?$`)
)

// systemNamespaces belong to a cluster and are never written to.
var systemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease"}

// wellKnown are the groups of kinds that people know by their short names.
var wellKnown = map[string]string{
	"deployments": "apps", "statefulsets": "apps", "daemonsets": "apps", "replicasets": "apps",
	"jobs": "batch", "cronjobs": "batch",
	"ingresses": "networking.k8s.io", "networkpolicies": "networking.k8s.io",
	"roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io",
	"clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
	"horizontalpodautoscalers": "autoscaling", "poddisruptionbudgets": "policy",
	"customresourcedefinitions": "apiextensions.k8s.io", "storageclasses": "storage.k8s.io",
}

// Validate returns everything that is wrong with spec, each with what to do
// about it, in the order of the fields; none if it can be carried out.
func Validate(spec v1alpha1.ReplicationSpec) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if spec.Source.Site == "" {
		fail("spec.source.site is empty: name the site that the source's collector was started with (--site)")
	}
	if n := spec.Namespaces; n != nil {
		validateGlobs("spec.namespaces.names", n.Names, fail)
		validateGlobs("spec.namespaces.exclude", n.Exclude, fail)
		if _, err := parseLabels(n.LabelSelector); err != nil {
			fail("spec.namespaces.labelSelector: %w", err)
		}
		for _, name := range n.Names {
			if to := mapOrSame(spec.NamespaceMapping, name); slices.Contains(systemNamespaces, to) {
				fail("spec.namespaces.names: %q would be written to namespace %q, which belongs to this cluster itself: leave it out or map it to another name", name, to)
			}
		}
	}
	validateMapping(spec, fail)
	validateKinds("spec.kinds", spec.Kinds, fail)
	validateKinds("spec.excludeKinds", spec.ExcludeKinds, fail)
	if _, err := parseLabels(spec.LabelSelector); err != nil {
		fail("spec.labelSelector: %w", err)
	}
	if _, err := parseLabels(spec.ExcludeLabels); err != nil {
		fail("spec.excludeLabels: %w", err)
	}
	if p := spec.ImmutablePolicy; p != nil {
		for _, kind := range slices.Sorted(maps.Keys(p.Kinds)) {
			pattern, err := parseKind(kind)
			switch {
			case err != nil:
				fail("spec.immutablePolicy.kinds: %w", err)
			case pattern.group == "*" || pattern.resource == "*":
				fail("spec.immutablePolicy.kinds: %q: name one kind here, wildcards are not allowed; use spec.immutablePolicy.default for the others", kind)
			}
		}
	}
	if spec.Workers < 0 || spec.Workers > maxWorkers {
		fail("spec.workers is %d: choose 1 to %d", spec.Workers, maxWorkers)
	}
	if r := spec.Retry; r != nil {
		if r.Attempts < 0 {
			fail("spec.retry.attempts is %d: choose 1 or more", r.Attempts)
		}
		if r.InitialDelay != nil && r.InitialDelay.Duration <= 0 {
			fail("spec.retry.initialDelay is %s: choose a duration above zero, such as 200ms", r.InitialDelay.Duration)
		}
		if r.InitialDelay != nil && r.MaxDelay != nil && r.MaxDelay.Duration < r.InitialDelay.Duration {
			fail("spec.retry.maxDelay (%s) is less than spec.retry.initialDelay (%s): make it at least as long", r.MaxDelay.Duration, r.InitialDelay.Duration)
		}
	}
	return errs
}

func validateKinds(field string, patterns []string, fail func(string, ...any)) {
	for _, p := range patterns {
		if _, err := parseKind(p); err != nil {
			fail("%s: %w", field, err)
		}
	}
}

func validateGlobs(field string, globs []string, fail func(string, ...any)) {
	for _, g := range globs {
		if !globPattern.MatchString(g) {
			fail("%s: %q cannot be a namespace's name: use lower-case letters, digits and \"-\", with \"*\" for any characters and \"?\" for one", field, g)
		}
	}
}

func validateMapping(spec v1alpha1.ReplicationSpec, fail func(string, ...any)) {
	m := spec.NamespaceMapping
	if m == nil {
		return
	}
	if !prefixText.MatchString(m.Prefix) {
		fail("spec.namespaceMapping.prefix: %q cannot begin a namespace's name: use lower-case letters, digits and \"-\", beginning with a letter or digit", m.Prefix)
	}
	if !suffixText.MatchString(m.Suffix) {
		fail("spec.namespaceMapping.suffix: %q cannot end a namespace's name: use lower-case letters, digits and \"-\", ending with a letter or digit", m.Suffix)
	}
	sources := map[string]string{}
	for _, from := range slices.Sorted(maps.Keys(m.Names)) {
		to := m.Names[from]
		switch first, taken := sources[to]; {
		case !dnsLabel.MatchString(from) || len(from) > maxLabelValue:
			fail("spec.namespaceMapping.names: %q is not a namespace's name (globs are not allowed here)", from)
		case !dnsLabel.MatchString(to) || len(to) > maxLabelValue:
			fail("spec.namespaceMapping.names: %q is mapped to %q, which is not a namespace's name: use at most 63 lower-case letters, digits and \"-\"", from, to)
		case slices.Contains(systemNamespaces, to):
			fail("spec.namespaceMapping.names: %q is mapped to %q, which belongs to this cluster itself: choose another name", from, to)
		case taken:
			fail("spec.namespaceMapping.names: %q and %q are both mapped to %q: give each its own namespace", first, from, to)
		case !canSelect(spec.Namespaces, from):
			fail("spec.namespaceMapping.names: %q is mapped but never selected: add it to spec.namespaces.names or remove it here", from)
		}
		sources[to] = from
	}
	if n := spec.Namespaces; n != nil {
		for _, name := range n.Names {
			first, taken := sources[mapOrSame(m, name)]
			if _, own := m.Names[name]; taken && !own && !strings.ContainsAny(name, "*?") {
				fail("spec.namespaceMapping: %q and %q would both be written to %q: give each its own namespace", first, name, mapOrSame(m, name))
			}
		}
	}
}

// canSelect reports whether a namespace of this name may be selected.
func canSelect(n *v1alpha1.NamespaceSelector, name string) bool {
	if n == nil {
		return true
	}
	matches := func(glob string) bool { return matchGlob(glob, name) }
	if slices.ContainsFunc(n.Exclude, matches) {
		return false
	}
	return n.LabelSelector != nil || len(n.Names) == 0 || slices.ContainsFunc(n.Names, matches)
}

func mapOrSame(m *v1alpha1.NamespaceMapping, name string) string {
	if m == nil {
		return name
	}
	return mapNamespace(*m, name)
}

// parseKind reads "*", "resource", "group/resource", "group/*" and "*/resource".
func parseKind(text string) (kindPattern, error) {
	if text == "*" {
		return kindPattern{group: "*", resource: "*"}, nil
	}
	parts := strings.Split(text, "/")
	switch {
	case len(parts) > 2:
		return kindPattern{}, fmt.Errorf("kind %q has more than one \"/\": write group/resource without a version, such as apps/deployments", text)
	case strings.ToLower(text) != text:
		return kindPattern{}, fmt.Errorf("kind %q has capital letters: write the plural resource name, such as apps/deployments for Deployment", text)
	case len(parts) == 1:
		if group, ok := wellKnown[text]; ok {
			return kindPattern{}, fmt.Errorf("kind %q is not in the core group: write %s/%s", text, group, text)
		}
		if resource, group, dotted := strings.Cut(text, "."); dotted {
			return kindPattern{}, fmt.Errorf("kind %q: write the group first, with a slash: %s/%s", text, group, resource)
		}
		parts = []string{"", text}
	}
	p := kindPattern{group: parts[0], resource: parts[1]}
	switch {
	case len(parts) == 2 && strings.HasPrefix(text, "/"):
		return kindPattern{}, fmt.Errorf("kind %q begins with a slash: write just %s for the core group", text, cmp.Or(p.resource, "the resource"))
	case p.group == "v1":
		return kindPattern{}, fmt.Errorf("kind %q begins with a version: write just %s", text, p.resource)
	case p.group != "" && p.group != "*" && !groupName.MatchString(p.group),
		p.resource != "*" && !resourceName.MatchString(p.resource):
		return kindPattern{}, fmt.Errorf("kind %q: write *, resource, group/resource, group/* or */resource", text)
	}
	return p, nil
}
