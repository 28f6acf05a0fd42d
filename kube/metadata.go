package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Accept headers that have the server send an object's metadata only.
const (
	acceptMeta     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	acceptMetaList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	acceptJSON     = "application/json"
)

// Meta is an object's metadata: what a write returns and a metadata watch shows.
type Meta struct {
	UID         string
	Version     string
	Namespace   string
	Name        string
	Generation  int64
	Labels      map[string]string
	Annotations map[string]string
	// Deleting means that deletionTimestamp is set.
	Deleting bool
	// Fields is a hash of the set of fields that our field manager applied, empty if
	// there are none. It changes when somebody takes a field from us, or we apply others.
	Fields string
}

// MetaOf reads the metadata of an object with a body.
func MetaOf(o Object) (Meta, error) { return metaOf(o.Raw) }

func metaOf(raw []byte) (Meta, error) {
	metadata := gjson.GetBytes(raw, "metadata")
	if !metadata.IsObject() {
		return Meta{}, pipeline.WithClass(pipeline.Malformed, fmt.Errorf("read metadata: %w", errNotObject))
	}
	var m Meta
	metadata.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "uid":
			m.UID = clone(value)
		case "resourceVersion":
			m.Version = clone(value)
		case "namespace":
			m.Namespace = clone(value)
		case "name":
			m.Name = clone(value)
		case "generation":
			m.Generation = value.Int()
		case "labels":
			m.Labels = stringMap(value)
		case "annotations":
			m.Annotations = stringMap(value)
		case "deletionTimestamp":
			m.Deleting = value.Type != gjson.Null
		case "managedFields":
			m.Fields = appliedFields(value)
		}
		return true
	})
	return m, nil
}

// clone detaches a string from the JSON it was read from, so as not to keep that alive.
func clone(r gjson.Result) string { return strings.Clone(r.Str) }

func stringMap(r gjson.Result) map[string]string {
	var m map[string]string
	r.ForEach(func(key, value gjson.Result) bool {
		if m == nil {
			m = map[string]string{}
		}
		m[clone(key)] = clone(value)
		return true
	})
	return m
}

// appliedFields hashes the entry that our manager's applies own.
func appliedFields(managed gjson.Result) string {
	var fields string
	managed.ForEach(func(_, entry gjson.Result) bool {
		if entry.Get("manager").Str != v1alpha1.FieldManager || entry.Get("operation").Str != "Apply" || entry.Get("subresource").Str != "" {
			return true
		}
		sum := sha256.Sum256([]byte(entry.Get("fieldsV1").Raw))
		fields = hex.EncodeToString(sum[:8])
		return false
	})
	return fields
}
