package transform_test

import (
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/transform"
)

// TestWaitingIsNoWork: a rule that had to wait for the processor is not slow.
func TestWaitingIsNoWork(t *testing.T) {
	limits := transform.Limits{Time: 20 * time.Millisecond}
	set, err := transform.Compile(nil, transform.Options{Limits: limits, Rules: []transform.Rule{
		{Name: "first", JQ: `last(range(2000)) as $_ | .metadata.namespace = "elsewhere"`},
		{Name: "second", JQ: `last(range(2000)) as $_ | .`},
	}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	wait := func(string) bool {
		<-time.After(5 * limits.Time)
		return false
	}
	if _, err := set.Run(t.Context(), transform.Env{Protected: wait}, deployment(t)); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 5*limits.Time {
		t.Errorf("took %v: this shows nothing", took)
	}
}
