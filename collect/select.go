package collect

import (
	"fmt"
	"slices"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Action is what to do about an object.
type Action uint8

const (
	// Collect it: its changes go into the log.
	Collect Action = iota + 1
	// Skip it: it does not belong into the log. If it was collected before, it is
	// released: copies stay as they are.
	Skip
	// Ignore it, by the user's label: like Skip, and its deletion is no deletion of the copies.
	Ignore
	// Freeze it: what was collected of it stays as it is until it is deleted; if
	// nothing was, nothing will be.
	Freeze
)

// Verdict is an Action with its reason, for people; Collect has none.
type Verdict struct {
	Action Action
	Reason string
}

var collect = Verdict{Action: Collect}

func skip(reason string) Verdict { return Verdict{Action: Skip, Reason: reason} }

// Selector decides what is collected. It is safe for concurrent use.
type Selector struct {
	cfg              Config
	ownNamespace     string
	include, exclude []kindPattern
	wanted, unwanted labels.Selector
	collectable      *atomic.Pointer[map[groupKind]bool]
	noLabels         bool
}

type groupKind struct{ group, kind string }

// NewSelector makes a Selector. ownNamespace is where DR-Syncer itself runs in the
// source, "" if nowhere.
func NewSelector(cfg Config, ownNamespace string) (*Selector, error) {
	s := &Selector{cfg: cfg, ownNamespace: ownNamespace, noLabels: cfg.Labels == LabelConfig{}}
	s = s.WithKinds(nil)
	var err error
	if s.include, err = kindPatterns(cfg.Kinds.Include); err != nil {
		return nil, fmt.Errorf("kinds.include: %w", err)
	}
	if s.exclude, err = kindPatterns(cfg.Kinds.Exclude); err != nil {
		return nil, fmt.Errorf("kinds.exclude: %w", err)
	}
	if s.wanted, err = labels.Parse(cfg.Labels.Include); err != nil {
		return nil, fmt.Errorf("labels.include: %w", err)
	}
	s.unwanted = labels.Nothing()
	if cfg.Labels.Exclude != "" {
		if s.unwanted, err = labels.Parse(cfg.Labels.Exclude); err != nil {
			return nil, fmt.Errorf("labels.exclude: %w", err)
		}
	}
	return s, nil
}

// WithKinds returns a Selector that knows which kinds are served, and so whose
// children can be left to their controllers (see OwnedAuto).
func (s *Selector) WithKinds(kinds []kube.Kind) *Selector {
	t := *s
	t.collectable = &atomic.Pointer[map[groupKind]bool]{}
	t.learn(kinds)
	return &t
}

// learn replaces the kinds of WithKinds, also for whoever decides with the Selector already.
func (s *Selector) learn(kinds []kube.Kind) {
	collectable := map[groupKind]bool{}
	for _, k := range kinds {
		if s.Kind(k.GroupResource).Action == Collect {
			collectable[groupKind{k.Group, k.Kind}] = true
		}
	}
	s.collectable.Store(&collectable)
}

// Kind decides about a whole kind: Collect or Skip.
func (s *Selector) Kind(k pipeline.GroupResource) Verdict {
	if matchesKind(s.exclude, k) {
		return skip("kind is excluded by configuration")
	}
	if !matchesKind(s.include, k) {
		return skip("kind is not included by configuration")
	}
	named := slices.ContainsFunc(s.include, func(p kindPattern) bool { return p.exact() && p.matches(k) })
	for i := range deniedKinds {
		if d := &deniedKinds[i]; d.matches(k) && (d.always || !named) {
			return skip(d.reason)
		}
	}
	return collect
}

// Key decides about an object by its kind and name alone: what Decide says of an
// object nothing else is known of.
func (s *Selector) Key(k pipeline.GroupResource, namespace, name string) Verdict {
	if v := s.Kind(k); v.Action != Collect {
		return v
	}
	if k == namespaces {
		return s.namespace(name)
	}
	if namespace != "" {
		return s.namespace(namespace)
	}
	return collect
}

var namespaces = pipeline.GroupResource{Resource: "namespaces"}

func (s *Selector) namespace(name string) Verdict {
	if matchesGlob(s.cfg.Namespaces.Exclude, name) {
		return skip("namespace is excluded by configuration")
	}
	if !matchesGlob(s.cfg.Namespaces.Include, name) {
		return skip("namespace is not included by configuration")
	}
	if slices.Contains(s.cfg.Namespaces.Include, name) {
		return collect
	}
	if reason, denied := deniedNamespaces[name]; denied {
		return skip(reason)
	}
	if name == s.ownNamespace {
		return skip("namespace of DR-Syncer itself")
	}
	return collect
}

// Decide decides about one object given as JSON. An error means that the object
// cannot be read.
func (s *Selector) Decide(k kube.Kind, object []byte) (Verdict, error) {
	if v := s.Kind(k.GroupResource); v.Action != Collect {
		return v, nil
	}
	v, err := look(object)
	if err != nil {
		return Verdict{}, fmt.Errorf("read object of kind %s: %w", k.GroupResource, err)
	}
	return s.rulesOf(k).decide(v), nil
}

// kindRules decides about the objects of one kind that is collected.
type kindRules struct {
	selector *Selector
	kind     kube.Kind
	denials  []*denial
}

func (s *Selector) rulesOf(k kube.Kind) *kindRules {
	r := &kindRules{selector: s, kind: k}
	for i := range deniedObjects {
		if d := &deniedObjects[i]; d.matches(k.GroupResource) {
			r.denials = append(r.denials, d)
		}
	}
	return r
}

func (r *kindRules) decide(v *view) Verdict {
	s := r.selector
	if value, ok := v.label(v1alpha1.LabelIgnore); ok && value == "true" {
		return Verdict{Action: Ignore, Reason: "labeled " + v1alpha1.LabelIgnore}
	}
	if verdict := s.Key(r.kind.GroupResource, v.namespace, v.name); verdict.Action != Collect {
		return verdict
	}
	if !s.noLabels && r.kind.Namespaced {
		if set := (labelSet{v.labels}); !s.wanted.Matches(set) || s.unwanted.Matches(set) {
			return skip("not selected by its labels")
		}
	}
	for _, d := range r.denials {
		if d.when(v) && (d.unless == nil || !d.unless(&s.cfg)) {
			if d.freeze {
				return Verdict{Action: Freeze, Reason: d.reason}
			}
			return skip(d.reason)
		}
	}
	return r.owned(v)
}

// owned decides about an object by its owner: what a controller generates is
// left to the controller at the destination.
func (r *kindRules) owned(v *view) Verdict {
	group, kind, ok := v.controller()
	if !ok {
		return collect
	}
	if builtinGroups[group] {
		if r.kind.GroupResource == claims && kind != "Pod" {
			return collect // the claims of a StatefulSet hold data
		}
		return skip("generated by its controller, a " + kind)
	}
	switch r.selector.cfg.OwnedByCustom {
	case OwnedCollect:
		return collect
	case OwnedSkip:
		return skip("generated by its controller, a " + kind)
	case OwnedAuto:
		if r.kind.GroupResource != claims && (*r.selector.collectable.Load())[groupKind{group, kind}] {
			return skip("generated by its controller, a " + kind + ", which is collected itself")
		}
	}
	return collect
}

var claims = pipeline.GroupResource{Resource: "persistentvolumeclaims"}
