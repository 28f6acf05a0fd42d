package replay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
	"github.com/dr-syncer/dr-syncer/replay"
)

// TestDeletionsComeTogether has deletions that come within a moment be told of together, before
// the first is made; everything else goes on meanwhile.
func TestDeletionsComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var events []pipeline.Event
		refs := pipelinetest.ConfigMap
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			events = append(events, pipelinetest.Put(refs("prod", name), 1))
		}
		const stream = 30
		for i := range stream {
			events = append(events, pipelinetest.Put(refs("prod", fmt.Sprint("s", i)), 1))
		}
		b.append(events...)
		target := newTarget(t)
		s := b.settings(target)
		var mu sync.Mutex
		var bunches []int
		told := func() []int {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(bunches)
		}
		s.Deletions = func(_ context.Context, tombstones map[pipeline.Ref]pipeline.Record) error {
			for ref := range tombstones {
				if _, there := target.state()[ref]; !there {
					t.Errorf("%s was deleted before its bunch was told", ref)
				}
			}
			if len(tombstones) > 0 {
				mu.Lock()
				defer mu.Unlock()
				bunches = append(bunches, len(tombstones))
			}
			return nil
		}
		run, err := replay.Continuous(s)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run.Run(ctx) }()
		synctest.Wait()
		before := run.Stats().Position

		deletion := func(name string) pipeline.Event { return pipelinetest.Delete(refs("prod", name), 2) }
		b.append(deletion("a"))
		<-time.After(100 * time.Millisecond)
		b.append(deletion("b"), pipelinetest.Put(refs("prod", "f"), 1))
		synctest.Wait()
		if n := len(target.state()); n != 6+stream {
			t.Errorf("%d objects are there: the deletions do not wait, or what came after them does", n)
		}
		if st := run.Stats(); st.Position != before || st.LagEvents != 2 {
			t.Errorf("at %s with %d behind, though two deletions after %s wait", st.Position, st.LagEvents, before)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if n := len(target.state()); n != 4+stream {
			t.Errorf("%d objects are there, want 34", n)
		}

		// The same object again: its deletion waits no longer, and comes first.
		last := b.append(deletion("c"), pipelinetest.Put(refs("prod", "c"), 3))
		<-time.After(time.Second) // the pump spaces the changes of one object
		synctest.Wait()
		if n := len(target.state()); n != 4+stream {
			t.Errorf("%d objects are there, want 34: the put came before the deletion", n)
		}

		// A stream of deletions does not wait for its end.
		for i := range stream {
			b.append(deletion(fmt.Sprint("s", i)))
			<-time.After(150 * time.Millisecond)
		}
		if all := told(); len(all) < 3 || slices.Contains(all, stream) {
			t.Errorf("bunches of %v: they wait for an end that does not come", all)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if st := run.Stats(); st.Position.Compare(last) < 0 || st.LagEvents != 0 {
			t.Errorf("in the end at %s with %d behind", st.Position, st.LagEvents)
		}
		if all := told(); all[0] != 2 {
			t.Errorf("the first two did not come together: %v", all)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
