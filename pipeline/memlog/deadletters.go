package memlog

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

type deadKey struct {
	owner string
	ref   pipeline.Ref
}

type deadLetters struct {
	log  *Log
	dest string
}

// DeadLetters keeps the parked events of one destination.
func (l *Log) DeadLetters(dest string) pipeline.DeadLetters { return deadLetters{log: l, dest: dest} }

// Park implements pipeline.DeadLetters.
func (d deadLetters) Park(ctx context.Context, letter pipeline.DeadLetter) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("park %s: %w", letter.Ref, err)
	}
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	if d.log.dead[d.dest] == nil {
		d.log.dead[d.dest] = map[deadKey]pipeline.DeadLetter{}
	}
	d.log.dead[d.dest][deadKey{letter.Owner, letter.Ref}] = letter
	return nil
}

// Remove implements pipeline.DeadLetters.
func (d deadLetters) Remove(ctx context.Context, owner string, ref pipeline.Ref) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("remove dead letter of %s: %w", ref, err)
	}
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	delete(d.log.dead[d.dest], deadKey{owner, ref})
	return nil
}

// List implements pipeline.DeadLetters: it yields the state at the call, by
// owner and Ref.
func (d deadLetters) List(ctx context.Context, owner string) iter.Seq2[pipeline.DeadLetter, error] {
	return func(yield func(pipeline.DeadLetter, error) bool) {
		d.log.mu.Lock()
		letters := slices.Collect(maps.Values(d.log.dead[d.dest]))
		d.log.mu.Unlock()
		slices.SortFunc(letters, func(a, b pipeline.DeadLetter) int {
			return cmp.Or(cmp.Compare(a.Owner, b.Owner), a.Ref.Compare(b.Ref))
		})
		for _, letter := range letters {
			if err := ctx.Err(); err != nil {
				yield(pipeline.DeadLetter{}, fmt.Errorf("list dead letters: %w", err))
				return
			}
			if (owner == "" || letter.Owner == owner) && !yield(letter, nil) {
				return
			}
		}
	}
}
