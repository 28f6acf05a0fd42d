package control

import (
	"context"
	"iter"

	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
)

// selected is the part of a state of the past that a run may select, by kind and namespace: what
// belongs elsewhere is neither applied nor counted.
type selected struct {
	past    *replay.Past
	applier *apply.Applier
}

var _ replay.Frozen = selected{}

// State implements replay.Frozen.
func (s selected) State(ctx context.Context, at pipeline.Position, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		for rec, err := range s.past.State(ctx, at, q) {
			if err == nil && rec.Op != pipeline.OpHeartbeat && !s.applier.May(rec.Ref) {
				continue
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}
