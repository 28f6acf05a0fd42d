package apply

import (
	"context"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Change is a change of one copy that was not made.
type Change struct {
	// Ref is the source object's.
	Ref pipeline.Ref
	// Namespace and Name are the copy's.
	Namespace, Name string
	Result          pipeline.Result
	// Diff is what would change, a line per field: "-path: value" as it is and "+path: value" as it
	// would be. It is empty unless Result is ResultConfigured. Values of Secrets are not shown.
	Diff []string
}

// Rehearser asks an API server what it would make of an apply; *kube.Client is one.
type Rehearser interface {
	// Rehearse is Apply with nothing written. It returns the object as it would be.
	Rehearse(ctx context.Context, k kube.Kind, namespace, name string, body []byte) (kube.Object, error)
}

// previewApply finds out what a write would do.
func (a *Applier) previewApply(ctx context.Context, t target, act action) (pipeline.Result, error) {
	c := Change{Ref: t.record.Ref, Namespace: t.key.namespace, Name: t.key.name, Result: pipeline.ResultCreated}
	if act.fresh {
		a.preview(c)
		return c.Result, nil
	}
	kind := t.shelf.kind
	if v := gjson.GetBytes(t.desired.body, "apiVersion").Str; v != "" {
		kind.Version = v[strings.LastIndexByte(v, '/')+1:]
	}
	now, err := a.client.Get(ctx, kind, t.key.namespace, t.key.name)
	if kube.IsNotFound(err) {
		a.preview(c)
		return c.Result, nil
	}
	if err != nil {
		return "", fmt.Errorf("preview %s: %w", t.record.Ref, err)
	}
	rehearser, ok := a.client.(Rehearser)
	if !ok {
		return "", fmt.Errorf("preview %s: the client cannot rehearse", t.record.Ref)
	}
	then, err := rehearser.Rehearse(ctx, kind, t.key.namespace, t.key.name, t.desired.marked(t.origin(), binding{uid: act.uid}))
	if pipeline.ClassOf(err) == pipeline.Immutable && err != nil {
		switch immutableAction(a.immutable, t.record.Ref.GroupResource()) {
		case v1alpha1.ImmutableSkip:
			return pipeline.ResultSkipped, nil
		case v1alpha1.ImmutableRecreate:
			c.Result = pipeline.ResultRecreated
			a.preview(c)
			return c.Result, nil
		case v1alpha1.ImmutablePark:
		}
	}
	if err != nil {
		return "", fmt.Errorf("preview %s: %w", t.record.Ref, err)
	}
	c.Result = pipeline.ResultConfigured
	c.Diff = Diff(now.Raw, then.Raw, t.record.Ref.GroupResource() == secrets)
	a.preview(c)
	return c.Result, nil
}

// previewDelete tells of a deletion.
func (a *Applier) previewDelete(t target) pipeline.Result {
	c := Change{Ref: t.record.Ref, Namespace: t.key.namespace, Name: t.key.name, Result: pipeline.ResultDeleted}
	a.preview(c)
	return c.Result
}

// previewFirst tells of copies whose kind is still to come.
func (a *Applier) previewFirst(r pipeline.Record, wanted []desired) pipeline.Result {
	for _, d := range wanted {
		a.preview(Change{Ref: r.Ref, Namespace: d.namespace, Name: d.name, Result: pipeline.ResultCreated})
	}
	return pipeline.ResultCreated
}
