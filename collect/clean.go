package collect

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
)

// Cleaner takes out of objects what belongs to their cluster only. It is
// immutable and safe for concurrent use.
type Cleaner struct {
	cfg        Config
	keepStatus []kindPattern
	finalizers []keptFinalizers
}

type keptFinalizers struct {
	kind  kindPattern
	globs []string
}

// NewCleaner makes a Cleaner.
func NewCleaner(cfg Config) (*Cleaner, error) {
	c := &Cleaner{cfg: cfg}
	var err error
	if c.keepStatus, err = kindPatterns(cfg.Clean.KeepStatus); err != nil {
		return nil, fmt.Errorf("clean.keepStatus: %w", err)
	}
	for name, globs := range cfg.Clean.KeepFinalizers {
		p, err := parseKindPattern(name)
		if err != nil {
			return nil, fmt.Errorf("clean.keepFinalizers: %w", err)
		}
		c.finalizers = append(c.finalizers, keptFinalizers{p, globs})
	}
	return c, nil
}

// Clean returns an object of kind k without what belongs to its cluster only,
// with apiVersion and kind first. Everything else is copied as it stands: order
// of keys, digits of numbers, escapes. Cleaning twice changes nothing more. An error
// means that object is not JSON with metadata and a name; it is of class Malformed.
func (c *Cleaner) Clean(k kube.Kind, object []byte) ([]byte, error) {
	v, err := look(object)
	if err != nil {
		return nil, fmt.Errorf("clean object of kind %s: %w", k.GroupResource, err)
	}
	return c.rulesOf(k).clean(make([]byte, 0, len(object)), v), nil
}

// kindCleaner cleans the objects of one kind.
type kindCleaner struct {
	cleaner    *Cleaner
	prefix     string // {"apiVersion":"…","kind":"…"
	tree       *node
	finalizers []string // globs of those that stay
}

// rulesOf compiles the rules for one kind.
func (c *Cleaner) rulesOf(k kube.Kind) *kindCleaner {
	kc := &kindCleaner{
		cleaner: c,
		prefix:  `{"apiVersion":` + strconv.Quote(k.APIVersion()) + `,"kind":` + strconv.Quote(k.Kind),
		tree:    &node{},
	}
	for _, kept := range c.finalizers {
		if kept.kind.matches(k.GroupResource) {
			kc.finalizers = append(kc.finalizers, kept.globs...)
		}
	}
	for _, r := range everyKind {
		kc.tree.add(r)
	}
	for _, r := range ofKind[k.GroupResource] {
		kc.tree.add(r)
	}
	if k.StatusSubresource && !matchesKind(c.keepStatus, k.GroupResource) {
		kc.tree.add(rule{path: "status"})
	}
	return kc
}

// rule drops a value. Its path leads from the root by keys, "[]" for every
// element of an array and "*" for every member of an object, separated by "|".
type rule struct {
	path string
	// when, if not nil, reports whether to drop the value found.
	when func(f *find) bool
}

// find is a value that a rule's path led to.
type find struct {
	object *view
	clean  *kindCleaner
	parent gjson.Result // the object or array that holds the value
	key    string       // "" in an array
	value  gjson.Result
}

// node is a step of the paths of rules.
type node struct {
	members map[string]*node
	every   *node // "*" and "[]"
	drop    bool
	whens   []func(*find) bool
}

func (n *node) add(r rule) {
	for step := range strings.SplitSeq(r.path, "|") {
		next := n.every
		if step != "*" && step != "[]" {
			next = n.members[step]
		}
		if next == nil {
			next = &node{}
			switch step {
			case "*", "[]":
				n.every = next
			default:
				if n.members == nil {
					n.members = map[string]*node{}
				}
				n.members[step] = next
			}
		}
		n = next
	}
	if r.when == nil {
		n.drop = true
		return
	}
	n.whens = append(n.whens, r.when)
}

// clean walks the object along the rules and appends what they leave to buf.
func (kc *kindCleaner) clean(buf []byte, v *view) []byte {
	w := walk{found: find{object: v, clean: kc}, out: buf}
	w.out = append(w.out, kc.prefix...)
	w.members(kc.tree, v.root, false)
	return append(w.out, '}')
}

// walk is one cleaning under way.
type walk struct {
	found find // what is asked about now; one for all, to spare the heap
	out   []byte
}

// members copies the members of an object or array that stay, with commas but
// without the brackets, and reports whether it had any. first says that no comma is needed
// before the first; it is not set at the top, where the kind was written before.
func (w *walk) members(n *node, container gjson.Result, first bool) (had bool) {
	isObject, top := container.IsObject(), !first
	container.ForEach(func(key, value gjson.Result) bool {
		had = true
		var next, every *node
		if isObject {
			if top && (key.Str == "apiVersion" || key.Str == "kind") {
				return true // written already, from what the kind is known as
			}
			next = n.members[key.Str]
		}
		every = n.every
		if w.drops(next, container, key, value) || w.drops(every, container, key, value) {
			return true
		}
		undo := len(w.out)
		if !first {
			w.out = append(w.out, ',')
		}
		if isObject {
			w.out = append(w.out, key.Raw...)
			w.out = append(w.out, ':')
		}
		if next == nil || next.leaf() {
			next = every
		}
		if !w.value(next, value) {
			w.out = w.out[:undo]
			return true
		}
		first = false
		return true
	})
	return had
}

// value copies a value; it returns false if cleaning has left nothing of it.
func (w *walk) value(n *node, value gjson.Result) bool {
	if n == nil || n.leaf() || value.Type != gjson.JSON {
		w.out = append(w.out, value.Raw...)
		return true
	}
	open, end := byte('{'), byte('}')
	if !value.IsObject() {
		open, end = '[', ']'
	}
	begin := len(w.out)
	w.out = append(w.out, open)
	had := w.members(n, value, true)
	w.out = append(w.out, end)
	return len(w.out) > begin+2 || !had
}

func (n *node) leaf() bool { return n.members == nil && n.every == nil }

func (w *walk) drops(n *node, parent, key, value gjson.Result) bool {
	switch {
	case n == nil:
		return false
	case n.drop:
		return true
	case len(n.whens) == 0:
		return false
	}
	w.found.parent, w.found.key, w.found.value = parent, key.Str, value
	for _, when := range n.whens {
		if when(&w.found) {
			return true
		}
	}
	return false
}
