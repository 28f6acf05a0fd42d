package transform

import (
	"sync"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Target is the object at the destination that a result is for.
type Target struct {
	Kind            pipeline.GroupResource
	Namespace, Name string
}

// TargetOf reads where an object belongs.
func TargetOf(o Object) Target {
	meta := gjson.GetBytes(o.Body, "metadata")
	return Target{Kind: o.Kind, Namespace: textOf(meta.Get("namespace")), Name: textOf(meta.Get("name"))}
}

// String is for people: "group/resource namespace/name".
func (t Target) String() string {
	if t.Namespace == "" {
		return t.Kind.String() + " " + t.Name
	}
	return t.Kind.String() + " " + t.Namespace + "/" + t.Name
}

// Targets remembers which source object each target belongs to, so that two
// sources that end in one target are found out instead of taking turns. The
// zero value is ready. It is safe for concurrent use.
type Targets struct {
	mu      sync.Mutex
	holders map[Target]pipeline.Ref
	held    map[pipeline.Ref][]Target
}

// Claim makes all of wanted belong to ref, in place of what it held before. When
// another object holds one of them nothing changes, and that object is
// returned with ok false. left are the targets that ref held and no longer
// wants: copies that a changed rule or object has left behind. Claiming the
// same again changes nothing.
func (t *Targets) Claim(ref pipeline.Ref, wanted []Target) (left []Target, holder pipeline.Ref, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range wanted {
		if other, taken := t.holders[w]; taken && other != ref {
			return nil, other, false
		}
	}
	if t.holders == nil {
		t.holders, t.held = map[Target]pipeline.Ref{}, map[pipeline.Ref][]Target{}
	}
	before := t.held[ref]
	for _, w := range wanted {
		t.holders[w] = ref
	}
	for _, b := range before {
		kept := false
		for _, w := range wanted {
			kept = kept || w == b
		}
		if !kept {
			delete(t.holders, b)
			left = append(left, b)
		}
	}
	if len(wanted) == 0 {
		delete(t.held, ref)
	} else {
		t.held[ref] = append([]Target(nil), wanted...)
	}
	return left, pipeline.Ref{}, true
}

// Release gives up all that ref holds and returns it.
func (t *Targets) Release(ref pipeline.Ref) []Target {
	left, _, _ := t.Claim(ref, nil)
	return left
}
