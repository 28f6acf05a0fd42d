package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// fate is what is to become of the copies of a put's object.
type fate uint8

const (
	// unwanted: it is not selected; copies that are there are left, for others to have.
	unwanted fate = iota
	// held: a rule says to leave things as they are.
	held
	// wanted: there are to be just these copies; none if rules dropped the object.
	wanted
)

// wish is what a put wants.
type wish struct {
	fate   fate
	copies []desired
}

// desire makes what a put wants: it selects, runs the rules, and gives what comes out
// its place and marks.
func (a *Applier) desire(ctx context.Context, r pipeline.Record) (w wish, err error) {
	ctx, span := telemetry.StartSpan(ctx, telemetry.SpanTransform, attrs(r))
	var applied []transform.ID
	defer func() {
		if len(applied) == 0 {
			span.End(err)
			return
		}
		span.End(err, telemetry.Strings(telemetry.KeyRules, names(applied)))
	}()
	switch a.selector.object(r.Ref, r.Body) {
	case unselected:
		return wish{}, nil
	case undecided:
		return wish{}, pipeline.WithClass(pipeline.Dependency,
			fmt.Errorf("select %s: the labels of its namespace are not known yet", r.Ref))
	case selected:
	}
	if isNamespace(r.Ref.GroupResource()) && a.selector.MapNamespace(r.Ref.Name) == "default" {
		return wish{}, nil // every cluster has its own
	}
	home := a.place(r.Ref)
	if a.rules == nil || !a.rules.Matches(object(r)) {
		made, err := a.make(r, r.Body, home)
		if err != nil {
			return wish{}, err
		}
		return wish{wanted, []desired{made}}, nil
	}
	result, err := a.transform(ctx, r)
	if err != nil {
		return wish{}, fmt.Errorf("apply %s: %w", r.Ref, err)
	}
	applied = result.Applied
	if result.Skipped {
		return wish{fate: held}, nil
	}
	w.fate = wanted
	for _, o := range result.Objects {
		at, err := a.placeOf(r, o, home)
		if err != nil {
			return wish{}, err
		}
		made, err := a.make(r, o.Body, at)
		if err != nil {
			return wish{}, err
		}
		made.stray = at != home
		if slices.ContainsFunc(w.copies, func(d desired) bool { return d.key() == at }) {
			return wish{}, pipeline.WithClass(pipeline.Invalid,
				fmt.Errorf("apply %s: the rules make %s twice, once the namespaces are mapped", r.Ref, title(r.Ref.GroupResource(), at)))
		}
		w.copies = append(w.copies, made)
	}
	return w, nil
}

func object(r pipeline.Record) transform.Object {
	return transform.Object{Kind: r.Ref.GroupResource(), Body: r.Body}
}

// transform runs the rules over a put.
func (a *Applier) transform(ctx context.Context, r pipeline.Record) (transform.Result, error) {
	start := time.Now()
	result, err := a.rules.Run(ctx, a.env, object(r))
	telemetry.Record(ctx, telemetry.MetricTransformSeconds, time.Since(start).Seconds(),
		telemetry.String(telemetry.KeyKind, r.Ref.GroupResource().String()))
	for _, failure := range result.Failures {
		a.log.DebugContext(ctx, "rule failed and was passed over", telemetry.KeyKind, r.Ref.GroupResource().String(),
			telemetry.KeyNamespace, r.Ref.Namespace, telemetry.KeyName, r.Ref.Name, telemetry.KeyError, failure)
	}
	return result, err
}

// placeOf is where an object belongs that rules have made: the namespace they give it is
// mapped like any other.
func (a *Applier) placeOf(r pipeline.Record, o transform.Object, home key) (key, error) {
	t, at := transform.TargetOf(o), home
	switch {
	case isNamespace(o.Kind) && t.Name != r.Ref.Name:
		at.name = a.selector.MapNamespace(t.Name)
	case !isNamespace(o.Kind):
		at.name = t.Name
	}
	if r.Ref.Namespace != "" && t.Namespace != r.Ref.Namespace && t.Namespace != "" {
		at.namespace = a.selector.MapNamespace(t.Namespace)
	}
	if !isSegment(at.name) || at.namespace != "" && !dnsLabel.MatchString(at.namespace) {
		return key{}, pipeline.WithClass(pipeline.Invalid,
			fmt.Errorf("apply %s: the rules give it a name that no object can have", r.Ref))
	}
	return at, nil
}

// isSegment reports whether a name can be part of a path of the API.
func isSegment(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 253 && !strings.ContainsAny(name, "/%")
}

// make makes the copy for a place.
func (a *Applier) make(r pipeline.Record, body []byte, at key) (desired, error) {
	made, err := a.rewriter.desire(r, body, at)
	if err != nil {
		return desired{}, malformed(r.Ref, err)
	}
	in := made.namespace
	if isNamespace(r.Ref.GroupResource()) {
		in = made.name
	}
	if a.protects(in) {
		return desired{}, pipeline.WithClass(pipeline.Forbidden,
			fmt.Errorf("apply %s: namespace %q belongs to this cluster itself: exclude it or map it to another name", r.Ref, in))
	}
	return made, nil
}

// protects reports whether nothing is ever written to a namespace of this cluster.
func (a *Applier) protects(namespace string) bool { return slices.Contains(a.protected, namespace) }

// names are what spans tell of rules: built-in ones by their name alone.
func names(rules []transform.ID) []string {
	out := make([]string, len(rules))
	for i, id := range rules {
		if out[i] = id.Name; id.Origin.ConfigMap != "" {
			out[i] = id.Origin.ConfigMap + "/" + id.Name
		}
	}
	return out
}
