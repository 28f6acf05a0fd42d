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

// ownsMark reports whether fields holds the label that marks a copy.
func ownsMark(fields string) bool {
	path := "f:metadata.f:labels.f:" + strings.ReplaceAll(v1alpha1.LabelReplication, ".", `\.`)
	return gjson.Get(fields, path).Exists()
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
		list := itemsOf(under)
		v.ForEach(func(_, item gjson.Result) bool {
			whole = w.ownsItem(list, item)
			return whole
		})
	}
	return whole
}

// items are the members of a list that is owned item by item: values of a set, or
// objects told apart by their keys.
type items struct {
	values map[string]gjson.Type
	key    string // that objects are found by
	byKey  map[string][]keyed
}

// keyed is what is owned in the object with the keys.
type keyed struct{ keys, fields gjson.Result }

func itemsOf(under map[string]gjson.Result) items {
	l := items{values: map[string]gjson.Type{}, byKey: map[string][]keyed{}}
	for name, fields := range under {
		if raw, ok := strings.CutPrefix(name, "v:"); ok {
			v := gjson.Parse(raw)
			l.values[v.String()] = v.Type
		}
		if raw, ok := strings.CutPrefix(name, "k:"); ok {
			k := keyed{keys: gjson.Parse(raw), fields: fields}
			k.keys.ForEach(func(first, value gjson.Result) bool {
				l.key = first.String()
				l.byKey[value.String()] = append(l.byKey[value.String()], k)
				return false
			})
		}
	}
	return l
}

func (w *walk) ownsItem(l items, item gjson.Result) bool {
	if !item.IsObject() {
		kind, ok := l.values[item.String()]
		return ok && kind == item.Type
	}
	var value string
	item.ForEach(func(k, v gjson.Result) bool {
		if k.String() != l.key {
			return true
		}
		value = v.String()
		return false
	})
	for _, k := range l.byKey[value] {
		if w.left -= len(k.keys.Raw) + len(item.Raw); w.left < 0 {
			return false
		}
		if hasKeys(item, k.keys) && w.owns(k.fields, item) {
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
