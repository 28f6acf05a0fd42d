package memlog_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	pipelinetest.TestLog(t, func(*testing.T) pipelinetest.Harness {
		l := memlog.New()
		return pipelinetest.Harness{
			OpenWriter: func(t testing.TB, site string) pipeline.Writer { return open(t, l, site) },
			History:    func(_ testing.TB, site string) pipeline.History { return l.History(site) },
			DeadLetters: func(_ testing.TB, dest string) pipeline.DeadLetters {
				return l.DeadLetters(dest)
			},
			Archive:      func(_ testing.TB, site string) pipeline.Archive { return l.Archive(site) },
			TrimsExactly: true,
			Snapshots:    func(_ testing.TB, site string) pipeline.Snapshots { return l.Snapshots(site) },
			Trim:         func(_ testing.TB, site string, before uint64) { l.Trim(site, before) },
			PublishRaw: func(t testing.TB, site string, m pipeline.Message) {
				if _, err := l.Publish(site, m); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func open(t testing.TB, l *memlog.Log, site string) *memlog.Writer {
	t.Helper()
	w, err := l.Writer(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestFault(t *testing.T) {
	lost := errors.New("connection lost")
	cases := map[string]struct {
		stored bool
		reason string
	}{
		"before it was stored": {stored: false, reason: "the retry must append"},
		"after it was stored":  {stored: true, reason: "the retry must find what is there"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l := memlog.New()
			w := open(t, l, "a")
			events := []pipeline.Event{
				pipelinetest.Put(pipelinetest.ConfigMap("a", "x"), 1),
				pipelinetest.Put(pipelinetest.ConfigMap("a", "y"), 2),
			}
			l.SetFault(func(string, []pipeline.Event) memlog.Fault { return memlog.Fault{Err: lost, Stored: tc.stored} })
			if _, err := w.Append(t.Context(), events); !errors.Is(err, lost) {
				t.Fatalf("Append: %v", err)
			}
			l.SetFault(nil)
			for want := uint64(2); want <= 4; want += 2 {
				if p, err := w.Append(t.Context(), events); err != nil || p.Seq != want {
					t.Fatalf("Append ended at %s, %v; want %d: %s", p, err, want, tc.reason)
				}
			}
		})
	}
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := memlog.New(memlog.WithClock(func() time.Time { return now }))
	w := open(t, l, "a")
	var last pipeline.Position
	for i := range 3 {
		p, err := w.Append(t.Context(), []pipeline.Event{pipelinetest.Put(pipelinetest.ConfigMap("a", "x"), i+1)})
		if err != nil || p.Compare(last) <= 0 {
			t.Fatalf("Append: %s after %s, %v", p, last, err)
		}
		last = p
		if st, err := l.History("a").State(t.Context()); err != nil || !st.LastTime.Equal(now) {
			t.Errorf("State: %+v, %v", st, err)
		}
		now = now.Add(-time.Hour) // a clock that runs backwards must not make epochs do so
		if _, err := w.NewEpoch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
