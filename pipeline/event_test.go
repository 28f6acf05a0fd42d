package pipeline_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestDigest(t *testing.T) {
	d := pipeline.DigestOf([]byte("{}"))
	if got := d.String(); got != "44136fa355b3678a1146ad16f7e8649e" {
		t.Errorf("digest %s", got)
	}
	if back, err := pipeline.ParseDigest(d.String()); err != nil || back != d {
		t.Errorf("ParseDigest: %s, %v", back, err)
	}
	for _, s := range []string{"", "44", d.String() + "00", strings.ToUpper(d.String()), strings.Repeat("g", 32)} {
		if got, err := pipeline.ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) = %s", s, got)
		}
	}
}

func TestPositionOrder(t *testing.T) {
	want := []pipeline.Position{
		{}, {Epoch: "01A"}, {Epoch: "01A", Seq: 1}, {Epoch: "01A", Seq: 10}, {Epoch: "01B"}, {Epoch: "01B", Seq: 2},
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, pipeline.Position.Compare)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !want[0].IsZero() || want[1].IsZero() {
		t.Error("only the zero position is before everything")
	}
}

func TestHeartbeatRoundTrip(t *testing.T) {
	want := pipeline.Heartbeat{
		Time: observed, Incarnation: "uid", Through: map[string]string{"pods": "7"}, Complete: true,
		Failing: map[string]string{"apps/deployments": "forbidden"}, Outbox: 3,
	}
	e, err := want.Event("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Heartbeat(); err != nil || !cmp.Equal(want, got) {
		t.Errorf("Heartbeat() = %+v, %v", got, err)
	}
	e.Op = pipeline.OpPut
	if got, err := e.Heartbeat(); err == nil {
		t.Errorf("a put is the heartbeat %+v", got)
	}
	e.Op, e.Body = pipeline.OpHeartbeat, []byte(`{"time":7}`)
	if got, err := e.Heartbeat(); err == nil {
		t.Errorf("a broken body is the heartbeat %+v", got)
	}
	if _, err := (pipeline.Heartbeat{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}).Event("a"); err == nil {
		t.Error("a time that has no text was encoded")
	}
}

func TestNextEpochGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := ""
		for _, ms := range rapid.SliceOfN(rapid.Int64Range(0, 1<<42), 1, 20).Draw(t, "clock") {
			next, err := pipeline.NextEpoch(last, time.UnixMilli(ms))
			if err != nil || next <= last || len(next) != 26 {
				t.Fatalf("NextEpoch(%q) = %q, %v", last, next, err)
			}
			last = next
		}
	})
	if next, err := pipeline.NextEpoch("zzz", observed); err == nil {
		t.Errorf("NextEpoch after what is no epoch: %q", next)
	}
	if next, err := pipeline.NextEpoch("", time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)); err == nil {
		t.Errorf("NextEpoch after the end of time: %q", next)
	}
}
