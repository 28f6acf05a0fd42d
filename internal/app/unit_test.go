package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

// journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

var errBoom = errors.New("boom")

// unit is one that takes a while to be ready and to stop, or fails after a while.
func (j *journal) unit(name string, starting, failing, stopping time.Duration) Unit {
	return Unit{Name: name, StopTimeout: 10 * time.Second, Run: func(ctx context.Context, ready func()) error {
		j.add("start " + name)
		var fail <-chan time.Time
		if failing > 0 {
			fail = time.After(failing)
		}
		select {
		case <-time.After(starting):
			ready()
			ready() // again does nothing
		case <-fail:
			return errBoom
		case <-ctx.Done():
			j.add("cancel " + name)
			return ctx.Err()
		}
		select {
		case <-fail:
			return errBoom
		case <-ctx.Done():
		}
		<-time.After(stopping)
		j.add("stop " + name)
		return ctx.Err()
	}}
}

func TestSupervise(t *testing.T) {
	sec := time.Second
	cases := map[string]struct {
		reason  string
		units   func(j *journal) []Unit
		stop    time.Duration // the program's context ends then
		wantErr string
		took    time.Duration
		want    []string
	}{
		"Ordered": {
			reason: "each starts when the one before is ready, and stops when the one behind has stopped",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", sec, 0, sec), j.unit("b", sec, 0, 2*sec), j.unit("c", 0, 0, sec)}
			},
			stop: 10 * sec, took: 14 * sec,
			want: []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"},
		},
		"FirstErrorStopsAll": {
			reason: "a unit that fails ends the others in reverse order",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", 0, 0, 0), j.unit("b", 0, 5*sec, 0), j.unit("c", 0, 0, 0)}
			},
			stop: time.Hour, took: 5 * sec, wantErr: "b: boom",
			want: []string{"start a", "start b", "start c", "stop c", "stop a"},
		},
		"FailsToStart": {
			reason: "units behind one that does not start are never started",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", 0, 0, 0), j.unit("b", 9*sec, sec, 0), j.unit("c", 0, 0, 0)}
			},
			stop:    time.Hour,
			took:    sec,
			wantErr: "b: boom",
			want:    []string{"start a", "start b", "stop a"},
		},
		"EarlierFailsWhileLaterStarts": {
			reason:  "a failure is noticed while another unit is being waited for",
			units:   func(j *journal) []Unit { return []Unit{j.unit("a", 0, 3*sec, 0), j.unit("b", time.Hour, 0, 0)} },
			stop:    time.Hour,
			took:    3 * sec,
			wantErr: "a: boom",
			want:    []string{"start a", "start b", "cancel b"},
		},
		"StoppedWhileStarting": {
			reason: "a signal does not wait for a unit to become ready",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", 0, 0, 0), j.unit("b", time.Hour, 0, 0), j.unit("c", 0, 0, 0)}
			},
			stop: sec, took: sec,
			want: []string{"start a", "start b", "cancel b", "stop a"},
		},
		"TooSlowToStop": {
			reason: "a unit that does not stop is left behind at its limit, and the others still stop",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", 0, 0, 0), j.unit("b", 0, 0, time.Minute)}
			},
			stop: sec, took: 11 * sec, wantErr: "stop b: not done within 10s",
			want: []string{"start a", "start b", "stop a"},
		},
		"EndsByItself": {
			reason: "a unit that returns without an error nobody asked for ends the program and says so",
			units: func(j *journal) []Unit {
				return []Unit{j.unit("a", 0, 0, 0), Simple("b", func(context.Context) error { return nil })}
			},
			stop: time.Hour, wantErr: "b: ended by itself",
			want: []string{"start a", "stop a"},
		},
		"FailsWhileStopping": {
			reason: "an error while closing is told",
			units: func(j *journal) []Unit {
				closer := Simple("a", func(ctx context.Context) error {
					<-ctx.Done()
					j.add("close a")
					return errBoom
				})
				return []Unit{closer, j.unit("b", 0, 0, 0)}
			},
			stop: sec, took: sec, wantErr: "stop a: boom",
			want: []string{"start b", "stop b", "close a"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.stop)
				defer cancel()
				j := &journal{}
				begin := time.Now()
				err := supervise(ctx, slog.New(slog.DiscardHandler), func(*Unit) {}, tc.units(j))
				if got := errText(err); got != tc.wantErr {
					t.Errorf("%s: error %q, want %q", tc.reason, got, tc.wantErr)
				}
				if took := time.Since(begin); took != tc.took {
					t.Errorf("%s: took %s, want %s", tc.reason, took, tc.took)
				}
				if diff := cmp.Diff(tc.want, j.all()); diff != "" {
					t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
				}
				<-time.After(time.Minute) // of fake time, in which one that was left behind ends
			})
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestLeading(t *testing.T) {
	meter := telemetrytest.Metrics(t)
	synctest.Test(t, func(t *testing.T) {
		lose := make(chan struct{})
		elect := func(ctx context.Context, elected func()) error {
			select {
			case <-time.After(30 * time.Second):
			case <-ctx.Done():
				return nil
			}
			elected()
			select {
			case <-lose:
			case <-ctx.Done():
			}
			return nil
		}
		var started time.Duration
		begin := time.Now()
		worker := Simple("worker", func(ctx context.Context) error {
			started = time.Since(begin)
			if v := meter.Value(telemetry.MetricLeader); v != 1 {
				t.Errorf("leader metric is %v while leading", v)
			}
			close(lose)
			<-ctx.Done()
			return nil
		})
		err := supervise(t.Context(), slog.New(slog.DiscardHandler), func(u *Unit) {
			if u != nil && u.Name != "worker" && !u.Standby {
				t.Error("waiting to lead must count as a healthy state")
			}
		}, []Unit{Leading(elect), worker})
		if !errors.Is(err, ErrLeadLost) {
			t.Errorf("losing the lead ended with %v, want ErrLeadLost", err)
		}
		if started != 30*time.Second {
			t.Errorf("the worker started after %s, want 30s: when elected", started)
		}
	})
	if v := meter.Value(telemetry.MetricLeader); v != 0 {
		t.Errorf("leader metric is %v after the end", v)
	}
	if err := supervise(canceled(t), slog.New(slog.DiscardHandler), func(*Unit) {}, []Unit{Leading(nil)}); err != nil {
		t.Errorf("a program stopped before it began ended with %v", err)
	}
}

// TestRestarting has inner units fail in their turn, and looks at what stands around them.
func TestRestarting(t *testing.T) {
	cases := map[string]struct {
		reason  string
		rounds  [][2]time.Duration // when b is ready, and when it fails
		wantErr string
		want    []string
	}{
		"NeverWorked": {
			"a failure before anything worked ends the program",
			[][2]time.Duration{{time.Hour, time.Second}},
			"group: b: boom",
			[]string{"start log", "start a", "start b", "stop a", "stop log"},
		},
		"Again": {
			"a later one starts the group over, and leaves the log alone",
			[][2]time.Duration{{0, time.Second}, {time.Hour, time.Second}, {0, 0}},
			"",
			[]string{
				"start log", "start a", "start b", "stop a", "start a", "start b", "stop a", "start a", "start b", "stop b", "stop a", "stop log",
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				j := &journal{}
				round := 0
				group := Restarting("group", slog.New(slog.DiscardHandler), func() []Unit {
					b := tc.rounds[round]
					round++
					return []Unit{j.unit("a", 0, 0, 0), j.unit("b", b[0], b[1], 0)}
				})
				err := supervise(ctx, slog.New(slog.DiscardHandler), func(*Unit) {}, []Unit{j.unit("log", 0, 0, 0), group})
				if got := errText(err); got != tc.wantErr {
					t.Errorf("%s: error %q, want %q", tc.reason, got, tc.wantErr)
				}
				if diff := cmp.Diff(tc.want, j.all()); diff != "" {
					t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
				}
			})
		})
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestRunChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Health{}
		h.Ready("log", func(context.Context) error { return nil })
		h.Ready("api server", func(context.Context) error { return errors.New("dial tcp:\n refused") })
		h.Ready("disk", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		lines, ok := runChecks(t.Context(), h.checks())
		want := []string{"[-] api server: dial tcp: refused", "[-] disk: no answer within 3s", "[+] log"}
		if diff := cmp.Diff(want, lines); diff != "" || ok {
			t.Errorf("ok %v (-want +got)\n%s", ok, diff)
		}
		lines, ok = runChecks(t.Context(), nil)
		if !ok || strings.Join(lines, "") != "ok" {
			t.Errorf("without checks: %v %q", ok, lines)
		}
	})
}
