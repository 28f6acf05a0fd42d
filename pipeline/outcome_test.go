package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestDecide(t *testing.T) {
	failure := errors.New("refused")
	with := func(c pipeline.Class) error { return fmt.Errorf("apply: %w", pipeline.WithClass(c, failure)) }
	cases := map[string]struct {
		err      error
		attempts int
		want     pipeline.Action
	}{
		"success":                   {nil, 1, pipeline.Done},
		"success at the last":       {nil, 5, pipeline.Done},
		"unclassified":              {failure, 1, pipeline.Retry},
		"transient":                 {with(pipeline.Transient), 4, pipeline.Retry},
		"transient, budget spent":   {with(pipeline.Transient), 5, pipeline.Park},
		"dependency":                {with(pipeline.Dependency), 4, pipeline.Retry},
		"dependency, budget spent":  {with(pipeline.Dependency), 5, pipeline.Park},
		"forbidden":                 {with(pipeline.Forbidden), 4, pipeline.Retry},
		"forbidden, budget spent":   {with(pipeline.Forbidden), 5, pipeline.Park},
		"unreachable":               {pipeline.WithClass(pipeline.Transient, fmt.Errorf("%w: refused", pipeline.ErrUnreachable)), 500, pipeline.Retry},
		"invalid":                   {with(pipeline.Invalid), 1, pipeline.Park},
		"immutable":                 {with(pipeline.Immutable), 1, pipeline.Park},
		"foreign":                   {with(pipeline.Foreign), 1, pipeline.Park},
		"malformed":                 {with(pipeline.Malformed), 1, pipeline.Park},
		"unknown class":             {with(pipeline.Class(99)), 1, pipeline.Park},
		"canceled":                  {fmt.Errorf("get: %w", context.Canceled), 1, pipeline.Abandon},
		"canceled, though marked":   {pipeline.WithClass(pipeline.Invalid, context.Canceled), 9, pipeline.Abandon},
		"timed out":                 {context.DeadlineExceeded, 1, pipeline.Retry},
		"timed out, budget spent":   {context.DeadlineExceeded, 5, pipeline.Park},
		"beyond the budget":         {failure, 6, pipeline.Park},
		"the outermost mark counts": {pipeline.WithClass(pipeline.Transient, with(pipeline.Invalid)), 1, pipeline.Retry},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := pipeline.Decide(tc.err, tc.attempts, 5); got != tc.want {
				t.Errorf("Decide(%v, %d, 5) = %d, want %d", tc.err, tc.attempts, got, tc.want)
			}
		})
	}
}

func TestClass(t *testing.T) {
	failure := errors.New("refused")
	for c := pipeline.Transient; c <= pipeline.Malformed; c++ {
		err := pipeline.WithClass(c, failure)
		if got := pipeline.ClassOf(err); got != c || !errors.Is(err, failure) || err.Error() != failure.Error() {
			t.Errorf("class %s: %s, %v", c, got, err)
		}
		text, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back pipeline.Class
		if err := back.UnmarshalText(text); err != nil || back != c {
			t.Errorf("%q is read as %s, %v", text, back, err)
		}
	}
	if err := pipeline.WithClass(pipeline.Invalid, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	var c pipeline.Class
	for _, text := range []string{"", "transient", "Class(99)"} {
		if err := c.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %s", text, c)
		}
	}
}

func TestOpText(t *testing.T) {
	for op := pipeline.Op(0); op <= pipeline.OpHeartbeat; op++ {
		text, err := op.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		back := pipeline.Op(77)
		if err := back.UnmarshalText(text); err != nil || back != op {
			t.Errorf("%q is read as %s, %v", text, back, err)
		}
	}
	var op pipeline.Op
	for _, text := range []string{"PUT", "Op(0)", "rename"} {
		if err := op.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %s", text, op)
		}
	}
}
