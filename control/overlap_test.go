package control

import (
	"path"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

func TestOverlaps(t *testing.T) {
	type spec = v1alpha1.ReplicationSpec
	names := func(n ...string) *v1alpha1.NamespaceSelector { return &v1alpha1.NamespaceSelector{Names: n} }
	prefix := func(p string) *v1alpha1.NamespaceMapping { return &v1alpha1.NamespaceMapping{Prefix: p} }
	mapped := func(kv ...string) *v1alpha1.NamespaceMapping {
		m := &v1alpha1.NamespaceMapping{Names: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			m.Names[kv[i]] = kv[i+1]
		}
		return m
	}
	some := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	cases := map[string]struct {
		reason string
		a, b   spec
		want   bool
	}{
		"Everything":         {"both write everything", spec{}, spec{}, true},
		"OneOfEverything":    {"one of all namespaces is in both", spec{}, spec{Namespaces: names("shop")}, true},
		"SameName":           {"the same namespace", spec{Namespaces: names("a", "shop")}, spec{Namespaces: names("shop", "b")}, true},
		"OtherName":          {"no namespace in common", spec{Namespaces: names("a")}, spec{Namespaces: names("b")}, false},
		"Globs":              {"shop-1-x matches both", spec{Namespaces: names("shop-*")}, spec{Namespaces: names("*-x")}, true},
		"GlobsApart":         {"nothing matches both", spec{Namespaces: names("shop-*")}, spec{Namespaces: names("store-?")}, false},
		"OtherPrefix":        {"prefixes keep them apart", spec{NamespaceMapping: prefix("a-")}, spec{NamespaceMapping: prefix("b-")}, false},
		"PrefixOfOther":      {"without a prefix everything may have one", spec{NamespaceMapping: prefix("a-")}, spec{}, true},
		"MappedToOne":        {"two names mapped to one", spec{Namespaces: names("x"), NamespaceMapping: mapped("x", "z")}, spec{Namespaces: names("y"), NamespaceMapping: mapped("y", "z")}, true},
		"MappedAway":         {"the name itself is not written to", spec{Namespaces: names("x"), NamespaceMapping: mapped("x", "z")}, spec{Namespaces: names("x")}, false},
		"MappedByGlob":       {"the glob selects what is mapped", spec{Namespaces: names("x*"), NamespaceMapping: mapped("x1", "z")}, spec{Namespaces: names("z")}, true},
		"MappedNotSelected":  {"what is mapped is not selected", spec{Namespaces: names("y*"), NamespaceMapping: mapped("x1", "z")}, spec{Namespaces: names("z")}, false},
		"MappedFromGlob":     {"x1 goes elsewhere", spec{Namespaces: names("x*"), NamespaceMapping: mapped("x1", "z")}, spec{Namespaces: names("x1")}, false},
		"Excluded":           {"the one namespace is excluded in the other", spec{Namespaces: &v1alpha1.NamespaceSelector{Exclude: []string{"shop"}}}, spec{Namespaces: names("shop")}, false},
		"ExcludedOther":      {"another one is excluded", spec{Namespaces: &v1alpha1.NamespaceSelector{Exclude: []string{"x"}}}, spec{Namespaces: names("shop")}, true},
		"ExcludedMapped":     {"what is mapped here is excluded there", spec{Namespaces: &v1alpha1.NamespaceSelector{Exclude: []string{"x"}}, NamespaceMapping: mapped("x", "shop")}, spec{Namespaces: names("shop")}, false},
		"ExcludedUncertain":  {"with exclusions globs prove nothing", spec{Namespaces: &v1alpha1.NamespaceSelector{Names: []string{"a*"}, Exclude: []string{"a1"}}}, spec{Namespaces: names("a?")}, false},
		"OtherKind":          {"no kind in common", spec{Kinds: []string{"secrets"}}, spec{Kinds: []string{"configmaps"}}, false},
		"OtherGroup":         {"no group in common", spec{Kinds: []string{"apps/*"}}, spec{Kinds: []string{"batch/*", "configmaps"}}, false},
		"KindInGroup":        {"a kind of the group", spec{Kinds: []string{"apps/*"}}, spec{Kinds: []string{"*/deployments"}}, true},
		"KindExcluded":       {"the kind is excluded there", spec{ExcludeKinds: []string{"secrets"}}, spec{Kinds: []string{"secrets"}}, false},
		"GroupExcluded":      {"its group is", spec{ExcludeKinds: []string{"apps/*"}}, spec{Kinds: []string{"apps/deployments"}}, false},
		"KindLeft":           {"others of the group are left", spec{ExcludeKinds: []string{"apps/deployments"}}, spec{Kinds: []string{"apps/*"}}, true},
		"Labels":             {"labels may keep them apart", spec{LabelSelector: some}, spec{}, false},
		"NamespaceLabels":    {"so may those of namespaces", spec{}, spec{Namespaces: &v1alpha1.NamespaceSelector{LabelSelector: some}}, false},
		"ClusterScoped":      {"cluster-scoped objects have no namespace to keep them apart", spec{Namespaces: names("a"), IncludeClusterScoped: true}, spec{Namespaces: names("b"), IncludeClusterScoped: true}, true},
		"OneClusterScoped":   {"only one writes them", spec{Namespaces: names("a"), IncludeClusterScoped: true}, spec{Namespaces: names("b")}, false},
		"ClusterScopedKinds": {"one kind may well be namespaced", spec{Namespaces: names("a"), IncludeClusterScoped: true, Kinds: []string{"secrets"}}, spec{Namespaces: names("b"), IncludeClusterScoped: true, Kinds: []string{"secrets"}}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := overlaps(tc.a, tc.b); got != tc.want {
				t.Errorf("%s: got %v", tc.reason, got)
			}
			if got := overlaps(tc.b, tc.a); got != tc.want {
				t.Errorf("%s: got %v the other way round", tc.reason, got)
			}
		})
	}
}

// TestIntersect checks that globs with a name in common are found, and only they:
// short globs over two letters are tried against every short name.
func TestIntersect(t *testing.T) {
	var words []string
	for length := range 6 {
		for n := range 1 << length {
			word := make([]byte, length)
			for i := range word {
				word[i] = "ab"[n>>i&1]
			}
			words = append(words, string(word))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`[ab?*]{0,4}`)
		g, h := glob.Draw(t, "g"), glob.Draw(t, "h")
		var witness string
		found := false
		for _, w := range words {
			x, errX := path.Match(g, w)
			y, errY := path.Match(h, w)
			if errX != nil || errY != nil {
				t.Fatal(errX, errY)
			}
			if x && y {
				witness, found = w, true
				break
			}
		}
		// Four signs with stars between them can need up to eight letters; five are
		// tried, so only a found witness is proof.
		got := intersect(g, h)
		if found && !got {
			t.Fatalf("%q matches both %q and %q", witness, g, h)
		}
		if !found && got && len(g)+len(h) <= 5 {
			t.Fatalf("nothing matches both %q and %q", g, h)
		}
	})
}
