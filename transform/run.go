package transform

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// errSkipped ends a run whose object is left out.
var errSkipped = errors.New("skipped")

// run is one object on its way through the rules.
type run struct {
	set    *Set
	env    *Env
	index  *kindIndex
	kind   pipeline.GroupResource
	budget budget
	// secret says that a rule with a parameter from a Secret has run: what the objects
	// hold from now on is not told.
	secret bool
	// trace, when not nil, is told of every step.
	trace func(step)

	apiVersion, kindName string
	namespaced           bool
	namespace, name      string

	outputs  []Object
	bytes    int
	applied  []ID
	failures []error
}

// item is an object between two rules: its bytes, and the decoded value once
// there is one.
type item struct {
	facts   facts
	value   any
	decoded bool
}

// step is what one rule did to one item.
type step struct {
	rule   *compiled
	before []byte
	after  [][]byte
	// unmatched and unmet say that the rule is not for the item: by its facts, or
	// by its condition.
	unmatched, unmet bool
	err              error
}

// all is Set.Run for an object that a rule may match.
func (r *run) all(ctx context.Context, o Object) (Result, error) {
	err := r.rules(ctx, o)
	if errors.Is(err, errSkipped) {
		return Result{Skipped: true, Applied: r.applied, Failures: r.failures}, nil
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Objects: r.outputs, Applied: r.applied, Failures: r.failures}, nil
}

// rules has the object go through the rules, within the limits.
func (r *run) rules(ctx context.Context, o Object) error {
	limits := r.set.limits
	if len(o.Body) > limits.Bytes {
		return (&Error{Reason: TooLarge, Message: fmt.Sprintf("the object is longer than %d bytes", limits.Bytes)}).classify()
	}
	memory := min(limits.Memory, 4<<20+64*int64(len(o.Body)))
	r.budget = budget{patterns: r.set.patterns, bytes: memory, nodes: int(memory / 64)}
	r.budget.meter.begin(ctx, limits.Time, memory)
	defer r.budget.meter.end()
	it := item{facts: facts{kind: o.Kind, body: o.Body}}
	it.facts.identity()
	r.apiVersion, r.kindName = textOf(gjson.GetBytes(o.Body, "apiVersion")), textOf(gjson.GetBytes(o.Body, "kind"))
	r.name, r.namespace, r.namespaced = it.facts.name, it.facts.namespace, it.facts.namespace != ""
	err := r.onward(0, &it) //nolint:contextcheck // the meter is the context of the programs
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// from runs the rule at a place over an item, and then all rules behind it over
// what comes out.
func (r *run) from(place int, it *item) error {
	rule := &r.set.rules[place]
	memory := r.budget.bytes
	outs, met, err := r.one(rule, it)
	if err != nil {
		if r.trace != nil {
			r.trace(step{rule: rule, before: it.facts.body, err: err})
		}
		if ctxErr := r.budget.meter.Context.Err(); ctxErr != nil {
			return ctxErr
		}
		failure := r.failure(rule, err)
		switch rule.OnError {
		case Skip:
			r.failures = append(r.failures, failure)
			return errSkipped
		case Pass:
			r.failures = append(r.failures, failure)
			// The rules behind it get their allowance.
			r.budget.spent, r.budget.bytes = nil, memory
			r.budget.meter.renew()
			return r.onward(place+1, it)
		case Park:
			return failure
		}
		return failure
	}
	if !met {
		if r.trace != nil {
			r.trace(step{rule: rule, before: it.facts.body, unmet: true})
		}
		return r.onward(place+1, it)
	}
	r.applied = append(r.applied, rule.ID())
	r.secret = r.secret || rule.secret
	if r.trace != nil {
		after := make([][]byte, len(outs))
		for i := range outs {
			after[i] = outs[i].facts.body
		}
		r.trace(step{rule: rule, before: it.facts.body, after: after})
	}
	kept := &r.budget.meter.weigh.kept
	before := len(*kept)
	for i := range outs {
		*kept = append(*kept, outs[i].value)
	}
	for i := range outs {
		if err := r.onward(place+1, &outs[i]); err != nil {
			return err
		}
	}
	*kept = (*kept)[:before]
	return nil
}

var (
	// namespaces are protected by their own name.
	namespaces = pipeline.GroupResource{Resource: "namespaces"}
	// secrets are not told of.
	secrets = pipeline.GroupResource{Resource: "secrets"}
)

func (r *run) protected(namespace string) bool {
	return r.env.Protected != nil && r.env.Protected(namespace)
}

// onward finds the next rule for an item, or puts it out.
func (r *run) onward(place int, it *item) error {
	next := r.index.next(r.set.rules, &it.facts, place)
	if r.trace != nil {
		end := next
		if next < 0 {
			end = len(r.set.rules)
		}
		for i := place; i < end; i++ {
			r.trace(step{rule: &r.set.rules[i], before: it.facts.body, unmatched: true})
		}
	}
	if next >= 0 {
		return r.from(next, it)
	}
	limits := r.set.limits
	var last ID
	if len(r.applied) > 0 {
		last = r.applied[len(r.applied)-1]
	}
	if len(r.outputs) >= limits.Outputs {
		return (&Error{Rule: last, Reason: TooMany, Message: fmt.Sprintf("more than %d objects came out", limits.Outputs)}).classify()
	}
	if r.bytes += len(it.facts.body); r.bytes > limits.Bytes {
		return (&Error{Rule: last, Reason: TooLarge, Message: fmt.Sprintf("more than %d bytes came out", limits.Bytes)}).classify()
	}
	out := Object{Kind: r.kind, Body: it.facts.body}
	for _, o := range r.outputs {
		if TargetOf(o) == TargetOf(out) {
			return (&Error{Rule: last, Reason: Twice, Message: "the same object came out twice"}).classify()
		}
	}
	r.outputs = append(r.outputs, out)
	return nil
}

func (r *run) failure(rule *compiled, err error) error {
	e := describe(rule.ID(), r.secret || rule.secret || r.kind == secrets, err)
	return e.classify()
}

// one runs one rule. met is false when its condition is not.
func (r *run) one(rule *compiled, it *item) (outs []item, met bool, err error) {
	if !it.decoded {
		if it.value, err = decode(it.facts.body); err != nil {
			return nil, false, &Error{Rule: rule.ID(), Reason: Unreadable, Message: "the object is not JSON: " + err.Error()}
		}
		it.decoded = true
	}
	if rule.when != nil {
		yes := false
		err := rule.when.run(&r.budget, r.env, it.value, func(v any) error {
			yes = v != nil && v != false
			return errFirst
		})
		if err != nil && !errors.Is(err, errFirst) {
			return nil, false, err
		}
		if !yes {
			return nil, false, nil
		}
	}
	bytes := r.bytes
	kept := &r.budget.meter.weigh.kept
	before := len(*kept)
	err = rule.program.run(&r.budget, r.env, it.value, func(v any) error {
		if len(outs) >= r.set.limits.Outputs {
			return &Error{Rule: rule.ID(), Reason: TooMany, Message: fmt.Sprintf("more than %d objects came out", r.set.limits.Outputs)}
		}
		out, err := r.accept(rule, it, v, r.set.limits.Bytes-bytes)
		if err != nil {
			return err
		}
		bytes += len(out.facts.body)
		outs = append(outs, out)
		*kept = append(*kept, out.value)
		return nil
	})
	*kept = (*kept)[:before]
	return outs, true, err
}

// errFirst ends a program after its first result.
var errFirst = errors.New("one is enough")

// accept checks what came out of a rule and makes it an item.
func (r *run) accept(rule *compiled, from *item, v any, limit int) (item, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return item{}, &Error{Rule: rule.ID(), Reason: NotAnObject, Message: "returned something that is not an object"}
	}
	if identical(from.value, v) {
		return *from, nil
	}
	fail := func(reason Reason, message string) (item, error) {
		return item{}, &Error{Rule: rule.ID(), Reason: reason, Message: message}
	}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	if apiVersion != r.apiVersion || kind != r.kindName {
		return fail(KindChanged, "returned an object of another apiVersion or kind")
	}
	meta, _ := object["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	switch {
	case name == "":
		return fail(Unnamed, "returned an object without a name")
	case r.namespaced && namespace == "":
		return fail(Unnamed, "returned an object without a namespace")
	case !r.namespaced && namespace != "":
		return fail(Unnamed, "returned an object with a namespace, for one that had none")
	case namespace != r.namespace && r.protected(namespace):
		return fail(ProtectedNamespace, "moves the object into a protected namespace")
	case r.kind == namespaces && name != r.name && r.protected(name):
		return fail(ProtectedNamespace, "makes the namespace a protected one")
	}
	body, err := splice(from.facts.body, from.value, v, limit)
	if err != nil {
		return item{}, err
	}
	return item{facts: facts{kind: r.kind, body: body}, value: v, decoded: true}, nil
}
