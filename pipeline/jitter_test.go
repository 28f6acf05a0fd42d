package pipeline_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestJittered(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "d"))
		if got := pipeline.Jittered(d); got < d-d/5-1 || got > d+d/5+1 {
			t.Errorf("%s became %s", d, got)
		}
	})
	seen := map[time.Duration]bool{}
	for range 20 {
		seen[pipeline.Jittered(time.Minute)] = true
	}
	if len(seen) < 2 {
		t.Error("always the same")
	}
}
