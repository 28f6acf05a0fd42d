package replay_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestDifferences compares any two moments with what was.
func TestDifferences(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := memoryLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(seed, seed)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(400, 4)
	j.snapshot()
	j.newEpoch()
	j.travel(400, 4)
	for _, from := range j.moments {
		for _, to := range j.moments {
			got := map[pipeline.Ref][2]string{}
			for d, err := range l.past.Differences(t.Context(), from.at, to.at) {
				if err != nil {
					t.Fatal(err)
				}
				var pair [2]string
				if d.Before != nil {
					pair[0] = string(d.Before.Body)
				}
				if d.After != nil {
					pair[1] = string(d.After.Body)
				}
				got[d.Ref] = pair
			}
			want := map[pipeline.Ref][2]string{}
			for _, ref := range slices.Concat(slices.Collect(maps.Keys(from.state)), slices.Collect(maps.Keys(to.state))) {
				pair := [2]string{string(from.state[ref].Body), string(to.state[ref].Body)}
				if pair[0] != pair[1] && ref.Name != "" {
					want[ref] = pair
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("between %s and %s (-want +got):\n%s", from.at, to.at, diff)
			}
		}
	}
}

// TestVersions follows one object over epochs, snapshots and what retention has left.
func TestVersions(t *testing.T) {
	l := memoryLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(6, 6)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(600, 2)
	middle := j.snapshot()
	j.newEpoch()
	j.travel(600, 2)
	var ref pipeline.Ref
	for rec, err := range l.past.State(t.Context(), middle.Position, pipeline.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Op == pipeline.OpPut {
			ref = rec.Ref
		}
	}
	versions := func() []pipeline.Record {
		var list []pipeline.Record
		for rec, err := range l.past.Versions(t.Context(), ref) {
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, rec)
		}
		return list
	}
	all := versions()
	if len(all) < 4 || all[len(all)-1].Version != j.state[ref].Version {
		t.Fatalf("%d versions", len(all))
	}
	before := middle.Position
	before.Seq++
	if err := l.past.Archive.Trim(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	first := slices.IndexFunc(all, func(r pipeline.Record) bool { return r.Position.Compare(middle.Position) > 0 }) - 1
	left := versions()
	if diff := cmp.Diff(events(all[first:]), events(left)); diff != "" {
		t.Errorf("after retention (-before +after):\n%s", diff)
	}
}

func events(records []pipeline.Record) []pipeline.Event {
	var list []pipeline.Event
	for _, r := range records {
		list = append(list, r.Event)
	}
	return list
}
