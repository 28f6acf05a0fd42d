package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var deployments = Kind{GroupResource: pipeline.GroupResource{Group: "apps", Resource: "deployments"}, Version: "v1", Kind: "Deployment", Namespaced: true}

func TestDecodeEvent(t *testing.T) {
	const object = `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"n","namespace":"s","uid":"u","resourceVersion":"7"},"spec":{"a":"\u00e9"}}`
	whole := Object{UID: "u", Version: "7", Namespace: "s", Name: "n", APIVersion: "apps/v1", Kind: "Deployment", Raw: []byte(object)}
	for _, tt := range []struct {
		name, frame string
		want        watch.EventType
		object      *Object
		end         bool
		class       pipeline.Class // of the failure, if want is Error
	}{
		{name: "added", frame: `{"type":"ADDED","object":` + object + `}`, want: watch.Added, object: &whole},
		{name: "modified", frame: `{"type":"MODIFIED","object":` + object + `}`, want: watch.Modified, object: &whole},
		{name: "deleted", frame: `{"type":"DELETED","object":` + object + `}`, want: watch.Deleted, object: &whole},
		{name: "object before type", frame: `{"object":` + object + ` , "type" : "ADDED" }`, want: watch.Added, object: &whole},
		{name: "bookmark", frame: `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`, want: watch.Bookmark, object: &Object{Version: "9"}},
		{
			name: "end of the initial state", frame: `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}`,
			want: watch.Bookmark, object: &Object{Version: "9"}, end: true,
		},
		{
			name: "expired", frame: `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}`,
			want: watch.Error, class: pipeline.Transient,
		},
		{
			name: "conversion fails", frame: `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"InternalError","code":500,"message":"conversion webhook for x failed: no route"}}`,
			want: watch.Error, class: pipeline.Dependency,
		},
		{name: "bookmark without version", frame: `{"type":"BOOKMARK","object":{"metadata":{}}}`, want: watch.Error, class: pipeline.Malformed},
		{name: "unknown type", frame: `{"type":"MOVED","object":` + object + `}`, want: watch.Error, class: pipeline.Malformed},
		{name: "no type", frame: `{"object":` + object + `}`, want: watch.Error, class: pipeline.Malformed},
		{name: "no metadata", frame: `{"type":"ADDED","object":{}}`, want: watch.Error, class: pipeline.Malformed},
		{name: "no name", frame: `{"type":"ADDED","object":{"metadata":{"uid":"u","resourceVersion":"7"}}}`, want: watch.Error, class: pipeline.Malformed},
		{
			name: "neither UID nor version", frame: `{"type":"ADDED","object":{"metadata":{"name":"n"}}}`, want: watch.Added,
			object: &Object{Name: "n", APIVersion: "apps/v1", Kind: "Deployment", Raw: []byte(`{"metadata":{"name":"n"}}`)},
		},
		{name: "invalid JSON", frame: `{"type":"ADDED","object":{"metadata":{"name":n}}}`, want: watch.Error, class: pipeline.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := []byte(tt.frame)
			event, err := decodeEvent(frame, deployments)
			if event.Type != tt.want {
				t.Fatalf("event %s, want %s: %v", event.Type, tt.want, err)
			}
			if (err != nil) != (tt.want == watch.Error) || err != nil && pipeline.ClassOf(err) != tt.class {
				t.Errorf("error %v of class %s, want class %s", err, pipeline.ClassOf(err), tt.class)
			}
			if tt.object == nil {
				if _, ok := event.Object.(*metav1.Status); !ok {
					t.Errorf("the error event holds a %T", event.Object)
				}
				return
			}
			got, ok := event.Object.(*thin)
			if !ok {
				t.Fatalf("the event holds a %T", event.Object)
			}
			for i := range frame { // the buffer is used again
				frame[i] = '!'
			}
			if diff := cmp.Diff(*tt.object, got.Object, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, end := got.GetAnnotations()[metav1.InitialEventsAnnotationKey]; end != tt.end {
				t.Errorf("end of the initial state: %v, want %v", end, tt.end)
			}
		})
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"n","uid":"u","resourceVersion":"7"}}}`))
	f.Add([]byte(`{"type":"ERROR","object":{"code":410}}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		event, err := decodeEvent(frame, deployments)
		if event.Object == nil {
			t.Fatal("an event without object")
		}
		if (err != nil) != (event.Type == watch.Error) {
			t.Errorf("%s event with error %v", event.Type, err)
		}
		if o, ok := event.Object.(*thin); ok && event.Type != watch.Bookmark && !json.Valid(o.Raw) {
			t.Errorf("invalid body %q", o.Raw)
		}
	})
}

func TestDecodeList(t *testing.T) {
	body := []byte(`{"kind":"DeploymentList","apiVersion":"apps/v1","metadata":{"resourceVersion":"9","continue":"c"},"items":[` +
		`{"metadata":{"name":"n","namespace":"s","uid":"u","resourceVersion":"7"},"spec":{}},` +
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"m","namespace":"s","uid":"v","resourceVersion":"8"}}]}`)
	l, err := decodeList(body, deployments)
	if err != nil {
		t.Fatal(err)
	}
	if l.ResourceVersion != "9" || l.Continue != "c" || len(l.Items) != 2 {
		t.Fatalf("got %+v", l)
	}
	const want = `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"n","namespace":"s","uid":"u","resourceVersion":"7"},"spec":{}}`
	if got := string(l.Items[0].Raw); got != want {
		t.Errorf("an item without type is %s, want %s", got, want)
	}
	if got := string(l.Items[1].Raw); strings.Count(got, "Deployment") != 1 {
		t.Errorf("an item with type is %s", got)
	}
	for _, bad := range []string{
		``, `{}`, `[]`, `{"kind":"Status","metadata":{"resourceVersion":"1"}}`, `{"kind":"DeploymentList","metadata":{}}`,
		`{"kind":"DeploymentList","metadata":{"resourceVersion":"1"},"items":{}}`,
		`{"kind":"DeploymentList","metadata":{"resourceVersion":"1"},"items":[{}]}`,
		string(body[:len(body)-1]),
	} {
		if _, err := decodeList([]byte(bad), deployments); !errors.Is(err, errNotObject) {
			t.Errorf("%s: %v, want not an object", bad, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		`Invalid value: "s3cret": must be short`:                  "Invalid value: must be short",
		`Invalid value: {"a":"s3cret: }"}: field is immutable`:    "Invalid value: field is immutable",
		`Invalid value: v1.Spec{A:"s3cret"}: field is immutable`:  "Invalid value: field is immutable",
		`Invalid value: "s3cret"`:                                 "Invalid value",
		`Unsupported value: "s3cret": supported values: "A", "B"`: `Unsupported value: supported values: "A", "B"`,
		`Duplicate value: "s3cret"`:                               "Duplicate value",
		"Forbidden: spec is immutable\n- s3cret":                  "Forbidden: spec is immutable",
		"Required value: name it":                                 "Required value: name it",
		"failed to create typed patch object (/x): .a: expected string, got &value.valueUnstructured{Value:s3cret}": "failed to create typed patch object (/x): .a: expected string",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q, want %q", in, got, want)
		}
	}
}

// frameOf is a watch frame of an object of about size bytes as an API server writes it.
func frameOf(i, size int) []byte {
	return fmt.Appendf(nil, `{"type":"ADDED","object":{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"object-%06d","namespace":"default","uid":"1b4e28ba-2fa1-11d2-883f-%012d","resourceVersion":"%d","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"object"},"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"apps/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:replicas":{},"f:template":{}}}}]},"spec":{"replicas":3,"text":%q}}}`+"\n",
		i, i, 1000+i, strings.Repeat("some text of a spec ", size/20))
}

// endless reads the same again and again.
type endless struct {
	data []byte
	at   *int
}

func (e endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[*e.at:])
	*e.at = (*e.at + n) % len(e.data)
	return n, nil
}

func BenchmarkDecodeEvent(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10} {
		frame := frameOf(1, size)
		b.Run(fmt.Sprintf("thin/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			f := newFrameReader(endless{bytes.Repeat(frame, 100), new(int)})
			for b.Loop() {
				next, err := f.next()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := decodeEvent(next, deployments); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("unstructured/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				var event metav1.WatchEvent
				if err := json.Unmarshal(frame, &event); err != nil {
					b.Fatal(err)
				}
				if _, _, err := unstructured.UnstructuredJSONScheme.Decode(event.Object.Raw, nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
