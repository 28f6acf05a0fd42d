package apply

import (
	"cmp"
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
	"github.com/dr-syncer/dr-syncer/transform"
)

// Client is what an Applier needs of an API server; *kube.Client is one.
type Client interface {
	Get(ctx context.Context, k kube.Kind, namespace, name string) (kube.Object, error)
	Apply(ctx context.Context, k kube.Kind, namespace, name string, body []byte) (m kube.Meta, created bool, err error)
	Delete(ctx context.Context, k kube.Kind, namespace, name, uid string) error
	ForgetKinds()
}

// Settings wire an Applier.
type Settings struct {
	// Namespace and Name are the Replication's.
	Namespace, Name string
	Spec            v1alpha1.ReplicationSpec
	Client          Client
	// Inventory is that of Client's server and runs already, or will.
	Inventory *Inventory
	// Rules rewrite the objects on their way, before namespaces are mapped and marks are
	// set; nil for none. Destination is this site's name, for rules that ask.
	Rules       *transform.Set
	Destination string
	// Mark is that of the copies; Mark(Namespace, Name) if empty.
	Mark string
	// Rewind brings copies back to what older records say: for a run up to a moment that has passed.
	Rewind bool
	// Guard holds back deletions; nil lets all pass.
	Guard *Guard
	// Preview, if not nil, is told every change in place of its being made. It is called by many
	// goroutines at once.
	Preview func(Change)
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

// Applier applies the records of one source for one Replication, with one set of rules. It
// is a pipeline.Sink.
type Applier struct {
	client    Client
	inventory *Inventory
	rules     *transform.Set
	env       transform.Env
	selector  *Selector
	rewriter  rewriter
	policy    policy
	immutable v1alpha1.ImmutablePolicy
	protected []string
	guard     *Guard
	preview   func(Change)
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
		rules:     s.Rules,
		selector:  selector,
		policy: policy{
			mark:     cmp.Or(s.Mark, Mark(s.Namespace, s.Name)),
			rewind:   s.Rewind,
			retain:   s.Spec.DeletionPolicy == v1alpha1.DeletionRetain,
			adopt:    s.Spec.ConflictPolicy == v1alpha1.ConflictAdopt,
			orphaned: s.Orphaned,
		},
		protected: append(slices.Clone(systemNamespaces), s.Protected...),
		preview:   s.Preview,
		log:       s.Log,
	}
	if s.Guard != nil {
		a.guard = s.Guard
		a.guard.copies = a.census()
	}
	if a.policy.orphaned == nil {
		a.policy.orphaned = func(string) bool { return false }
	}
	if s.Spec.ImmutablePolicy != nil {
		a.immutable = *s.Spec.ImmutablePolicy
	}
	a.rewriter = rewriter{mark: a.policy.mark, mapNamespace: selector.MapNamespace}
	a.env = transform.Env{
		SourceSite: s.Spec.Source.Site, DestinationSite: s.Destination, ReplicationNamespace: s.Namespace, ReplicationName: s.Name,
		Protected: func(namespace string) bool { return a.protects(selector.MapNamespace(namespace)) },
	}
	if a.preview == nil {
		a.inventory.recount(a.policy.mark)
	}
	return a, nil
}

// Wants reports whether records of the kind matter at all: objects of it can be
// selected, or decide what is.
func (a *Applier) Wants(k pipeline.GroupResource) bool {
	return a.selector.Kind(k) || isNamespace(k) && a.selector.byLabels != nil
}

// May reports whether the object can be selected, as far as its Ref tells. Namespaces whose labels
// decide, or are yet to, can.
func (a *Applier) May(ref pipeline.Ref) bool {
	switch k := ref.GroupResource(); {
	case isNamespace(k):
		return a.Wants(k) && (a.selector.byLabels != nil || a.selector.namespace(ref.Name) != unselected)
	case !a.selector.Kind(k):
		return false
	case ref.Namespace == "":
		return a.selector.clusterScoped
	}
	return a.selector.namespace(ref.Namespace) != unselected
}

// Expect begins to learn what the destination has of these kinds, so that it is
// known when their records come. It does not wait for that. It may be called again.
func (a *Applier) Expect(ctx context.Context, kinds []pipeline.GroupResource) {
	a.inventory.expect(ctx, kinds)
}

// Observe learns from a record what later ones may depend on. It must be told every
// record, in the history's order, before Apply is. It reports that more is selected
// now than before: then everything must be read again.
func (a *Applier) Observe(r pipeline.Record) (grew bool) {
	if a.guard != nil && r.Op == pipeline.OpPut {
		a.guard.settled(r.Ref, true)
	}
	return a.selector.Observe(r)
}

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

// Apply implements pipeline.Sink: for each copy that the record's object has or should
// have, one server-side apply, one delete, or nothing.
func (a *Applier) Apply(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	switch r.Op {
	case pipeline.OpPut:
		w, err := a.desire(ctx, r)
		switch {
		case err != nil:
			a.leave(r, false)
			return "", err
		case w.fate != wanted:
			a.leave(r, w.fate == unwanted)
			return pipeline.ResultSkipped, nil
		}
		return a.traced(ctx, r, w.copies)
	case pipeline.OpDelete:
		if !a.selector.Kind(r.Ref.GroupResource()) {
			return pipeline.ResultSkipped, nil
		}
		return a.traced(ctx, r, nil)
	case pipeline.OpRelease:
		a.leave(r, false)
	case pipeline.OpHeartbeat:
	}
	return pipeline.ResultSkipped, nil
}

// leave learns that the copies of a record's object, if there are any, are not what
// the log says. unwanted says that they are not to be: others may have them.
func (a *Applier) leave(r pipeline.Record, unwanted bool) {
	if a.preview != nil {
		return
	}
	if s := a.inventory.known(r.Ref.GroupResource()); s != nil {
		for _, k := range a.places(r.Ref, s.straysOf(r.Ref)) {
			s.release(k, a.policy.mark, r, unwanted)
		}
	}
}

// place is where the copy of ref is unless rules have put it elsewhere.
func (a *Applier) place(ref pipeline.Ref) key {
	namespace, name := a.selector.place(ref)
	return key{namespace, name}
}

// places are where copies of ref can be, given where they have strayed to.
func (a *Applier) places(ref pipeline.Ref, strays []key) []key {
	home := a.place(ref)
	if slices.Contains(strays, home) {
		return strays
	}
	return append(strays, home)
}

// traced runs one attempt in its span.
func (a *Applier) traced(ctx context.Context, r pipeline.Record, wanted []desired) (res pipeline.Result, err error) {
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
	return a.attempt(ctx, r, wanted)
}

// attempt brings about all copies that a record wants, and ends those that it wants no
// more: these last, so that nothing is missing meanwhile, and only if the others are there.
func (a *Applier) attempt(ctx context.Context, r pipeline.Record, wanted []desired) (pipeline.Result, error) {
	s, err := a.inventory.shelf(ctx, r.Ref.GroupResource())
	if err != nil {
		if len(wanted) == 0 && pipeline.ClassOf(err) == pipeline.Dependency {
			return pipeline.ResultUnchanged, nil // what is not served has no copies
		}
		if a.preview != nil && pipeline.ClassOf(err) == pipeline.Dependency {
			return a.previewFirst(r, wanted), nil
		}
		return "", fmt.Errorf("apply %s: %w", r.Ref, err)
	}
	var sum summary
	for i := range wanted {
		sum.add(a.settle(ctx, target{shelf: s, key: wanted[i].key(), record: r, desired: &wanted[i]}))
	}
	if sum.err != nil {
		return "", sum.err
	}
	strays := s.straysOf(r.Ref)
	if len(strays) == 0 && len(wanted) == 1 && !wanted[0].stray {
		return sum.result, nil
	}
	for _, k := range a.places(r.Ref, strays) {
		if !slices.ContainsFunc(wanted, func(d desired) bool { return d.key() == k }) {
			sum.add(a.settle(ctx, target{shelf: s, key: k, record: r}))
		}
	}
	return sum.result, sum.err
}

// settle decides about one copy and performs it, and decides again when the copy turns
// out not to be what the inventory said.
func (a *Applier) settle(ctx context.Context, t target) (pipeline.Result, error) {
	for range maxRounds {
		act, err := a.decide(ctx, t)
		if err != nil {
			return "", fmt.Errorf("apply %s: %w", t.record.Ref, err)
		}
		res, err := a.perform(ctx, t, act)
		if !errors.Is(err, errAgain) {
			return res, err
		}
	}
	return "", fmt.Errorf("apply %s: the copy keeps changing", t.record.Ref)
}

// decide gathers what a decision needs.
func (a *Applier) decide(ctx context.Context, t target) (act action, err error) {
	r, d, e := t.record, t.desired, t.shelf.look(t.key)
	p := a.policy
	p.displaced = a.displaced(t)
	switch {
	case r.Op == pipeline.OpDelete:
		return decide(r, pipeline.Digest{}, e, p), nil
	case d == nil:
		return decideLeft(r, e, p), nil
	}
	p.stray = d.stray
	if e.unproven != "" && e.digest == d.digest && !owns(e.unproven, d.marked(e.origin, binding{})) {
		e.drifted = true
	}
	if e.raised {
		if e.raised, err = a.raisedForCopy(ctx, t.key); err != nil {
			return act, err
		}
	}
	return decide(r, d.digest, e, p), nil
}

// displaced tells of the target's copy whether its source object can want it at all. What a
// rule has put there may be wanted as long as its source is selected; it will say when not.
func (a *Applier) displaced(t target) func(entry) bool {
	return func(e entry) bool {
		ref := t.record.Ref
		ref.Name = e.source
		if !isNamespace(ref.GroupResource()) {
			ref.Namespace = e.origin.Namespace
		}
		in := e.origin.Namespace
		return in != "" && !a.selector.Namespace(in) || e.origin.Name == "" && a.place(ref) != t.key
	}
}

// summary is what became of the copies of one record.
type summary struct {
	result pipeline.Result
	err    error
}

// weight orders results: of several, the heaviest is told.
var weight = map[pipeline.Result]int{
	pipeline.ResultSkipped: 1, pipeline.ResultUnchanged: 2, pipeline.ResultHeld: 3, pipeline.ResultDeleted: 4,
	pipeline.ResultConfigured: 5, pipeline.ResultCreated: 6, pipeline.ResultRecreated: 7,
}

// add adds what became of one copy. Of several errors the one with the most hope
// counts, so that none is parked while another may pass.
func (s *summary) add(res pipeline.Result, err error) {
	switch {
	case err != nil && (s.err == nil || pipeline.ClassOf(err) < pipeline.ClassOf(s.err)):
		s.result, s.err = "", err
	case s.err == nil && weight[res] > weight[s.result]:
		s.result = res
	}
}

// target is one copy and what a record wants of it: desired, or nothing if nil.
type target struct {
	shelf   *shelf
	key     key
	record  pipeline.Record
	desired *desired
}

// origin is the origin that the copy is given.
func (t target) origin() Origin {
	o := originOf(t.record)
	if t.desired.stray {
		o.Name = t.record.Ref.Name
	}
	return o
}

// errAgain has the attempt decide anew.
var errAgain = errors.New("decide again")

func (a *Applier) perform(ctx context.Context, t target, act action) (pipeline.Result, error) {
	switch act.verb {
	case doNothing:
		if a.guard != nil && t.record.Op == pipeline.OpDelete {
			a.guard.settled(t.record.Ref, false)
		}
		if a.preview != nil {
			return act.result, nil
		}
		if act.result == pipeline.ResultUnchanged && t.desired != nil {
			t.shelf.proven(t.key, t.record.Position)
		}
		if act.leaves {
			t.shelf.release(t.key, a.policy.mark, t.record, true)
		}
		return act.result, nil
	case doRefuse:
		if act.behind && !t.shelf.await(t.key, a.policy.mark, t.record.Ref) {
			return "", errAgain
		}
		return "", pipeline.WithClass(act.class, fmt.Errorf("apply %s: %s", t.record.Ref, act.reason))
	case doWait:
		if err := a.departed(ctx, t, act.uid); err != nil {
			return "", err
		}
		return "", errAgain
	case doApply:
		if a.preview != nil {
			return a.previewApply(ctx, t, act)
		}
		return a.write(ctx, t, binding{uid: act.uid, fresh: act.fresh})
	case doDelete:
		switch a.restrain(t) {
		case hold:
			return pipeline.ResultHeld, nil
		case discard:
			return pipeline.ResultSkipped, nil
		case pass:
		}
		if a.preview != nil {
			return a.previewDelete(t), nil
		}
		return a.remove(ctx, t, act.uid)
	}
	return "", fmt.Errorf("apply %s: unknown verb %d", t.record.Ref, act.verb)
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
