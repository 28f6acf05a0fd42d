package transform

import (
	"context"
	"fmt"
	"strings"
)

// Explanation tells what a Set does to an object, rule by rule.
type Explanation struct {
	Steps []Step
	// Result and Err are what Run returns.
	Result Result
	Err    error
}

// Step is one rule's part, in the order in which rules run. Of a rule that comes
// after one with several results there is a step for each of them.
type Step struct {
	Rule ID
	// Skipped says why the rule did not run, empty when it did.
	Skipped string
	// Outputs are the changes that each result of the rule has against what the
	// rule was given. A rule that ran without outputs dropped the object.
	Outputs [][]Change
	// Err is how it failed.
	Err error
}

// String is the explanation for people.
func (x Explanation) String() string {
	var b strings.Builder
	for _, s := range x.Steps {
		switch {
		case s.Skipped != "":
			fmt.Fprintf(&b, "%s: not for this object: %s\n", s.Rule, s.Skipped)
			continue
		case s.Err != nil:
			fmt.Fprintf(&b, "%s: failed: %v\n", s.Rule, s.Err)
			continue
		case len(s.Outputs) == 0:
			fmt.Fprintf(&b, "%s: dropped the object\n", s.Rule)
			continue
		case len(s.Outputs) > 1:
			fmt.Fprintf(&b, "%s: %d objects\n", s.Rule, len(s.Outputs))
		case len(s.Outputs[0]) == 0:
			fmt.Fprintf(&b, "%s: changed nothing\n", s.Rule)
		default:
			fmt.Fprintf(&b, "%s:\n", s.Rule)
		}
		for i, changes := range s.Outputs {
			if len(s.Outputs) > 1 {
				fmt.Fprintf(&b, "  object %d:\n", i+1)
			}
			for _, c := range changes {
				fmt.Fprintf(&b, "    %s\n", c)
			}
		}
	}
	return b.String()
}

// Explain runs a Set over an object and tells which rules matched, in what
// order, what each changed, and why the others did not match. It is for people:
// much slower than Run, and it shows what is in the object.
func Explain(ctx context.Context, s *Set, env Env, o Object) (Explanation, error) {
	var x Explanation
	var failed error
	r := run{set: s, env: &env, index: s.index(o.Kind), kind: o.Kind}
	r.trace = func(st step) {
		one := Step{Rule: st.rule.ID()}
		switch {
		case st.err != nil:
			one.Err = r.failure(st.rule, st.err)
		case st.unmet:
			one.Skipped = "its condition is not met: " + strings.TrimSpace(st.rule.Match.When)
		case st.unmatched:
			one.Skipped = st.rule.Match.why(o.Kind, &facts{kind: o.Kind, body: st.before})
		}
		for _, after := range st.after {
			changes, err := Changes(st.before, after)
			if err != nil && failed == nil {
				failed = err
			}
			one.Outputs = append(one.Outputs, changes)
		}
		x.Steps = append(x.Steps, one)
	}
	x.Result, x.Err = r.all(ctx, o)
	if failed != nil {
		return x, fmt.Errorf("explain rules: %w", failed)
	}
	return x, nil
}
