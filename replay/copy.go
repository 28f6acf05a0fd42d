package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// plan is what a first copy has before it.
type plan struct {
	// puts counts the existing objects per wanted kind.
	puts map[pipeline.GroupResource]int64
	// tombstones are deleted last; they need no body, so they are kept from the survey.
	tombstones map[pipeline.Ref]pipeline.Record
	// gap: the log has lost records, so that nothing follows from what is not there.
	gap bool
}

// copy submits the current state, wave by wave, and returns the position to
// follow from: that of the history before anything was read.
func (r *Run) copy(ctx context.Context) (from pipeline.Position, err error) {
	state, err := r.s.History.State(ctx)
	if err != nil {
		return from, fmt.Errorf("begin first copy: %w", err)
	}
	from = state.Last
	r.ahead = map[pipeline.Ref]pipeline.Position{}
	r.unread = r.pump.ParkedRefs()
	r.takeDrift() // everything is looked at now
	r.copying(state)
	p, err := r.survey(ctx, from)
	if err != nil {
		return from, fmt.Errorf("survey current state: %w", err)
	}
	r.planned(p)
	r.s.Log.Info("first copy begins", telemetry.KeyReplication, r.s.Pump.Owner,
		telemetry.KeyEpoch, from.Epoch, telemetry.KeySequence, from.Seq, telemetry.KeyCount, p.total())

	r.s.Sink.Expect(ctx, slices.Concat(r.waves(p)...))
	// Which objects are selected may depend on the labels of all namespaces.
	if r.s.Sink.Wants(namespaces) {
		if err := r.read(ctx, namespaces, func(rec pipeline.Record) error {
			r.s.Sink.Observe(rec)
			return nil
		}); err != nil {
			return from, err
		}
	}
	waves := r.waves(p)
	for _, wave := range waves {
		for _, kind := range wave {
			if err := r.copyKind(ctx, kind, p, from); err != nil {
				return from, err
			}
		}
		if err := r.pump.Settle(ctx); err != nil {
			return from, err
		}
	}
	if r.s.Deletions != nil {
		if err := r.s.Deletions(ctx, p.tombstones); err != nil {
			return from, err
		}
	}
	if err := r.bury(ctx, p, from); err != nil {
		return from, err
	}
	if p.gap {
		return from, nil
	}
	for ref := range r.unread { // no longer selected, or released
		if err := r.pump.Drop(ctx, ref); err != nil {
			return from, err
		}
	}
	return from, nil
}

// survey learns which kinds there are and what is deleted, from headers alone.
func (r *Run) survey(ctx context.Context, from pipeline.Position) (plan, error) {
	p := plan{puts: map[pipeline.GroupResource]int64{}, tombstones: map[pipeline.Ref]pipeline.Record{}}
	for rec, err := range r.s.History.Current(ctx, pipeline.Query{HeadersOnly: true}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
			if _, err := r.submit(ctx, pipeline.Delivery{Record: rec, Invalid: err}, from); err != nil {
				return p, err
			}
			continue
		case errors.Is(err, pipeline.ErrGap):
			// Nothing follows from what is missing, and what there is must not wait for it: the
			// source may be lost. A new epoch will say the rest.
			r.s.Log.Error("the log has lost records, copying what it has", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyError, err)
			p.gap = true
			return p, nil
		case err != nil:
			return p, err
		}
		p.add(rec, r.s.Sink.Wants(rec.Ref.GroupResource()))
		if rec.Op == pipeline.OpHeartbeat {
			r.heard(rec.Stored, false)
		}
	}
	return p, nil
}

// add takes up a record, which may be newer than an earlier one of its Ref.
func (p plan) add(rec pipeline.Record, wanted bool) {
	if !wanted {
		return
	}
	switch rec.Op {
	case pipeline.OpPut:
		p.puts[rec.Ref.GroupResource()]++
		delete(p.tombstones, rec.Ref)
	case pipeline.OpDelete:
		p.tombstones[rec.Ref] = rec
	case pipeline.OpRelease:
		delete(p.tombstones, rec.Ref)
	case pipeline.OpHeartbeat:
	}
}

func (p plan) total() int64 {
	var n int64
	for _, k := range p.puts {
		n += k
	}
	return n
}

// waves groups the kinds that have objects, in the order of the copy.
func (r *Run) waves(p plan) [][]pipeline.GroupResource {
	return r.group(slices.Collect(maps.Keys(p.puts)))
}

func (r *Run) group(kinds []pipeline.GroupResource) [][]pipeline.GroupResource {
	byWave := map[int][]pipeline.GroupResource{}
	for _, k := range kinds {
		w := r.s.Waves(k)
		byWave[w] = append(byWave[w], k)
	}
	var out [][]pipeline.GroupResource
	for _, w := range slices.Sorted(maps.Keys(byWave)) {
		slices.SortFunc(byWave[w], func(a, b pipeline.GroupResource) int { return strings.Compare(a.String(), b.String()) })
		out = append(out, byWave[w])
	}
	return out
}

// copyKind submits the objects of one kind.
func (r *Run) copyKind(ctx context.Context, kind pipeline.GroupResource, p plan, from pipeline.Position) error {
	defer r.copied(kind)
	return r.read(ctx, kind, func(rec pipeline.Record) error {
		switch rec.Op {
		case pipeline.OpPut:
			delete(p.tombstones, rec.Ref)
			r.took(kind)
			_, err := r.submit(ctx, pipeline.Delivery{Record: rec}, from)
			return err
		case pipeline.OpDelete:
			p.tombstones[rec.Ref] = rec
		case pipeline.OpRelease:
			delete(p.tombstones, rec.Ref)
		case pipeline.OpHeartbeat:
		}
		return nil
	})
}

// bury submits the tombstones, in the reverse order of the copy.
func (r *Run) bury(ctx context.Context, p plan, from pipeline.Position) error {
	byKind := map[pipeline.GroupResource][]pipeline.Record{}
	for _, rec := range p.tombstones {
		k := rec.Ref.GroupResource()
		byKind[k] = append(byKind[k], rec)
	}
	waves := r.group(slices.Collect(maps.Keys(byKind)))
	slices.Reverse(waves)
	for _, wave := range waves {
		for _, kind := range wave {
			for _, rec := range byKind[kind] {
				if _, err := r.submit(ctx, pipeline.Delivery{Record: rec}, from); err != nil {
					return err
				}
			}
		}
		if err := r.pump.Settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// read passes the current records of one kind to take. What is not ours, or
// missing, was told in the survey.
func (r *Run) read(ctx context.Context, kind pipeline.GroupResource, take func(pipeline.Record) error) error {
	for rec, err := range r.s.History.Current(ctx, pipeline.Query{Kind: &kind}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign), errors.Is(err, pipeline.ErrGap):
			continue
		case err != nil:
			return fmt.Errorf("read current %s: %w", kind, err)
		}
		if err := take(rec); err != nil {
			return fmt.Errorf("copy %s: %w", kind, err)
		}
	}
	return nil
}
