package control

import (
	"path"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// overlaps reports whether two Replications would certainly write the same
// objects: some kind in some destination namespace that both select, or
// cluster-scoped objects. What depends on labels cannot be told from specs; there
// the mark on each object keeps the two apart.
func overlaps(a, b v1alpha1.ReplicationSpec) bool {
	if byLabels(a) || byLabels(b) || !sameKinds(a, b) {
		return false
	}
	return a.IncludeClusterScoped && b.IncludeClusterScoped && manyKinds(a) && manyKinds(b) || sameNamespaces(a, b)
}

// byLabels reports whether labels decide about what spec selects.
func byLabels(spec v1alpha1.ReplicationSpec) bool {
	return spec.LabelSelector != nil || spec.ExcludeLabels != nil || spec.Namespaces != nil && spec.Namespaces.LabelSelector != nil
}

// kind is "group/resource", either part "*".
type kind struct{ group, resource string }

func parseKind(text string) kind {
	if text == "*" {
		return kind{"*", "*"}
	}
	group, resource, ok := strings.Cut(text, "/")
	if !ok {
		return kind{"", text}
	}
	return kind{group, resource}
}

// and is the kinds that both stand for.
func (k kind) and(o kind) (kind, bool) {
	both := func(a, b string) (string, bool) {
		switch {
		case a == "*":
			return b, true
		case b == "*" || a == b:
			return a, true
		}
		return "", false
	}
	group, ok1 := both(k.group, o.group)
	resource, ok2 := both(k.resource, o.resource)
	return kind{group, resource}, ok1 && ok2
}

// covers reports whether k stands for all that o does.
func (k kind) covers(o kind) bool {
	both, ok := k.and(o)
	return ok && both == o
}

func kindsOf(spec v1alpha1.ReplicationSpec) []kind {
	if len(spec.Kinds) == 0 {
		return []kind{{"*", "*"}}
	}
	kinds := make([]kind, len(spec.Kinds))
	for i, text := range spec.Kinds {
		kinds[i] = parseKind(text)
	}
	return kinds
}

// manyKinds reports whether spec selects kinds by wildcard, and so cluster-scoped ones.
func manyKinds(spec v1alpha1.ReplicationSpec) bool {
	return slices.ContainsFunc(kindsOf(spec), func(k kind) bool { return k.resource == "*" })
}

func sameKinds(a, b v1alpha1.ReplicationSpec) bool {
	excluded := func(k kind) bool {
		return slices.ContainsFunc(slices.Concat(a.ExcludeKinds, b.ExcludeKinds), func(text string) bool { return parseKind(text).covers(k) })
	}
	for _, x := range kindsOf(a) {
		for _, y := range kindsOf(b) {
			if both, ok := x.and(y); ok && !excluded(both) {
				return true
			}
		}
	}
	return false
}

// destination is the set of namespaces that a spec writes to: those whose name
// matches one of globs, unless their source is excluded.
type destination struct {
	globs []string
	spec  v1alpha1.ReplicationSpec
}

func destinationOf(spec v1alpha1.ReplicationSpec) destination {
	d := destination{spec: spec}
	names := []string{"*"}
	if spec.Namespaces != nil && len(spec.Namespaces.Names) > 0 {
		names = spec.Namespaces.Names
	}
	m := mapping(spec)
	for _, name := range names {
		if to, ok := m.Names[name]; ok {
			d.globs = append(d.globs, to)
			continue
		}
		d.globs = append(d.globs, m.Prefix+name+m.Suffix)
		if isGlob(name) {
			for from, to := range m.Names {
				if matches(name, from) {
					d.globs = append(d.globs, to)
				}
			}
		}
	}
	return d
}

func mapping(spec v1alpha1.ReplicationSpec) v1alpha1.NamespaceMapping {
	if spec.NamespaceMapping == nil {
		return v1alpha1.NamespaceMapping{}
	}
	return *spec.NamespaceMapping
}

func excludes(spec v1alpha1.ReplicationSpec) []string {
	if spec.Namespaces == nil {
		return nil
	}
	return spec.Namespaces.Exclude
}

// has reports whether the destination namespace is in the set.
func (d destination) has(name string) bool {
	if !slices.ContainsFunc(d.globs, func(g string) bool { return matches(g, name) }) {
		return false
	}
	m := mapping(d.spec)
	excluded := func(source string) bool {
		return slices.ContainsFunc(excludes(d.spec), func(g string) bool { return matches(g, source) })
	}
	for from, to := range m.Names {
		if to == name {
			return !excluded(from)
		}
	}
	source := strings.TrimSuffix(strings.TrimPrefix(name, m.Prefix), m.Suffix)
	_, elsewhere := m.Names[source]
	return !elsewhere && !excluded(source)
}

// sameNamespaces reports whether some namespace is certainly in both sets.
func sameNamespaces(a, b v1alpha1.ReplicationSpec) bool {
	x, y := destinationOf(a), destinationOf(b)
	for _, g := range x.globs {
		for _, h := range y.globs {
			switch {
			case !isGlob(g):
				if x.has(g) && y.has(g) {
					return true
				}
			case !isGlob(h):
				if x.has(h) && y.has(h) {
					return true
				}
			// With exclusions it is not certain that the names in both sets are left in both.
			case len(excludes(a)) == 0 && len(excludes(b)) == 0 && intersect(g, h):
				return true
			}
		}
	}
	return false
}

func isGlob(s string) bool { return strings.ContainsAny(s, "*?") }

func matches(glob, name string) bool {
	ok, err := path.Match(glob, name)
	return err == nil && ok
}

// intersect reports whether some name matches both globs.
func intersect(a, b string) bool {
	// reach[j]: the first i bytes of a and the first j of b can match one text.
	reach := make([]bool, len(b)+1)
	for i := 0; i <= len(a); i++ {
		row := make([]bool, len(b)+1)
		for j := 0; j <= len(b); j++ {
			switch {
			case i == 0 && j == 0:
				row[j] = true
			case i > 0 && a[i-1] == '*' || j > 0 && b[j-1] == '*':
				// The star stands for nothing, or for one more byte of the other.
				row[j] = i > 0 && reach[j] || j > 0 && row[j-1]
			case i > 0 && j > 0:
				row[j] = reach[j-1] && same(a[i-1], b[j-1])
			}
		}
		reach = row
	}
	return reach[len(b)]
}

// same reports whether one byte can match both, of which neither is a star.
func same(x, y byte) bool { return x == '?' || y == '?' || x == y }
