package pipeline_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// TestPumpPacesHotObjects updates one object 50 times a second: it converges to
// the last version with as many writes as the pace allows, while an object at
// rest and other objects do not wait.
func TestPumpPacesHotObjects(t *testing.T) {
	cfg := config()
	cfg.Pace = 100 * time.Millisecond
	run(t, cfg, func(ctx context.Context, r *rig) {
		const updates = 100 // in two seconds
		for v := 1; v <= updates; v++ {
			r.submit(ctx, pipelinetest.Put(object("hot"), v))
			r.submit(ctx, pipelinetest.Put(object("other-"+strconv.Itoa(v)), v))
			synctest.Wait()
			if v == 1 && len(r.sink.Applied(object("hot"))) != 1 {
				t.Error("an object at rest was made to wait")
			}
			if n := len(r.sink.Applied(object("other-" + strconv.Itoa(v)))); n != 1 {
				t.Errorf("another object was applied %d times", n)
			}
			pass(20 * time.Millisecond)
		}
		r.settle(ctx)
		applied := r.sink.Applied(object("hot"))
		if n := len(applied); n < 15 || n > 22 {
			t.Errorf("%d writes in two seconds at a pace of ten a second", n)
		}
		if last := applied[len(applied)-1].Version; last != strconv.Itoa(updates) {
			t.Errorf("the last version applied is %s", last)
		}
		// It is at rest again.
		pass(time.Second)
		before := time.Now()
		r.submit(ctx, pipelinetest.Put(object("hot"), updates+1))
		r.settle(ctx)
		if waited := time.Since(before); waited > 0 {
			t.Errorf("an object at rest waited for %s", waited)
		}
		r.wantAllSettled()
	})
}
