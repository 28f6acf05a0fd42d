package replay_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/robfig/cron/v3"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/replay"
)

func schedule(t *testing.T, line, zone string) replay.Schedule {
	t.Helper()
	s, err := replay.ParseSchedule(line, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestScheduleNext(t *testing.T) {
	cases := map[string]struct {
		line, zone, from string
		want             []string
		reason           string
	}{
		"Daily":          {"30 2 * * *", "", "2026-01-01T02:30:00Z", []string{"2026-01-02T02:30:00Z", "2026-01-03T02:30:00Z"}, "a moment is not after itself"},
		"Zone":           {"0 3 * * *", "Asia/Tokyo", "2026-01-01T00:00:00Z", []string{"2026-01-01T18:00:00Z"}, "03:00 there is 18:00 the day before in UTC"},
		"HalfHourZone":   {"0 3 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", []string{"2026-01-01T21:30:00Z"}, "zones need not differ by whole hours"},
		"SpringInside":   {"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}, "02:30 is left out on the 29th: it runs as the clock leaps"},
		"SpringOnEdge":   {"0 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}, "02:00 is the first moment left out"},
		"SpringOnce":     {"0,30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}, "what is left out comes once, however much it is"},
		"AutumnOnce":     {"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}, "02:30 comes twice on the 25th and counts the first time"},
		"AutumnBetween":  {"50 2 * * *", "Europe/Berlin", "2026-10-25T01:20:00Z", []string{"2026-10-26T01:50:00Z"}, "in the repeated hour what has run does not run again"},
		"AutumnHourly":   {"30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}, "hourly is every hour that passes"},
		"SpringHourly":   {"30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", []string{"2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"}, "hourly is every hour that passes"},
		"NewYork":        {"30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", []string{"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}, "another continent leaps on another day"},
		"LordHowe":       {"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}, "there the clock leaps by half an hour"},
		"LordHoweEvery6": {"15 */6 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", []string{"2026-04-04T13:15:00Z", "2026-04-04T19:45:00Z", "2026-04-05T01:45:00Z"}, "*/6 names hours: 6:15 is 6:15, half an hour later than six hours after 0:15"},
		"LordHoweHourly": {"45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"}, "every hour whenever the clock shows :45, which it does twice"},
		"AutumnEvery1":   {"30 */1 * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"}, "*/1 is every hour"},
		"AutumnRange":    {"30 0-23 * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"}, "so is 0-23"},
		"AutumnEvery2":   {"30 */2 * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T03:30:00Z"}, "2:30 comes twice and counts once"},
		"SpringEvery2":   {"30 */2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T02:30:00Z"}, "2:30 is left out: it runs as the clock leaps"},
		"NoMidnight":     {"0 0 * * *", "Atlantic/Azores", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}, "there the hour after midnight is left out"},
		"Casablanca":     {"30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00:00Z", []string{"2026-02-15T01:30:00Z", "2026-02-16T02:30:00Z"}, "there the clock goes back for a month in spring"},
		"Troll":          {"30 2 * * *", "Antarctica/Troll", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}, "there the clock leaps by two hours"},
		"DayLeftOut":     {"0 12 30 12 *", "Pacific/Apia", "2010-12-31T00:00:00Z", []string{"2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"}, "Samoa left out a day: it counts as it is leapt over"},
		"LeapDay":        {"0 0 29 2 *", "", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}, "there is no 29 February before"},
		"Macro":          {"@daily", "Asia/Tokyo", "2026-01-01T00:00:00Z", []string{"2026-01-01T15:00:00Z"}, "macros follow the zone"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, now := schedule(t, c.line, c.zone), at(t, c.from)
			var got []string
			for range c.want {
				now = s.Next(now)
				got = append(got, now.UTC().Format(time.RFC3339))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", c.reason, diff)
			}
		})
	}
}

func TestScheduleIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ line, zone, want string }{
		"Empty":      {"", "", "cannot be read"},
		"SixFields":  {"* * * * * *", "", "cannot be read"},
		"Hour":       {"0 24 * * *", "", "cannot be read"},
		"Never":      {"0 0 30 2 *", "", "no such day"},
		"Zone":       {"0 0 * * *", "Mars/Olympus", "is not known"},
		"Local":      {"0 0 * * *", "Local", "whatever the process"},
		"ZoneInLine": {"TZ=UTC 0 0 * * *", "", "as timeZone"},
		"TooOften":   {"@every 5s", "", "more than once a minute"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := replay.ParseSchedule(c.line, c.zone); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseSchedule: %v, want %q", err, c.want)
			}
		})
	}
}

func TestScheduleStep(t *testing.T) {
	now := func(text string) time.Time { return at(t, "2026-01-01T"+text+":00Z") }
	cases := map[string]struct {
		clock  replay.Clock
		want   replay.Tick
		reason string
	}{
		"NotYet": {
			replay.Clock{Now: now("09:59"), Through: now("09:00")},
			replay.Tick{Through: now("09:00"), Look: now("10:00")},
			"nothing is due",
		},
		"Due": {
			replay.Clock{Now: now("10:00"), Through: now("09:00")},
			replay.Tick{Run: now("10:00"), Through: now("10:00"), Look: now("11:00")},
			"on the minute",
		},
		"Missed": {
			replay.Clock{Now: now("12:30"), Through: now("09:00")},
			replay.Tick{Run: now("12:00"), Missed: 2, Through: now("12:00"), Look: now("13:00")},
			"one is caught up, the newest",
		},
		"WithinDeadline": {
			replay.Clock{Now: now("12:10"), Through: now("11:00"), Deadline: 10 * time.Minute},
			replay.Tick{Run: now("12:00"), Through: now("12:00"), Look: now("13:00")},
			"just in time",
		},
		"PastDeadline": {
			replay.Clock{Now: now("12:11"), Through: now("11:00"), Deadline: 10 * time.Minute},
			replay.Tick{Missed: 1, Through: now("12:00"), Look: now("13:00")},
			"too late is missed, and not decided again",
		},
		"Overlapping": {
			replay.Clock{Now: now("12:30"), Through: now("11:00"), Running: true},
			replay.Tick{Through: now("11:00")},
			"the run under way is waited for",
		},
		"Suspended": {
			replay.Clock{Now: now("12:30"), Through: now("11:00"), Suspended: true},
			replay.Tick{Through: now("11:00")},
			"nothing begins",
		},
		"ClockBackwards": {
			replay.Clock{Now: now("08:30"), Through: now("11:00")},
			replay.Tick{Through: now("11:00"), Look: now("12:00")},
			"what was dealt with stays so",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, schedule(t, "0 * * * *", "").Step(c.clock)); diff != "" {
				t.Errorf("%s (-want +got)\n%s", c.reason, diff)
			}
		})
	}
	t.Run("Interval", func(t *testing.T) {
		s := schedule(t, "@every 90m", "")
		if diff := cmp.Diff(replay.Tick{Through: now("09:00"), Look: now("10:30")}, s.Step(replay.Clock{Now: now("10:29"), Through: now("09:00")})); diff != "" {
			t.Errorf("an interval counts from the last run (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff(replay.Tick{Run: now("10:30"), Through: now("10:30"), Look: now("12:00")}, s.Step(replay.Clock{Now: now("10:30"), Through: now("09:00")})); diff != "" {
			t.Errorf("due (-want +got)\n%s", diff)
		}
	})
	t.Run("AfterYears", func(t *testing.T) {
		c := replay.Clock{Now: at(t, "2036-01-01T00:00:30Z"), Through: at(t, "2026-01-01T00:00:00Z")}
		got := schedule(t, "* * * * *", "").Step(c)
		want := replay.Tick{Run: at(t, "2036-01-01T00:00:00Z"), Missed: replay.MaxMissed, Through: at(t, "2036-01-01T00:00:00Z"), Look: at(t, "2036-01-01T00:01:00Z")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("five million missed minutes (-want +got)\n%s", diff)
		}
	})
}

// moments are those of a schedule in (begin, end], found by looking at each minute by itself: by the clock on the wall
// what it shows for the first time, with what it has leapt over, and for one of every hour whatever it shows.
func moments(t *rapid.T, line, zone string, everyHour bool, begin, end time.Time) []time.Time {
	plain, err := cron.ParseStandard(line)
	if err != nil {
		t.Fatal(err)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	const minute = 60
	shown := func(unix int64) int64 {
		_, offset := time.Unix(unix, 0).In(location).Zone()
		return unix + int64(offset)
	}
	due, last := map[int64]bool{}, end.Unix()+48*60*minute
	for at := plain.Next(begin.Add(-96 * time.Hour).UTC()); at.Unix() <= last; at = plain.Next(at) {
		due[at.Unix()] = true
	}
	from := begin.Unix() - 48*60*minute // so that what is shown again has been shown before
	var out []time.Time
	for at, seen := from, shown(from-minute); at <= end.Unix(); at += minute {
		now, comes := shown(at), false
		if everyHour {
			comes = due[now]
		}
		for ; seen < now; seen += minute {
			comes = comes || !everyHour && due[seen+minute]
		}
		if comes && at > begin.Unix() {
			out = append(out, time.Unix(at, 0).UTC())
		}
	}
	return out
}

// TestScheduleOverTime drives schedules through random lives and holds what was run
// against every minute looked at by itself.
func TestScheduleOverTime(t *testing.T) {
	lines := map[string]bool{ // those for every hour
		"30 2 * * *": false, "*/20 1-3 * * *": false, "15 */6 * * *": false, "0 0 * * 0": false, "59 23 28-31 * *": false, "10,50 */2 * * *": false,
		"0 * * * *": true, "*/30 * * * *": true, "45 */1 * * 6,0": true,
	}
	zones := []string{
		"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo", "Pacific/Apia",
		"Antarctica/Troll", "Pacific/Chatham", "Atlantic/Azores", "Africa/Casablanca", "America/St_Johns", "Africa/Cairo",
	}
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom(slices.Sorted(maps.Keys(lines))).Draw(t, "line")
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		s, err := replay.ParseSchedule(line, zone)
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Duration(rapid.SampledFrom([]int{0, 1, 90}).Draw(t, "deadline")) * time.Minute
		year := rapid.SampledFrom([]int{2011, 2017, 2026}).Draw(t, "year") // Samoa leaves out a day, Brazil has summers
		begin := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 365*24*60).Draw(t, "begin")) * time.Minute)
		end := begin.Add(55 * 24 * time.Hour)
		all := moments(t, line, zone, lines[line], begin, end)
		next := begin
		for _, want := range all {
			if next = s.Next(next); !next.Equal(want) {
				t.Fatalf("%s comes, want %s", next, want)
			}
		}
		if next = s.Next(next); !next.After(end) {
			t.Fatalf("%s comes, want none up to %s", next, end)
		}
		clock := replay.Clock{Now: begin, Through: begin, Deadline: deadline}
		var ran []time.Time
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			clock.Now = clock.Now.Add(time.Duration(rapid.IntRange(1, 30*60).Draw(t, "minutes")) * time.Minute)
			clock.Running = rapid.IntRange(0, 4).Draw(t, "running") == 0
			clock.Suspended = rapid.IntRange(0, 4).Draw(t, "suspended") == 0
			tick := s.Step(clock)
			if again := s.Step(clock); again != tick {
				t.Fatalf("decided %+v, then %+v", tick, again)
			}
			if !tick.Run.IsZero() {
				switch late := clock.Now.Sub(tick.Run); {
				case clock.Running || clock.Suspended:
					t.Fatalf("%s was run beside another or while suspended", tick.Run)
				case late < 0 || deadline > 0 && late > deadline:
					t.Fatalf("%s was run at %s", tick.Run, clock.Now)
				}
				ran = append(ran, tick.Run)
			}
			if !tick.Look.IsZero() && !tick.Look.After(clock.Now) {
				t.Fatalf("looks again at %s, which is not after %s", tick.Look, clock.Now)
			}
			passed := 0
			for _, moment := range all {
				if moment.After(clock.Through) && !moment.After(tick.Through) && !moment.Equal(tick.Run) {
					passed++
				}
			}
			if tick.Missed != min(passed, replay.MaxMissed) {
				t.Fatalf("%d were missed, and %d passed without a run", tick.Missed, passed)
			}
			clock.Through = tick.Through
		}
		for i, moment := range ran {
			if !slices.ContainsFunc(all, moment.Equal) || i > 0 && !moment.After(ran[i-1]) {
				t.Fatalf("%s was run: not a moment, or run before", moment)
			}
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	f.Add("30 2 * * *", "Europe/Berlin")
	f.Add("@every 1h30m", "")
	f.Add("*/5 1-3,7 1 * mon", "Asia/Tokyo")
	f.Fuzz(func(t *testing.T, line, zone string) {
		if len(line) > 100 {
			return
		}
		s, err := replay.ParseSchedule(line, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Errorf("%q in %q: %s is not after %s", line, zone, next, now)
		}
	})
}
