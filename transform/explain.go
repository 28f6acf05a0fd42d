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
	place := 0
	unmatched := func(upTo int, body []byte) {
		for ; place < upTo; place++ {
			f := facts{kind: o.Kind, body: body}
			rule := &s.rules[place]
			x.Steps = append(x.Steps, Step{Rule: rule.ID(), Skipped: rule.Match.why(o.Kind, &f)})
		}
	}
	var failed error
	r := run{set: s, env: &env, index: s.index(o.Kind), kind: o.Kind, again: true}
	r.trace = func(st step) {
		at := s.place(st.rule)
		unmatched(at, st.before)
		place = max(place, at+1)
		one := Step{Rule: st.rule.ID(), Err: st.err}
		if st.err != nil {
			one.Err = r.failure(st.rule, st.err)
		}
		if st.unmet {
			one.Skipped = "its condition is not met: " + strings.TrimSpace(st.rule.Match.When)
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
	last := o.Body
	if len(x.Result.Objects) > 0 {
		last = x.Result.Objects[len(x.Result.Objects)-1].Body
	}
	if x.Err == nil && len(x.Result.Objects) > 0 {
		unmatched(len(s.rules), last)
	}
	if failed != nil {
		return x, fmt.Errorf("explain rules: %w", failed)
	}
	return x, nil
}

// place is where a rule stands in the set.
func (s *Set) place(rule *compiled) int {
	for i := range s.rules {
		if &s.rules[i] == rule {
			return i
		}
	}
	return -1
}
