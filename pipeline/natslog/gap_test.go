package natslog

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// noisy is an event of 40 KiB that do not compress.
func noisy(i, version int) pipeline.Event {
	e := put("a", "object-"+strconv.Itoa(i), version)
	e.Body = incompressible((i%40 + 40) << 10)[i%40<<10:]
	e.Digest = pipeline.DigestOf(e.Body)
	return e
}

// cut has a history lose all records before a sequence, whatever anybody still needs.
func cut(t *testing.T, c *Conn, before uint64) {
	t.Helper()
	newest, _ := testState(t, c, "a").newest()
	update(t, c, newest.Stream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = int64(newest.Last - before + 1) })
	update(t, c, newest.Stream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = -1 })
}

// TestLostRecordsAreSaid has records go that the current stream never had, in the ways that happens.
func TestLostRecordsAreSaid(t *testing.T) {
	t.Parallel()
	const objects = 60
	cases := map[string]struct {
		reason string
		lose   func(t *testing.T, c *Conn)
		left   func(got map[string]string) bool
	}{
		"RetentionPassed": {
			"the current stream stands still at its limit, and retention passes over what it lacks",
			func(t *testing.T, c *Conn) { cut(t, c, objects-9) },
			func(got map[string]string) bool { return len(got) >= 10+10 && len(got) < objects },
		},
		"CurrentEmptied": {
			"the current stream is emptied when the history is no longer whole",
			func(t *testing.T, c *Conn) {
				cut(t, c, 11)
				current := siteOf("a").current()
				update(t, c, current, func(cfg *jetstream.StreamConfig) {
					cfg.Sources, cfg.MaxAge, cfg.Duplicates = nil, 100*time.Millisecond, 100*time.Millisecond
				})
				eventually(t, "it is empty", func() bool { return testState(t, c, "a").CurrentLast == 0 })
				update(t, c, current, func(cfg *jetstream.StreamConfig) { cfg.MaxAge = 0 })
			},
			func(got map[string]string) bool { return len(got) == objects-10 },
		},
		"CurrentDeleted": {
			"the current stream is deleted when the history is no longer whole",
			func(t *testing.T, c *Conn) {
				cut(t, c, 11)
				if err := c.js.DeleteStream(t.Context(), siteOf("a").current()); err != nil {
					t.Fatal(err)
				}
			},
			func(got map[string]string) bool { return len(got) == objects-10 },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := inProcess(t, testServer(t))
			opts := testOptions()
			opts.CurrentMaxBytes = 1 << 20
			w, err := c.Writer(t.Context(), "a", opts)
			if err != nil {
				t.Fatal(err)
			}
			for i := range objects {
				mustAppend(t, w, noisy(i, 1))
			}
			eventually(t, "the current stream is full", func() bool { return testState(t, c, "a").Through.Seq >= 20 })
			if st, err := c.History("a").State(t.Context()); err != nil || st.Missing != 0 {
				t.Fatalf("before: %+v, %v", st, err)
			}
			tc.lose(t, c)
			st, err := c.History("a").State(t.Context())
			if err != nil || st.Missing == 0 {
				t.Fatalf("%s: %+v, %v", tc.reason, st, err)
			}
			// What there is is read, and that it is not all is said.
			got := map[string]string{}
			err = nil
			for r, e := range c.History("a").Current(t.Context(), pipeline.Query{HeadersOnly: true}) {
				if err != nil {
					t.Fatalf("it goes on after %v", err)
				}
				if err = e; e == nil {
					got[r.Ref.Name] = r.Version
				}
			}
			if !errors.Is(err, pipeline.ErrGap) || !tc.left(got) {
				t.Fatalf("%s: %d objects, %v", tc.reason, len(got), err)
			}
			// Who opens it to write finds a new epoch, and with all put anew everything is whole.
			before := w.Position()
			if w, err = c.Writer(t.Context(), "a", testOptions()); err != nil {
				t.Fatal(err)
			}
			if at := w.Position(); at.Epoch <= before.Epoch || at.Seq != 0 {
				t.Fatalf("it goes on at %s after %s", at, before)
			}
			want := map[string]string{}
			for i := range objects {
				mustAppend(t, w, noisy(i, 2))
				want["object-"+strconv.Itoa(i)] = "2"
			}
			if diff := cmp.Diff(want, readCurrent(t, c.History("a"), pipeline.Query{HeadersOnly: true})); diff != "" {
				t.Errorf("in the new epoch (-want +got):\n%s", diff)
			}
			if st, err := c.History("a").State(t.Context()); err != nil || st.Missing != 0 {
				t.Errorf("after: %+v, %v", st, err)
			}
			if again := testWriter(t, c, "a").Position(); again.Epoch != w.Position().Epoch {
				t.Errorf("another epoch for nothing: %s", again)
			}
		})
	}
}

// TestRoomOfCurrent fills a current state up to its limit.
func TestRoomOfCurrent(t *testing.T) {
	c := inProcess(t, testServer(t))
	opts := testOptions()
	opts.CurrentMaxBytes = 1 << 20
	w, err := c.Writer(t.Context(), "a", opts)
	if err != nil {
		t.Fatal(err)
	}
	room := func() pipeline.Room {
		t.Helper()
		x, err := c.Archive("a").Extent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return x.Current
	}
	if got := room(); got.Limit != 1<<20 || got.Share() > 0.1 {
		t.Errorf("at the beginning: %+v", got)
	}
	for i := range 40 {
		mustAppend(t, w, noisy(i, 1))
	}
	eventually(t, "it is nearly full", func() bool { return room().Share() > 0.8 })
	if got := room(); got.Share() > 1 {
		t.Errorf("more than its limit: %+v", got)
	}
}
