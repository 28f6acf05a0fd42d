package transform

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// facts are what matching looks at, read from the bytes when first needed.
type facts struct {
	kind      pipeline.GroupResource
	body      []byte
	read      bool
	meta      gjson.Result
	namespace string
	name      string

	labels, annotations []pair
	labelsRead          bool
	annotationsRead     bool
}

type pair struct{ key, value string }

func (f *facts) identity() {
	if f.read {
		return
	}
	f.read = true
	f.meta = gjson.GetBytes(f.body, "metadata")
	f.namespace, f.name = textOf(f.meta.Get("namespace")), textOf(f.meta.Get("name"))
}

// textOf is a string's text, empty for any other value.
func textOf(r gjson.Result) string {
	if r.Type != gjson.String {
		return ""
	}
	return r.Str
}

func pairs(r gjson.Result) []pair {
	var ps []pair
	if r.IsObject() {
		r.ForEach(func(k, v gjson.Result) bool {
			if v.Type == gjson.String {
				ps = append(ps, pair{k.Str, v.Str})
			}
			return true
		})
	}
	return ps
}

func (f *facts) labelPairs() []pair {
	if f.identity(); !f.labelsRead {
		f.labels, f.labelsRead = pairs(f.meta.Get("labels")), true
	}
	return f.labels
}

func (f *facts) annotationPairs() []pair {
	if f.identity(); !f.annotationsRead {
		f.annotations, f.annotationsRead = pairs(f.meta.Get("annotations")), true
	}
	return f.annotations
}

// kindMatches says whether a pattern of Match.Kinds is for a kind.
func kindMatches(pattern string, kind pipeline.GroupResource) bool {
	if pattern == "*" {
		return true
	}
	group, resource, grouped := strings.Cut(pattern, "/")
	if !grouped {
		return kind.Group == "" && glob(pattern, kind.Resource)
	}
	return glob(group, kind.Group) && glob(resource, kind.Resource)
}

// glob says whether a pattern is for a name: "*" stands for any run of
// characters, "?" for one.
func glob(pattern, name string) bool {
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func isExact(pattern string) bool { return !strings.ContainsAny(pattern, "*?") }

func anyGlob(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return glob(p, name) })
}

func pairsMatch(want []pair, have []pair) bool {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h pair) bool { return h.key == w.key && glob(w.value, h.value) }) {
			return false
		}
	}
	return true
}

// matcher is a Match without its kinds, which the index looks at.
type matcher struct {
	namespaces, names   []string
	labels, annotations []pair
}

func newMatcher(m *Match) matcher {
	sorted := func(from map[string]string) []pair {
		var ps []pair
		for _, k := range sortedKeys(from) {
			ps = append(ps, pair{k, from[k]})
		}
		return ps
	}
	return matcher{m.Namespaces, m.Names, sorted(m.Labels), sorted(m.Annotations)}
}

func (m *matcher) matches(f *facts) bool {
	if len(m.namespaces) > 0 || len(m.names) > 0 {
		f.identity()
		if !anyGlob(m.namespaces, f.namespace) || !anyGlob(m.names, f.name) {
			return false
		}
	}
	return (len(m.labels) == 0 || pairsMatch(m.labels, f.labelPairs())) &&
		(len(m.annotations) == 0 || pairsMatch(m.annotations, f.annotationPairs()))
}

// why explains a match that failed, empty when it did not: the plain way, which
// tests hold the index against.
func (m *Match) why(kind pipeline.GroupResource, f *facts) string {
	if len(m.Kinds) > 0 && !slices.ContainsFunc(m.Kinds, func(p string) bool { return kindMatches(p, kind) }) {
		return "kind " + kind.String() + " is none of " + strings.Join(m.Kinds, ", ")
	}
	f.identity()
	if !anyGlob(m.Namespaces, f.namespace) {
		return "namespace \"" + f.namespace + "\" is none of " + strings.Join(m.Namespaces, ", ")
	}
	if !anyGlob(m.Names, f.name) {
		return "name \"" + f.name + "\" is none of " + strings.Join(m.Names, ", ")
	}
	for _, k := range sortedKeys(m.Labels) {
		if !pairsMatch([]pair{{k, m.Labels[k]}}, f.labelPairs()) {
			return "label " + k + " is not " + m.Labels[k]
		}
	}
	for _, k := range sortedKeys(m.Annotations) {
		if !pairsMatch([]pair{{k, m.Annotations[k]}}, f.annotationPairs()) {
			return "annotation " + k + " is not " + m.Annotations[k]
		}
	}
	return ""
}

// kindIndex holds the places, in the order of the set, of the rules for one
// kind: those that ask for namespaces by their full name, and all others.
type kindIndex struct {
	byNamespace map[string][]int
	open        []int
}

func newKindIndex(rules []compiled, kind pipeline.GroupResource) *kindIndex {
	x := &kindIndex{byNamespace: map[string][]int{}}
	for i := range rules {
		m := &rules[i].Match
		if len(m.Kinds) > 0 && !slices.ContainsFunc(m.Kinds, func(p string) bool { return kindMatches(p, kind) }) {
			continue
		}
		if len(m.Namespaces) == 0 || !allExact(m.Namespaces) {
			x.open = append(x.open, i)
			continue
		}
		for _, ns := range m.Namespaces {
			if at := x.byNamespace[ns]; len(at) == 0 || at[len(at)-1] != i {
				x.byNamespace[ns] = append(at, i)
			}
		}
	}
	return x
}

func allExact(patterns []string) bool {
	return !slices.ContainsFunc(patterns, func(p string) bool { return !isExact(p) })
}

// next is the place of the first rule from a place on that matches, when its
// condition is left aside, or -1.
func (x *kindIndex) next(rules []compiled, f *facts, from int) int {
	open := x.open[lowerBound(x.open, from):]
	var named []int
	if len(x.byNamespace) > 0 {
		f.identity()
		named = x.byNamespace[f.namespace]
		named = named[lowerBound(named, from):]
	}
	for len(open) > 0 || len(named) > 0 {
		var i int
		if len(named) == 0 || len(open) > 0 && open[0] < named[0] {
			i, open = open[0], open[1:]
		} else {
			i, named = named[0], named[1:]
		}
		if rules[i].matcher.matches(f) {
			return i
		}
	}
	return -1
}

func lowerBound(places []int, from int) int {
	if from == 0 {
		return 0
	}
	i, _ := slices.BinarySearch(places, from)
	return i
}
