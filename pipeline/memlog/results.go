package memlog

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

type results struct {
	log  *Log
	dest string
}

// runKey names a run into a destination.
type runKey struct{ dest, run string }

// Results keeps the results of the runs into one destination.
func (l *Log) Results(dest string) pipeline.Results { return results{log: l, dest: dest} }

// Add implements pipeline.Results.
func (r results) Add(ctx context.Context, run string, added []pipeline.ObjectResult) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("add results of run %q: %w", run, err)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	key := runKey{r.dest, run}
	r.log.results[key] = append(r.log.results[key], added...)
	return nil
}

// List implements pipeline.Results: it yields those there are at the call.
func (r results) List(ctx context.Context, run string) iter.Seq2[pipeline.ObjectResult, error] {
	return func(yield func(pipeline.ObjectResult, error) bool) {
		r.log.mu.Lock()
		all := slices.Clone(r.log.results[runKey{r.dest, run}])
		r.log.mu.Unlock()
		for _, one := range all {
			if err := ctx.Err(); err != nil {
				yield(pipeline.ObjectResult{}, fmt.Errorf("list results of run %q: %w", run, err))
				return
			}
			if !yield(one, nil) {
				return
			}
		}
	}
}

// Runs implements pipeline.Results.
func (r results) Runs(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list the runs with results: %w", err)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	var runs []string
	for key, all := range r.log.results {
		if key.dest == r.dest && len(all) > 0 {
			runs = append(runs, key.run)
		}
	}
	slices.Sort(runs)
	return runs, nil
}

// Remove implements pipeline.Results.
func (r results) Remove(ctx context.Context, run string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("remove results of run %q: %w", run, err)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	delete(r.log.results, runKey{r.dest, run})
	return nil
}
