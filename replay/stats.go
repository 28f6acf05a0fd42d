package replay

import (
	"errors"
	"maps"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Phase says what a run is doing.
type Phase string

const (
	// Waiting: the source's history is not there, or cannot be read; Stats.Err says which.
	Waiting Phase = "Waiting"
	// Copying: the current state is being brought over.
	Copying Phase = "Copying"
	// Replicating: every change is applied as it comes.
	Replicating Phase = "Replicating"
)

// Stats is how a run stands.
type Stats struct {
	Phase Phase
	// SourceKnown is false while the log holds no history of the site.
	SourceKnown bool
	// Err is why the run waits. While it works it is nil, but of a run that began anew
	// several times in a row: then it is why it last did, until it has followed the
	// history for a minute.
	Err error
	// Position is the place in the history through which everything is settled; zero until the
	// first copy is made.
	Position pipeline.Position
	// LagEvents counts records that are not settled yet: in the log, unread of the first copy, or in work.
	LagEvents int64
	// Lag is the age of the oldest of them; without any, the time since the source was last
	// heard of in excess of its heartbeat interval.
	Lag time.Duration
	// Heard is when the source was last heard of, zero if never.
	Heard time.Time
	// Unread counts, per kind, what the first copy has still to read.
	Unread map[pipeline.GroupResource]int64
	// Pump is how the work stands; with it come last result, last error, heartbeat and parked records.
	Pump pipeline.Stats
}

// state is the part of Stats that the run keeps, guarded by Run.mu.
type state struct {
	phase     Phase
	known     bool
	err       error
	last      pipeline.Position // of the history, when it was last asked
	at        pipeline.Position // through which the history was followed
	stored    time.Time         // of the record at that position
	copied    bool              // a first copy was made: positions mean something
	liveFrom  pipeline.Position // records after it are changes as they come
	unread    map[pipeline.GroupResource]int64
	bunched   int               // deletions that wait for others
	behind    pipeline.Position // the place before the first of them
	failures  int               // in a row
	since     time.Time         // when following began
	heard     time.Time
	heartbeat time.Time     // of the source's clock
	interval  time.Duration // between heartbeats
}

// The interval of heartbeats until two were seen, and its bounds.
const (
	defaultInterval = 5 * time.Second
	maxInterval     = time.Minute
)

// Stats returns how the run stands now. Its cost depends on the number of kinds only.
func (r *Run) Stats() Stats {
	p := r.pump.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.stats(p, time.Now())
}

func (s *state) stats(p pipeline.Stats, now time.Time) Stats {
	out := Stats{Phase: s.phase, SourceKnown: s.known, Err: s.err, Heard: s.heard, Unread: maps.Clone(s.unread), Pump: p}
	if s.phase != Waiting && (s.failures < patience || s.steady(now)) {
		out.Err = nil
	}
	held := int64(p.Pending + p.Retrying + s.bunched)
	behind := int64(0)
	if s.copied {
		out.Position = s.at
		if held > 0 && p.Settled.Compare(s.at) < 0 {
			out.Position = p.Settled
		}
		if s.bunched > 0 && s.behind.Compare(out.Position) < 0 {
			out.Position = s.behind
		}
		if s.last.Epoch == s.at.Epoch && s.last.Seq > s.at.Seq {
			behind = int64(s.last.Seq - s.at.Seq) //nolint:gosec // sequences stay far below 2^63
		}
	}
	out.LagEvents = held + behind
	for _, n := range s.unread {
		out.LagEvents += n
	}
	switch {
	case held > 0 && !p.OldestStored.IsZero():
		out.Lag = now.Sub(p.OldestStored)
	case behind > 0 && !s.stored.IsZero():
		out.Lag = now.Sub(s.stored)
	case !s.heard.IsZero():
		interval := s.interval
		if interval == 0 {
			interval = defaultInterval
		}
		out.Lag = now.Sub(s.heard) - interval
	}
	out.Lag = max(out.Lag, 0)
	return out
}

// steady reports that the history has been followed for long enough.
func (s *state) steady(now time.Time) bool {
	return s.phase == Replicating && now.Sub(s.since) >= steady
}

// copying begins a first copy.
func (r *Run) copying(st pipeline.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.phase, r.state.known, r.state.last = Copying, true, st.Last
	clear(r.state.unread)
}

func (r *Run) planned(p plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.state.unread, p.puts)
}

// took counts one record of the first copy as read; copied that its kind is done.
func (r *Run) took(k pipeline.GroupResource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.unread[k] > 0 {
		r.state.unread[k]--
	}
}

func (r *Run) copied(k pipeline.GroupResource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.state.unread, k)
}

// replicating begins to follow.
func (r *Run) replicating(from pipeline.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.phase, r.state.since, r.state.copied = Replicating, time.Now(), true
	r.state.at, r.state.liveFrom = from, from
	clear(r.state.unread)
	r.pump.Settled(from)
}

// followed learns of a record of the history.
func (r *Run) followed(d pipeline.Delivery) {
	if d.Op == pipeline.OpHeartbeat && d.Invalid == nil {
		r.heard(d.Observed, true)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.Position.Compare(r.state.at) > 0 {
		r.state.at, r.state.stored = d.Position, d.Stored
	}
	if d.Position.Compare(r.state.last) > 0 {
		r.state.last = d.Position
	}
}

// heard learns of a heartbeat: when it was stored, or, if it has come just now, what
// the source's clock said.
func (r *Run) heard(at time.Time, now bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.state
	if !now {
		if at.After(s.heard) {
			s.heard = at
		}
		return
	}
	if gap := at.Sub(s.heartbeat); !s.heartbeat.IsZero() && gap > 0 {
		s.interval = min(gap, maxInterval)
	}
	s.heartbeat, s.heard = at, time.Now()
}

// polled learns where the history ends.
func (r *Run) polled(st pipeline.State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, pipeline.ErrNoHistory):
		r.state.known = false
	case err == nil:
		r.state.known, r.state.last = true, st.Last
	}
}

// ended learns why a run has to begin anew, and reports that it was steady before.
func (r *Run) ended(err error) (steady bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if steady = r.state.steady(time.Now()); steady {
		r.state.failures = 0
	}
	if errors.Is(err, errAnew) {
		return steady
	}
	r.state.phase, r.state.err = Waiting, err
	r.state.failures++
	if errors.Is(err, pipeline.ErrNoHistory) {
		r.state.known, r.state.failures = false, 0
	}
	return steady
}

// live reports whether a record came while the history was being followed.
func (r *Run) live(p pipeline.Position) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.copied && p.Compare(r.state.liveFrom) > 0
}

// position is through where the history was followed.
func (r *Run) position() pipeline.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.at
}
