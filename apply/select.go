package apply

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/tidwall/gjson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Selector says which objects of a source a Replication selects and under which
// namespace they live at the destination. Its methods are safe for concurrent use.
type Selector struct {
	include, exclude []kindPattern
	all              bool // no namespace needs to be named
	names, without   []string
	byLabels         labels.Selector // of namespaces; nil: none
	objects, drop    labels.Selector // nil: none
	clusterScoped    bool
	mapping          v1alpha1.NamespaceMapping

	mu sync.RWMutex
	// labeled holds the namespaces seen in the log and whether byLabels matches them.
	labeled map[string]bool
}

// NewSelector returns the Selector of spec, or all that Validate has to say of it.
func NewSelector(spec v1alpha1.ReplicationSpec) (*Selector, error) {
	if err := errors.Join(Validate(spec)...); err != nil {
		return nil, err
	}
	s := &Selector{all: true, clusterScoped: spec.IncludeClusterScoped, labeled: map[string]bool{}}
	kinds := spec.Kinds
	if len(kinds) == 0 {
		kinds = []string{"*"}
	}
	var errs [5]error
	s.include, errs[0] = parseKinds(kinds)
	s.exclude, errs[1] = parseKinds(spec.ExcludeKinds)
	s.objects, errs[2] = parseLabels(spec.LabelSelector)
	s.drop, errs[3] = parseLabels(spec.ExcludeLabels)
	if n := spec.Namespaces; n != nil {
		s.names, s.without = n.Names, n.Exclude
		s.byLabels, errs[4] = parseLabels(n.LabelSelector)
		s.all = len(n.Names) == 0 && s.byLabels == nil
	}
	if spec.NamespaceMapping != nil {
		s.mapping = *spec.NamespaceMapping
	}
	return s, errors.Join(errs[:]...)
}

// Kind reports whether objects of the kind can be selected. Namespaces are,
// unless they are excluded by name: their objects need them.
func (s *Selector) Kind(k pipeline.GroupResource) bool {
	if matchesAny(s.exclude, k) {
		return false
	}
	return isNamespace(k) || matchesAny(s.include, k)
}

// Observe learns the labels of the source's namespaces from their records,
// which must come in the history's order. It reports whether a namespace that
// was not selected now is: its objects must then be read again.
func (s *Selector) Observe(r pipeline.Record) (grew bool) {
	if s.byLabels == nil || !isNamespace(r.Ref.GroupResource()) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.labeled[r.Ref.Name]
	switch r.Op {
	case pipeline.OpPut:
		now := s.byLabels.Matches(labelsOf(r.Body))
		s.labeled[r.Ref.Name] = now
		return known && !before && now && !s.named(r.Ref.Name)
	case pipeline.OpDelete:
		delete(s.labeled, r.Ref.Name)
	case pipeline.OpRelease, pipeline.OpHeartbeat:
	}
	return false
}

// selection is the answer of a Selector.
type selection uint8

const (
	unselected selection = iota
	selected
	// undecided: the namespace's labels are not known yet.
	undecided
)

// Namespace reports whether the source's namespace is selected.
func (s *Selector) Namespace(name string) bool { return s.namespace(name) == selected }

func (s *Selector) namespace(name string) selection {
	for _, glob := range s.without {
		if matchGlob(glob, name) {
			return unselected
		}
	}
	if s.all || s.named(name) {
		return selected
	}
	if s.byLabels == nil {
		return unselected
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	matches, known := s.labeled[name]
	switch {
	case !known:
		return undecided
	case matches:
		return selected
	}
	return unselected
}

func (s *Selector) named(name string) bool {
	for _, glob := range s.names {
		if matchGlob(glob, name) {
			return true
		}
	}
	return false
}

// Selects reports whether an object of the source is selected; one whose namespace has
// labels that were not observed yet is not.
func (s *Selector) Selects(ref pipeline.Ref, body []byte) bool {
	return s.object(ref, body) == selected
}

// object decides about a put with its body.
func (s *Selector) object(ref pipeline.Ref, body []byte) selection {
	k := ref.GroupResource()
	if !s.Kind(k) {
		return unselected
	}
	switch {
	case isNamespace(k):
		return s.namespace(ref.Name)
	case ref.Namespace == "":
		if !s.clusterScoped {
			return unselected
		}
	default:
		if in := s.namespace(ref.Namespace); in != selected {
			return in
		}
	}
	if s.objects == nil && s.drop == nil {
		return selected
	}
	set := labelsOf(body)
	if s.objects != nil && !s.objects.Matches(set) || s.drop != nil && s.drop.Matches(set) {
		return unselected
	}
	return selected
}

// MapNamespace is the destination's name of a source namespace. Namespaces that
// are not selected keep their name.
func (s *Selector) MapNamespace(name string) string {
	if name == "" || !s.Namespace(name) {
		return name
	}
	return mapNamespace(s.mapping, name)
}

func mapNamespace(m v1alpha1.NamespaceMapping, name string) string {
	if to, ok := m.Names[name]; ok {
		return to
	}
	return m.Prefix + name + m.Suffix
}

// place is where the copy of ref is, if it is selected: its namespace and name.
func (s *Selector) place(ref pipeline.Ref) (namespace, name string) {
	switch {
	case isNamespace(ref.GroupResource()):
		return "", mapNamespace(s.mapping, ref.Name)
	case ref.Namespace == "":
		return "", ref.Name
	}
	return mapNamespace(s.mapping, ref.Namespace), ref.Name
}

// kindPattern is a "group/resource" with "*" for any in either place.
type kindPattern struct{ group, resource string }

func parseKinds(patterns []string) ([]kindPattern, error) {
	var out []kindPattern
	var errs []error
	for _, text := range patterns {
		p, err := parseKind(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

func (p kindPattern) matches(k pipeline.GroupResource) bool {
	return (p.group == "*" || p.group == k.Group) && (p.resource == "*" || p.resource == k.Resource)
}

func matchesAny(patterns []kindPattern, k pipeline.GroupResource) bool {
	for _, p := range patterns {
		if p.matches(k) {
			return true
		}
	}
	return false
}

// matchGlob matches "*" and "?"; Validate lets nothing else through that path.Match knows.
func matchGlob(glob, name string) bool {
	if !strings.ContainsAny(glob, "*?") {
		return glob == name
	}
	ok, err := path.Match(glob, name)
	return err == nil && ok
}

// parseLabels returns nil for a nil selector.
func parseLabels(l *metav1.LabelSelector) (labels.Selector, error) {
	if l == nil {
		return nil, nil //nolint:nilnil // no selector is a value here
	}
	s, err := metav1.LabelSelectorAsSelector(l)
	if err != nil {
		return nil, fmt.Errorf("read label selector: %w", err)
	}
	return s, nil
}

// labelsOf reads the labels of an object without decoding it.
func labelsOf(body []byte) bodyLabels {
	return bodyLabels(gjson.GetBytes(body, "metadata.labels"))
}

// bodyLabels are labels as they stand in the JSON of an object.
type bodyLabels gjson.Result

// Lookup implements labels.Labels.
func (l bodyLabels) Lookup(label string) (value string, ok bool) {
	gjson.Result(l).ForEach(func(k, v gjson.Result) bool {
		if k.Str == label {
			value, ok = v.String(), true
		}
		return !ok
	})
	return value, ok
}

// Has implements labels.Labels.
func (l bodyLabels) Has(label string) bool {
	_, ok := l.Lookup(label)
	return ok
}

// Get implements labels.Labels.
func (l bodyLabels) Get(label string) string {
	v, _ := l.Lookup(label)
	return v
}
