package replay

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is a sequence of moments in a time zone. It is a value: its methods depend on
// nothing else and may be called at once.
//
// A schedule that names hours, as 2, 1-3 or */6 do, goes by the clock on the wall: what falls into
// the hour that is left out in spring happens when that hour would have begun, and what falls into
// the hour that comes twice in autumn happens the first time only. One that is for every hour, as *
// and @hourly are, goes by the time that passes: whenever the clock shows such a minute.
type Schedule struct {
	// moments are asked about times of UTC only, where no hour is left out and none comes twice.
	moments cron.Schedule
	zone    *time.Location
	follow  func(s Schedule, t time.Time) time.Time
}

// allHours are the bits of the hours in a cron line that is for every one.
const allHours = 1<<24 - 1

// ParseSchedule reads a cron line of five fields, or a macro such as @daily, for a zone by its
// IANA name; an empty one is UTC.
func ParseSchedule(line, zone string) (Schedule, error) {
	if strings.Contains(line, "TZ=") {
		return Schedule{}, fmt.Errorf("schedule %q names a time zone: give it as timeZone", line)
	}
	if zone == "Local" {
		return Schedule{}, errors.New(`time zone "Local" is whatever the process is set to: name one, such as Europe/Berlin`)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return Schedule{}, fmt.Errorf("time zone %q is not known: use a name such as Europe/Berlin or UTC", zone)
	}
	moments, err := cron.ParseStandard(line)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q cannot be read: %w: write minute, hour, day of month, month and day of week, such as \"30 2 * * *\"", line, err)
	}
	if every, ok := moments.(cron.ConstantDelaySchedule); ok && every.Delay < time.Minute {
		return Schedule{}, fmt.Errorf("schedule %q is for more than once a minute", line)
	}
	s := Schedule{moments: moments, zone: location, follow: Schedule.interval}
	if spec, ok := moments.(*cron.SpecSchedule); ok {
		if s.follow = Schedule.wall; spec.Hour&allHours == allHours {
			s.follow = Schedule.passing
		}
	}
	if s.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q never comes: there is no such day", line)
	}
	return s, nil
}

// Next is the first moment after t, zero if there is none within five years.
func (s Schedule) Next(t time.Time) time.Time { return s.follow(s, t) }

// interval is Next of one that repeats after a while, whatever the clock shows.
func (s Schedule) interval(t time.Time) time.Time { return s.moments.Next(t.In(s.zone)) }

// passing is Next of one for every hour. Between two changes of the clock it goes as evenly as in UTC.
func (s Schedule) passing(t time.Time) time.Time {
	t = t.In(s.zone)
	for on := onWall(t, time.UTC); ; {
		next := s.moments.Next(on)
		if next.IsZero() {
			return next
		}
		_, end := t.ZoneBounds()
		_, offset := t.Zone()
		at := next.Add(-time.Duration(offset) * time.Second).In(s.zone)
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = end
		on = onWall(t, time.UTC).Add(-time.Nanosecond) // end itself may be a moment
	}
}

// wall is Next of one that names hours.
func (s Schedule) wall(t time.Time) time.Time {
	on := onWall(t.In(s.zone), time.UTC)
	for {
		if on = s.moments.Next(on); on.IsZero() {
			return on
		}
		if at := s.instant(on); at.After(t) {
			return at
		}
	}
}

// onWall is what a clock shows at t, as a time of another zone.
func onWall(t time.Time, zone *time.Location) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
}

// instant is the first time that the clock in the zone shows what on shows; if it never does,
// the moment at which it leaps over it.
func (s Schedule) instant(on time.Time) time.Time {
	at := onWall(on, s.zone)
	begin, end := at.ZoneBounds()
	switch shown := onWall(at, time.UTC); {
	case shown.After(on):
		return begin // at was taken by the offset before the leap
	case shown.Before(on):
		return end // at was taken by the offset behind it
	}
	if begin.IsZero() {
		return at
	}
	// Was it shown before, by the clock as it was set then?
	_, now := at.Zone()
	_, before := begin.Add(-time.Nanosecond).Zone()
	if earlier := at.Add(time.Duration(now-before) * time.Second); earlier.Before(begin) && before > now {
		return earlier
	}
	return at
}

// latest is the last moment in (after, until], zero if there is none.
func (s Schedule) latest(after, until time.Time) time.Time {
	found := time.Time{}
	// Next(t) <= until holds up to the last moment and not from there on.
	low, high := after, until
	for {
		next := s.Next(low)
		if next.IsZero() || next.After(until) {
			return found
		}
		found, low = next, next
		for high.Sub(low) > time.Second {
			middle := low.Add(high.Sub(low) / 2)
			next := s.Next(middle)
			if next.IsZero() || next.After(until) {
				high = middle
				continue
			}
			found, low = next, next
		}
	}
}

// MaxMissed is how far missed moments are counted.
const MaxMissed = 100

// Clock is what a decision about a schedule depends on, beside the schedule.
type Clock struct {
	Now time.Time
	// Through is the moment up to which everything was dealt with: that of the last run, or
	// when the schedule was first seen.
	Through time.Time
	// Deadline is how late a run may begin; 0 is without end.
	Deadline time.Duration
	// Running says that a run is under way: no other begins beside it.
	Running bool
	// Suspended says that none is to begin.
	Suspended bool
}

// Tick is a decision about a schedule.
type Tick struct {
	// Run is the moment whose run is to begin now; zero if none is.
	Run time.Time
	// Missed counts the moments that go by without a run of their own, up to MaxMissed.
	Missed int
	// Through replaces the Clock's, once the decision has been carried out.
	Through time.Time
	// Look is when to decide again if nothing else happens before; zero for not at all.
	Look time.Time
}

// Step decides what is due. Of the moments that went by since Through, the newest is run, if it
// is not too late for it, and all others are missed. While a run is under way or the schedule is
// suspended nothing is decided about what went by: that comes afterwards.
//
// Deciding again without carrying out the decision gives it again.
func (s Schedule) Step(c Clock) Tick {
	if c.Suspended || c.Running {
		return Tick{Through: c.Through}
	}
	newest := s.latest(c.Through, c.Now)
	if newest.IsZero() {
		return Tick{Through: c.Through, Look: s.Next(c.Through)}
	}
	t := Tick{Through: newest, Look: s.Next(newest)}
	for at := s.Next(c.Through); at.Before(newest) && t.Missed < MaxMissed; at = s.Next(at) {
		t.Missed++
	}
	if c.Deadline > 0 && c.Now.Sub(newest) > c.Deadline {
		t.Missed = min(t.Missed+1, MaxMissed)
		return t
	}
	t.Run = newest
	return t
}
