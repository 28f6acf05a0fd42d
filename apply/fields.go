package apply

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// ourFields is the set of fields (in FieldsV1 form) that our manager's applies
// own in an object with managedFields, empty if there is none.
func ourFields(raw []byte) string {
	var fields string
	gjson.GetBytes(raw, "metadata.managedFields").ForEach(func(_, entry gjson.Result) bool {
		if entry.Get("manager").Str != v1alpha1.FieldManager || entry.Get("operation").Str != "Apply" || entry.Get("subresource").Str != "" {
			return true
		}
		fields = strings.Clone(entry.Get("fieldsV1").Raw)
		return false
	})
	return fields
}

// unowned are the members that no manager owns: identity and what the server writes.
var unowned = map[string]bool{"apiVersion": true, "kind": true, "metadata": true}

// owns reports whether fields holds every field that body sets: then nobody has
// changed or removed one since body was applied, for that would have taken
// it from us. It lets a fresh process trust copies that an earlier one made. A field that
// the server dropped counts as not owned, so a wrong answer only costs a write.
func owns(fields string, body []byte) bool {
	if fields == "" {
		return false
	}
	f, b := gjson.Parse(fields), gjson.ParseBytes(body)
	w := walk{left: maxSteps}
	for _, part := range []string{"labels", "annotations"} {
		if !w.owns(f.Get("f:metadata").Get("f:"+part), b.Get("metadata").Get(part)) {
			return false
		}
	}
	whole := true
	set := members(f)
	b.ForEach(func(k, v gjson.Result) bool {
		if !unowned[k.Str] {
			child, ok := set["f:"+k.String()]
			whole = ok && w.owns(child, v) || empty(v)
		}
		return whole
	})
	return whole
}

// walk compares a set of fields with a value. left bounds the bytes it may look at: what is odd
// enough to need more counts as not owned.
type walk struct{ left int }

const maxSteps = 64 << 20

// owns reports whether the set covers a value. A set without members covers
// all below it: a scalar, or a list or map that is owned as a whole.
func (w *walk) owns(set, v gjson.Result) bool {
	if w.left -= len(set.Raw) + len(v.Raw); w.left < 0 {
		return false
	}
	if empty(v) {
		return true
	}
	if !set.Exists() {
		return false
	}
	under := members(set)
	if len(under) == 0 {
		return true
	}
	whole := true
	switch {
	case v.IsObject():
		v.ForEach(func(k, item gjson.Result) bool {
			child, ok := under["f:"+k.String()]
			whole = ok && w.owns(child, item) || empty(item)
			return whole
		})
	case v.IsArray():
		v.ForEach(func(_, item gjson.Result) bool {
			whole = w.ownsItem(under, item)
			return whole
		})
	}
	return whole
}

// ownsItem finds an item of a list by value or by its keys.
func (w *walk) ownsItem(under map[string]gjson.Result, item gjson.Result) bool {
	if !item.IsObject() {
		for name := range under {
			if raw, ok := strings.CutPrefix(name, "v:"); ok && same(gjson.Parse(raw), item) {
				return true
			}
		}
		return false
	}
	for name, child := range under {
		raw, ok := strings.CutPrefix(name, "k:")
		if w.left -= len(raw) + len(item.Raw); w.left < 0 {
			return false
		}
		if ok && hasKeys(item, gjson.Parse(raw)) && w.owns(child, item) {
			return true
		}
	}
	return false
}

// hasKeys reports whether item is the one with these keys. A key that item lacks
// was defaulted by the server.
func hasKeys(item, keys gjson.Result) bool {
	match := true
	keys.ForEach(func(k, want gjson.Result) bool {
		item.ForEach(func(name, v gjson.Result) bool {
			if name.String() == k.String() {
				match = same(want, v)
				return false
			}
			return true
		})
		return match
	})
	return match
}

func same(a, b gjson.Result) bool {
	return a.Type == b.Type && a.String() == b.String()
}

func empty(v gjson.Result) bool {
	switch {
	case !v.Exists(), v.Type == gjson.Null:
		return true
	case v.IsObject(), v.IsArray():
		some := false
		v.ForEach(func(_, _ gjson.Result) bool {
			some = true
			return false
		})
		return !some
	}
	return false
}

func members(v gjson.Result) map[string]gjson.Result {
	m := map[string]gjson.Result{}
	v.ForEach(func(k, child gjson.Result) bool {
		if k.String() != "." {
			m[k.String()] = child
		}
		return true
	})
	return m
}
