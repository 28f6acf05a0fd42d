package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Client is what an Applier needs of an API server; *kube.Client is one.
type Client interface {
	Get(ctx context.Context, k kube.Kind, namespace, name string) (kube.Object, error)
	Apply(ctx context.Context, k kube.Kind, namespace, name string, body []byte) (m kube.Meta, created bool, err error)
	Delete(ctx context.Context, k kube.Kind, namespace, name, uid string) error
	ForgetKinds()
}

// Transform changes an object on its way, before namespaces are mapped and marks
// are set. It must be safe for concurrent use and must not change body in place. A nil body
// without an error means that the object is not wanted here.
type Transform interface {
	Transform(ctx context.Context, ref pipeline.Ref, body []byte) ([]byte, error)
}

// Settings wire an Applier.
type Settings struct {
	// Namespace and Name are the Replication's.
	Namespace, Name string
	Spec            v1alpha1.ReplicationSpec
	Client          Client
	// Inventory is that of Client's server and runs already, or will.
	Inventory *Inventory
	// Transform may be nil.
	Transform Transform
	// Protected are destination namespaces that are never written to, beside the cluster's
	// own: that of DR-Syncer itself.
	Protected []string
	// Orphaned reports that no Replication has the mark any more, so that an adopting
	// one may take its copies over. nil means that all have.
	Orphaned func(mark string) bool
	Log      *slog.Logger
}

// maxRounds bounds how often one attempt decides anew because the copy was not what it seemed.
const maxRounds = 4

// Applier applies the records of one source for one Replication. It is a
// pipeline.Sink.
type Applier struct {
	client    Client
	inventory *Inventory
	transform Transform
	selector  *Selector
	rewriter  rewriter
	policy    policy
	immutable v1alpha1.ImmutablePolicy
	protected []string
	log       *slog.Logger
}

var _ pipeline.Sink = (*Applier)(nil)

// New returns an Applier, or what Validate says of the spec. It takes the place of the
// Replication's former one, which must have ended: Synced counts anew.
func New(s Settings) (*Applier, error) {
	selector, err := NewSelector(s.Spec)
	if err != nil {
		return nil, err
	}
	a := &Applier{
		client:    s.Client,
		inventory: s.Inventory,
		transform: s.Transform,
		selector:  selector,
		policy: policy{
			mark:     Mark(s.Namespace, s.Name),
			retain:   s.Spec.DeletionPolicy == v1alpha1.DeletionRetain,
			adopt:    s.Spec.ConflictPolicy == v1alpha1.ConflictAdopt,
			orphaned: s.Orphaned,
		},
		protected: append(slices.Clone(systemNamespaces), s.Protected...),
		log:       s.Log,
	}
	if a.policy.orphaned == nil {
		a.policy.orphaned = func(string) bool { return false }
	}
	if s.Spec.ImmutablePolicy != nil {
		a.immutable = *s.Spec.ImmutablePolicy
	}
	a.rewriter = rewriter{mark: a.policy.mark, place: selector.place, mapNamespace: selector.MapNamespace}
	a.inventory.recount(a.policy.mark)
	return a, nil
}

// Wants reports whether records of the kind matter at all: objects of it can be
// selected, or decide what is.
func (a *Applier) Wants(k pipeline.GroupResource) bool {
	return a.selector.Kind(k) || isNamespace(k) && a.selector.byLabels != nil
}

// Expect begins to learn what the destination has of these kinds, so that it is
// known when their records come. It does not wait for that. It may be called again.
func (a *Applier) Expect(ctx context.Context, kinds []pipeline.GroupResource) {
	a.inventory.expect(ctx, kinds)
}

// Observe learns from a record what later ones may depend on. It must be told every
// record, in the history's order, before Apply is. It reports that more is selected
// now than before: then everything must be read again.
func (a *Applier) Observe(r pipeline.Record) (grew bool) { return a.selector.Observe(r) }

// OnDrift has fn called with the source's Ref of each copy that may not be as the log
// says any more, until cancel is called: somebody else changed or deleted it, or a write of ours
// came too late. Its newest record, a tombstone too, should then be applied again. fn must not block.
func (a *Applier) OnDrift(fn func(pipeline.Ref)) (cancel func()) {
	return a.inventory.OnDrift(a.policy.mark, fn)
}

// Synced counts the copies, per kind, that are as the log last said. One that is not
// selected any more, was released or retained is not.
func (a *Applier) Synced() map[pipeline.GroupResource]int64 {
	return a.inventory.Synced(a.policy.mark)
}

// Apply implements pipeline.Sink: one server-side apply, one delete, or nothing.
func (a *Applier) Apply(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	switch r.Op {
	case pipeline.OpPut:
		d, err := a.desire(ctx, r)
		if err != nil || d == nil {
			a.leave(r)
		}
		switch {
		case err != nil:
			return "", err
		case d == nil:
			return pipeline.ResultSkipped, nil
		}
		return a.traced(ctx, r, d)
	case pipeline.OpDelete:
		if !a.selector.Kind(r.Ref.GroupResource()) {
			return pipeline.ResultSkipped, nil
		}
		d := &desired{}
		d.namespace, d.name = a.selector.place(r.Ref)
		return a.traced(ctx, r, d)
	case pipeline.OpRelease:
		a.leave(r)
	case pipeline.OpHeartbeat:
	}
	return pipeline.ResultSkipped, nil
}

// leave learns that the copy of a record's object, if there is one, is not what
// the log says.
func (a *Applier) leave(r pipeline.Record) {
	if s := a.inventory.known(r.Ref.GroupResource()); s != nil {
		namespace, name := a.selector.place(r.Ref)
		s.release(key{namespace, name}, a.policy.mark, originOf(r))
	}
}

// desire makes what a put wants; nil if it is not selected.
func (a *Applier) desire(ctx context.Context, r pipeline.Record) (d *desired, err error) {
	ctx, span := telemetry.StartSpan(ctx, telemetry.SpanTransform, attrs(r))
	defer func() { span.End(err) }()
	switch a.selector.object(r.Ref, r.Body) {
	case unselected:
		return nil, nil //nolint:nilnil // not selected is an answer
	case undecided:
		return nil, pipeline.WithClass(pipeline.Dependency,
			fmt.Errorf("select %s: the labels of its namespace are not known yet", r.Ref))
	case selected:
	}
	if isNamespace(r.Ref.GroupResource()) && a.selector.MapNamespace(r.Ref.Name) == "default" {
		return nil, nil //nolint:nilnil // every cluster has its own
	}
	body := r.Body
	if a.transform != nil {
		if body, err = a.transform.Transform(ctx, r.Ref, body); err != nil {
			return nil, fmt.Errorf("transform %s: %w", r.Ref, err)
		}
		if body == nil {
			return nil, nil //nolint:nilnil // not wanted is an answer
		}
	}
	made, err := a.rewriter.desire(r, body)
	if err != nil {
		return nil, malformed(r.Ref, err)
	}
	in := made.namespace
	if isNamespace(r.Ref.GroupResource()) {
		in = made.name
	}
	if slices.Contains(a.protected, in) {
		return nil, pipeline.WithClass(pipeline.Forbidden,
			fmt.Errorf("apply %s: namespace %q belongs to this cluster itself: exclude it or map it to another name", r.Ref, in))
	}
	return &made, nil
}

// traced runs one attempt in its span.
func (a *Applier) traced(ctx context.Context, r pipeline.Record, d *desired) (res pipeline.Result, err error) {
	ctx, span := telemetry.StartSpan(ctx, telemetry.SpanApply, attrs(r))
	start := time.Now()
	defer func() {
		outcome := string(res)
		if err != nil {
			outcome = pipeline.ClassOf(err).String()
		}
		span.End(err, telemetry.String(telemetry.KeyResult, outcome))
		telemetry.Record(ctx, telemetry.MetricApplySeconds, time.Since(start).Seconds(),
			telemetry.String(telemetry.KeyKind, r.Ref.GroupResource().String()), telemetry.String(telemetry.KeyResult, outcome))
	}()
	return a.attempt(ctx, r, d)
}

// attempt decides and performs, and decides again when the copy turns out not to be
// what the inventory said.
func (a *Applier) attempt(ctx context.Context, r pipeline.Record, d *desired) (pipeline.Result, error) {
	s, err := a.inventory.shelf(ctx, r.Ref.GroupResource())
	if err != nil {
		if r.Op == pipeline.OpDelete && pipeline.ClassOf(err) == pipeline.Dependency {
			return pipeline.ResultUnchanged, nil // what is not served has no copies
		}
		return "", fmt.Errorf("apply %s: %w", r.Ref, err)
	}
	t := target{shelf: s, key: key{d.namespace, d.name}, record: r, desired: d}
	for range maxRounds {
		e := s.look(t.key)
		if e.unproven != "" && e.digest == d.digest && !owns(e.unproven, d.marked(e.origin, binding{})) {
			e.drifted = true
		}
		if e.raised && r.Op == pipeline.OpPut {
			if e.raised, err = a.raisedForCopy(ctx, t.key); err != nil {
				return "", fmt.Errorf("apply %s: %w", r.Ref, err)
			}
		}
		p := a.policy
		p.displaced = func(from string) bool {
			namespace, name := a.selector.place(sourceOf(r.Ref, from))
			return !a.selector.Namespace(from) || namespace != d.namespace || name != d.name
		}
		act := decide(r, d.digest, e, p)
		res, err := a.perform(ctx, t, act)
		if !errors.Is(err, errAgain) {
			return res, err
		}
	}
	return "", fmt.Errorf("apply %s: the copy keeps changing", r.Ref)
}

// target is one copy and what a record wants of it.
type target struct {
	shelf   *shelf
	key     key
	record  pipeline.Record
	desired *desired
}

// errAgain has the attempt decide anew.
var errAgain = errors.New("decide again")

func (a *Applier) perform(ctx context.Context, t target, act action) (pipeline.Result, error) {
	switch act.verb {
	case doNothing:
		if act.result == pipeline.ResultUnchanged && t.record.Op == pipeline.OpPut {
			t.shelf.proven(t.key, t.record.Position)
		}
		if act.leaves {
			t.shelf.release(t.key, a.policy.mark, originOf(t.record))
		}
		return act.result, nil
	case doRefuse:
		return "", pipeline.WithClass(act.class, fmt.Errorf("apply %s: %s", t.record.Ref, act.reason))
	case doWait:
		if err := a.departed(ctx, t, act.uid); err != nil {
			return "", err
		}
		return "", errAgain
	case doApply:
		return a.write(ctx, t, binding{uid: act.uid, fresh: act.fresh})
	case doDelete:
		return a.remove(ctx, t, act.uid)
	}
	return "", fmt.Errorf("apply %s: unknown verb %d", t.record.Ref, act.verb)
}

// sourceOf is ref moved to another source namespace.
func sourceOf(ref pipeline.Ref, namespace string) pipeline.Ref {
	if isNamespace(ref.GroupResource()) {
		ref.Name = namespace
	} else {
		ref.Namespace = namespace
	}
	return ref
}

// attrs are the attributes of a record's spans.
func attrs(r pipeline.Record) []telemetry.Attr {
	return []telemetry.Attr{
		telemetry.String(telemetry.KeySite, r.Ref.Site),
		telemetry.String(telemetry.KeyKind, r.Ref.GroupResource().String()),
		telemetry.String(telemetry.KeyNamespace, r.Ref.Namespace),
		telemetry.String(telemetry.KeyName, r.Ref.Name),
		telemetry.String(telemetry.KeyEpoch, r.Position.Epoch),
		telemetry.Int64(telemetry.KeySequence, int64(r.Position.Seq)), //nolint:gosec // never that large
	}
}
