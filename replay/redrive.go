package replay

import (
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// How soon what is parked is tried again, and how seldom while nothing helps.
const (
	redriveDelay    = time.Minute
	maxRedriveDelay = 30 * time.Minute
	// maxTransientDelay holds while something is parked that may pass by itself.
	maxTransientDelay = 2 * time.Minute
	// redrivePause is the least time from one try to the next.
	redrivePause = 10 * time.Second
)

// redrive paces the retrying of what is parked: a minute after something was, then
// ever later, and soon when something has changed for the better.
type redrive struct {
	timer *time.Timer
	due   time.Time // zero while there is nothing to do
	delay time.Duration
	last  time.Time
	total uint64 // of records ever parked, when last told
}

func newRedrive() *redrive {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &redrive{timer: t, delay: redriveDelay}
}

// parked is told how many records were ever parked: if there are new ones the
// delays begin anew.
func (p *redrive) parked(now time.Time, total uint64) {
	if total == p.total && !p.due.IsZero() {
		return
	}
	p.total, p.delay = total, redriveDelay
	p.at(now, now.Add(pipeline.Jittered(p.delay)))
}

// soon has the next try made as soon as the pace allows.
func (p *redrive) soon(now time.Time) {
	due := now.Add(repairDelay)
	if earliest := p.last.Add(redrivePause); due.Before(earliest) {
		due = earliest
	}
	p.at(now, due)
}

// fired is told that a try is made, how long the next may be put off at most, and
// whether there is to be one.
func (p *redrive) fired(now time.Time, longest time.Duration, more bool) {
	p.last, p.due = now, time.Time{}
	if !more {
		return
	}
	p.delay = min(2*p.delay, longest)
	p.at(now, now.Add(pipeline.Jittered(p.delay)))
}

// at sets the next try, unless there is an earlier one.
func (p *redrive) at(now, due time.Time) {
	if p.due.IsZero() || due.Before(p.due) {
		p.due = due
		p.timer.Reset(due.Sub(now))
	}
}

func (p *redrive) stop() { p.timer.Stop() }
