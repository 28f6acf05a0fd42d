package collect

import (
	"errors"
	"unsafe"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// view is what selecting and cleaning read of an object: pieces of its JSON,
// found in one walk over the top level and the metadata. Its strings share the
// object's memory: clone what is kept.
type view struct {
	root gjson.Result

	uid, version, namespace, name         string
	labels, annotations, owners, managers gjson.Result
	deleting                              bool
}

// errNotObject is what every object that cannot be read is told to be.
var errNotObject = errors.New("not a JSON object with metadata and a name")

// look reads an object. An error is of class Malformed. Nobody may write to raw while the view is in use:
// it is not copied, since that would cost as much as reading it.
func look(raw []byte) (*view, error) {
	text := unsafe.String(unsafe.SliceData(raw), len(raw)) //nolint:gosec // G103: as said above
	root := gjson.Parse(text)
	if !root.IsObject() || !gjson.Valid(text) {
		return nil, pipeline.WithClass(pipeline.Malformed, errNotObject)
	}
	v := &view{root: root}
	metadata := field(root, "metadata")
	if !metadata.IsObject() {
		return nil, pipeline.WithClass(pipeline.Malformed, errNotObject)
	}
	metadata.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "uid":
			v.uid = value.Str
		case "resourceVersion":
			v.version = value.Str
		case "namespace":
			v.namespace = value.Str
		case "name":
			v.name = value.Str
		case "labels":
			v.labels = value
		case "annotations":
			v.annotations = value
		case "ownerReferences":
			v.owners = value
		case "managedFields":
			v.managers = value
		case "deletionTimestamp":
			v.deleting = value.Type == gjson.String
		}
		return true
	})
	if v.name == "" {
		return nil, pipeline.WithClass(pipeline.Malformed, errNotObject)
	}
	return v, nil
}

// field returns the member of object named key. Unlike gjson's paths it takes
// the key as it is, dots and stars included.
func field(object gjson.Result, key string) (found gjson.Result) {
	if !object.IsObject() {
		return found
	}
	object.ForEach(func(k, value gjson.Result) bool {
		if k.Str != key {
			return true
		}
		found = value
		return false
	})
	return found
}

// at follows keys down from the root.
func (v *view) at(keys ...string) gjson.Result {
	r := v.root
	for _, k := range keys {
		r = field(r, k)
	}
	return r
}

func (v *view) label(key string) (value string, ok bool) {
	r := field(v.labels, key)
	return r.Str, r.Exists()
}

func (v *view) annotation(key string) (value string, ok bool) {
	r := field(v.annotations, key)
	return r.Str, r.Exists()
}

// labelSet is the object's labels as a selector sees them.
type labelSet struct{ labels gjson.Result }

// Has reports whether the label is set.
func (l labelSet) Has(key string) bool { return field(l.labels, key).Exists() }

// Get returns the label's value, "" if it is not set.
func (l labelSet) Get(key string) string { return field(l.labels, key).Str }

// Lookup returns the label's value and whether it is set.
func (l labelSet) Lookup(key string) (string, bool) {
	r := field(l.labels, key)
	return r.Str, r.Exists()
}

// controller returns the group and kind of the object's controlling owner.
func (v *view) controller() (group, kind string, ok bool) {
	if !v.owners.IsArray() {
		return "", "", false
	}
	v.owners.ForEach(func(_, ref gjson.Result) bool {
		if field(ref, "controller").Type != gjson.True {
			return true
		}
		group, kind, ok = groupOf(field(ref, "apiVersion").Str), field(ref, "kind").Str, true
		return false
	})
	return group, kind, ok
}

// groupOf is the group of an apiVersion.
func groupOf(apiVersion string) string {
	for i := range len(apiVersion) {
		if apiVersion[i] == '/' {
			return apiVersion[:i]
		}
	}
	return ""
}

// manager returns the name of the field manager that wrote last, writes of
// status apart.
func (v *view) manager() string {
	var name, newest string
	if v.managers.IsArray() {
		v.managers.ForEach(func(_, entry gjson.Result) bool {
			// RFC 3339 in UTC, to the second: compares as text.
			if when := field(entry, "time").Str; when >= newest && field(entry, "subresource").Str != "status" {
				name, newest = field(entry, "manager").Str, when
			}
			return true
		})
	}
	return name
}
