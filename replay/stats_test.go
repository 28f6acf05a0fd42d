package replay

import (
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestStatsTellTheLag(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	at := func(seq uint64) pipeline.Position { return pipeline.Position{Epoch: "E", Seq: seq} }
	cases := map[string]struct {
		state    state
		pump     pipeline.Stats
		events   int64
		lag      time.Duration
		position pipeline.Position
	}{
		"nothing known": {},
		"first copy": {
			state:  state{last: at(100), unread: map[pipeline.GroupResource]int64{{Resource: "a"}: 7, {Resource: "b"}: 2}},
			pump:   pipeline.Stats{Pending: 3, OldestStored: ago(time.Minute), Seen: at(50), Settled: at(4)},
			events: 12, lag: time.Minute,
		},
		"in step": {
			state:    state{copied: true, last: at(9), at: at(9), stored: ago(time.Hour), heard: ago(time.Second)},
			pump:     pipeline.Stats{Seen: at(9), Settled: at(9)},
			position: at(9),
		},
		"in work": {
			state:  state{copied: true, last: at(9), at: at(9), heard: ago(time.Hour)},
			pump:   pipeline.Stats{Pending: 1, Retrying: 1, OldestStored: ago(3 * time.Second), Seen: at(9), Settled: at(4)},
			events: 2, lag: 3 * time.Second, position: at(4),
		},
		"log ahead": {
			state:  state{copied: true, last: at(20), at: at(9), stored: ago(2 * time.Second), heard: now},
			pump:   pipeline.Stats{Seen: at(9), Settled: at(9)},
			events: 11, lag: 2 * time.Second, position: at(9),
		},
		"source silent": {
			state:    state{copied: true, last: at(9), at: at(9), heard: ago(time.Minute), interval: 3 * time.Second},
			lag:      57 * time.Second,
			position: at(9),
		},
		"source silent, interval unknown": {
			state:    state{copied: true, last: at(9), at: at(9), heard: ago(time.Minute)},
			lag:      time.Minute - defaultInterval,
			position: at(9),
		},
		"newer epoch not read yet": {
			state:    state{copied: true, last: pipeline.Position{Epoch: "F", Seq: 3}, at: at(9), heard: now},
			position: at(9),
		},
		"clock behind the log's": {
			state:  state{copied: true, last: at(9), at: at(9), heard: now},
			pump:   pipeline.Stats{Pending: 1, OldestStored: now.Add(time.Second), Settled: at(9)},
			events: 1, position: at(9),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := c.state.stats(c.pump, now)
			if got.LagEvents != c.events || got.Lag != c.lag || got.Position != c.position {
				t.Errorf("lag is %d events, %s at %s; want %d, %s at %s", got.LagEvents, got.Lag, got.Position, c.events, c.lag, c.position)
			}
		})
	}
}

func TestRepairIsPaced(t *testing.T) {
	p := newRepair()
	defer p.stop()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var total time.Duration
	for range 20 {
		p.arm(now)
		p.arm(now)
		total += p.delay
		now = now.Add(p.delay)
		p.fired(now)
	}
	if p.delay != maxRepairDelay || total < 5*maxRepairDelay {
		t.Errorf("after 20 repairs in a row the delay is %s, want %s", p.delay, maxRepairDelay)
	}
	now = now.Add(repairQuiet + 1)
	p.arm(now)
	if p.delay != repairDelay {
		t.Errorf("after a quiet time the delay is %s, want %s", p.delay, repairDelay)
	}
}
