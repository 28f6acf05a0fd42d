package pipeline

import (
	"maps"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Stats is what a Pump has done and is doing.
type Stats struct {
	// Kinds holds every kind that has been seen.
	Kinds map[GroupResource]KindStats
	// Pending counts records held that have not failed, Retrying those that have.
	Pending, Retrying int
	// Bytes is what the held records occupy, roughly.
	Bytes int64
	// Parked counts the dead letters of the owner.
	Parked int
	// Results counts applied records by what the sink said.
	Results map[Result]uint64
	// Superseded counts records made superfluous by newer ones, Foreign messages
	// that were not ours, ParkedTotal records put into the dead letters, ParkedAgain
	// those that were there already and failed again.
	Superseded, Foreign, ParkedTotal, ParkedAgain uint64
	// Seen is the newest position submitted. Settled is the low watermark: nothing
	// before it is unsettled, of what was submitted. What Pump.Settled was told of
	// does not count.
	Seen, Settled Position
	// OldestStored is when the oldest unsettled record of them was stored; zero if there is none.
	OldestStored time.Time
	// Heartbeat is the newest one submitted.
	Heartbeat HeartbeatRecord
	// LastResult and LastError are the latest of their kind; their Ref is zero
	// before the first.
	LastResult LastResult
	LastError  LastError
	// LastParked is the record that was parked last, zero before the first.
	LastParked LastError
}

// KindStats is the part of Stats that concerns one kind.
type KindStats struct {
	// Pending counts records held that have not failed, Retrying those that have,
	// Parked the dead letters.
	Pending, Retrying, Parked int
	// Applied counts successes since the start, whatever the sink did.
	Applied uint64
}

// HeartbeatRecord is a Heartbeat and where it stands in the history.
type HeartbeatRecord struct {
	Heartbeat
	Position Position
	// Stored is when the log took it, by the log's clock.
	Stored time.Time
}

// LastResult is a record that was applied.
type LastResult struct {
	Ref      Ref
	Op       Op
	Position Position
	Result   Result
	Time     time.Time
	// Observed is when the collector learned of the change.
	Observed time.Time
}

// LastError is an attempt that failed.
type LastError struct {
	Ref      Ref
	Position Position
	Class    Class
	Message  string
	Attempts int
	Time     time.Time
}

// Stats returns how things stand now. Its cost depends on the number of kinds,
// not of records.
func (p *Pump) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{
		Kinds:   make(map[GroupResource]KindStats, len(p.lanes.kinds)),
		Pending: p.lanes.held - p.lanes.failed - p.lanes.redone, Retrying: p.lanes.failed,
		Bytes: p.lanes.bytes, Parked: len(p.letters), Results: maps.Clone(p.stats.results),
		Superseded: p.stats.superseded, Foreign: p.stats.foreign, ParkedTotal: p.stats.parked, ParkedAgain: p.stats.parkedAgain,
		Seen: p.stats.seen, LastParked: p.stats.lastParked,
		Heartbeat: p.stats.heartbeat, LastResult: p.stats.lastResult, LastError: p.stats.lastError,
	}
	for gr, k := range p.lanes.kinds {
		s.Kinds[gr] = KindStats{Pending: k.held - k.retrying - k.redone, Retrying: k.retrying, Parked: k.parked, Applied: k.applied}
	}
	s.Settled, s.OldestStored = p.settled()
	return s
}

// settled is the low watermark, and the age of the record there. p.mu is held.
func (p *Pump) settled() (Position, time.Time) {
	if p.lanes.unsettled.len() > 0 {
		first := p.lanes.unsettled.first()
		return first.Position, first.Stored
	}
	return p.stats.seen, time.Time{}
}

// sample is the gauge of records held.
func (p *Pump) sample() []telemetry.Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []telemetry.Sample{{
		Value: float64(p.lanes.held),
		Attrs: []telemetry.Attr{telemetry.String(telemetry.KeyReplication, p.cfg.Owner)},
	}}
}

// counters are the parts of Stats that are not to be had from the lanes. They
// are guarded by Pump.mu.
type counters struct {
	results                     map[Result]uint64
	superseded, foreign, parked uint64
	parkedAgain                 uint64
	seen                        Position
	heartbeat                   HeartbeatRecord
	lastResult                  LastResult
	lastError, lastParked       LastError
	floor                       *Position // see Pump.Settled
	foreignLog, letterLog       throttle
}

// kindCount counts the records of one kind.
type kindCount struct {
	held, retrying, parked, redone int
	applied                        uint64
}

func (c *counters) advance(p Position) {
	if p.Compare(c.seen) > 0 {
		c.seen = p
	}
}

func (c *counters) success(it *item, now time.Time) {
	if c.results == nil {
		c.results = map[Result]uint64{}
	}
	c.results[it.result]++
	it.lane.kind.applied++
	c.lastResult = LastResult{
		Ref: it.Ref, Op: it.Op, Position: it.Position, Result: it.result, Time: now, Observed: it.Observed,
	}
}

func (c *counters) failure(it *item, now time.Time) {
	if it.cause == nil {
		return // the record is applied: only its dead letter is left
	}
	c.lastError = it.lastError(now)
}

func (it *item) lastError(now time.Time) LastError {
	return LastError{
		Ref: it.Ref, Position: it.Position, Class: ClassOf(it.cause), Message: shorten(it.cause.Error(), it.early),
		Attempts: it.tries, Time: now,
	}
}

// letters are the dead letters that the owner is known to have.
type letters map[Ref]letter

// letter is what makes two dead letters the same.
type letter struct {
	position Position
	class    Class
	message  string
	first    time.Time
}

// note records a dead letter. p.mu is held.
func (p *Pump) note(d DeadLetter) {
	if _, parked := p.letters[d.Ref]; !parked {
		p.lanes.kind(d.Ref.GroupResource()).parked++
	}
	p.letters[d.Ref] = letter{position: d.Position, class: d.Class, message: d.Message, first: d.First}
}

// forget records that a dead letter was removed. p.mu is held.
func (p *Pump) forget(ref Ref) {
	if _, parked := p.letters[ref]; parked {
		p.lanes.kind(ref.GroupResource()).parked--
		delete(p.letters, ref)
	}
}

// throttle lets one message through now and then.
type throttle struct{ last time.Time }

// quiet is how long a throttled message is not repeated.
const quiet = 10 * time.Second

func (t *throttle) pass(now time.Time) bool {
	if !t.last.IsZero() && now.Sub(t.last) < quiet {
		return false
	}
	t.last = now
	return true
}
