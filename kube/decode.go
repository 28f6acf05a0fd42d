package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// errNotObject reports JSON that is no API object.
var errNotObject = errors.New("not an API object")

// identify reads an object's identity out of valid JSON of kind k. The strings
// are copies, so they do not keep the JSON alive. Reading ends as soon as all is
// known, which for what API servers write is long before the body. UID and version are
// empty if they are missing: some aggregated API servers leave them out.
func identify(body []byte, k Kind) (Object, error) {
	o := Object{APIVersion: k.APIVersion(), Kind: k.Kind}
	metadata := gjson.GetBytes(body, "metadata")
	if !metadata.IsObject() {
		return o, fmt.Errorf("%w: no metadata", errNotObject)
	}
	metadata.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "uid":
			o.UID = clone(value)
		case "resourceVersion":
			o.Version = clone(value)
		case "namespace":
			o.Namespace = clone(value)
		case "name":
			o.Name = clone(value)
		}
		return o.UID == "" || o.Version == "" || o.Name == "" || k.Namespaced && o.Namespace == ""
	})
	if o.Name == "" {
		return o, fmt.Errorf("%w: no name", errNotObject)
	}
	return o, nil
}

// split takes a watch's frame apart. API servers write the type and then the object and
// nothing else; other forms are understood as well, more slowly. ok is false for what is not JSON.
func split(frame []byte) (kind string, object []byte, ok bool) {
	if rest, found := bytes.CutPrefix(frame, []byte(`{"type":"`)); found {
		name, rest, _ := bytes.Cut(rest, []byte(`"`))
		if rest, found = bytes.CutPrefix(rest, []byte(`,"object":`)); found {
			object = bytes.TrimSuffix(rest, []byte(`}`))
			if gjson.ValidBytes(object) {
				return string(name), object, true
			}
		}
	}
	if !gjson.ValidBytes(frame) {
		return "", nil, false
	}
	parts := gjson.GetManyBytes(frame, "type", "object")
	return parts[0].Str, []byte(parts[1].Raw), true
}

// decodeEvent reads one frame of a watch; it keeps nothing of frame. An ERROR event, or a
// frame that cannot be read, is returned as an event for the Reflector together
// with the error: after it the stream is of no more use, since a change may be missing.
func decodeEvent(frame []byte, k Kind) (watch.Event, error) {
	kind, object, ok := split(frame)
	if !ok {
		return unreadable(fmt.Errorf("%w: invalid JSON", errNotObject))
	}
	event := watch.Event{Type: watch.EventType(kind)}
	switch event.Type {
	case watch.Added, watch.Modified, watch.Deleted:
		o, err := identify(object, k)
		if err != nil {
			return unreadable(err)
		}
		o.Raw = bytes.Clone(object)
		event.Object = &thin{Object: o, sharedMeta: blank}
		return event, nil
	case watch.Bookmark:
		metadata := gjson.GetBytes(object, "metadata")
		version := clone(metadata.Get("resourceVersion"))
		if version == "" {
			return unreadable(fmt.Errorf("%w: a bookmark without resourceVersion", errNotObject))
		}
		end := metadata.Get(`annotations.k8s\.io/initial-events-end`).Str == "true"
		event.Object = &thin{Object: Object{Version: version}, sharedMeta: blank, initialEnd: end}
		return event, nil
	case watch.Error:
		status := &metav1.Status{}
		if err := json.Unmarshal(object, status); err != nil {
			return unreadable(fmt.Errorf("decode the server's error: %w", err))
		}
		event.Object = status
		return event, classify(apierrors.FromObject(status))
	default:
		return unreadable(fmt.Errorf("%w: event type %q", errNotObject, kind))
	}
}

// unreadable is the event that ends a stream which holds something unreadable.
func unreadable(cause error) (watch.Event, error) {
	err := pipeline.WithClass(pipeline.Malformed, fmt.Errorf("decode event: %w", cause))
	status := apierrors.NewInternalError(err).Status()
	return watch.Event{Type: watch.Error, Object: &status}, err
}

// thin is an Object as a Reflector wants it. Of metav1.Object it answers what Reflectors
// and stores ask for: name, namespace, UID, version, and the mark of the end
// of the initial state. The rest is blank and shared.
type thin struct {
	Object
	sharedMeta
	initialEnd bool
}

// sharedMeta is embedded under this name because Object is taken.
type sharedMeta interface{ metav1.Object }

var (
	blank sharedMeta = &metav1.ObjectMeta{}

	endOfInitial = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
)

func (t *thin) GetName() string            { return t.Name }
func (t *thin) GetNamespace() string       { return t.Namespace }
func (t *thin) GetUID() types.UID          { return types.UID(t.UID) }
func (t *thin) GetResourceVersion() string { return t.Version }

func (t *thin) GetAnnotations() map[string]string {
	if t.initialEnd {
		return endOfInitial
	}
	return nil
}

// GetObjectKind is what runtime.Object asks for.
func (t *thin) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is what runtime.Object asks for. Raw is shared: nobody writes to it.
func (t *thin) DeepCopyObject() runtime.Object {
	c := *t
	return &c
}
