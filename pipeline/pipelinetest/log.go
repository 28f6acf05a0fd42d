package pipelinetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Harness is one fresh, empty log under test. The functions fail the test when
// they cannot do what they say; what they open is closed by t.Cleanup.
type Harness struct {
	// OpenWriter opens a site for writing, and begins its history if there is none.
	OpenWriter func(t testing.TB, site string) pipeline.Writer
	// History reads a site.
	History func(t testing.TB, site string) pipeline.History
	// DeadLetters opens those of a destination.
	DeadLetters func(t testing.TB, dest string) pipeline.DeadLetters
	// Trim drops the records before a sequence from a site's current epoch, as
	// retention does. Without it the cases that need it are left out.
	Trim func(t testing.TB, site string, before uint64)
	// Archive looks back into a site's history. Without it the cases that need it are left out.
	Archive func(t testing.TB, site string) pipeline.Archive
	// TrimsExactly says that Archive.Trim keeps nothing that it need not.
	TrimsExactly bool
	// Snapshots keeps a site's snapshots. Without it the cases that need it are left out.
	Snapshots func(t testing.TB, site string) pipeline.Snapshots
	// PublishRaw puts a message into a site's history, as a stranger could.
	// Without it the cases that need it are left out.
	PublishRaw func(t testing.TB, site string, m pipeline.Message)
}

// Timeout bounds every wait of the suite.
const Timeout = 2 * time.Minute

// TestLog runs the conformance suite. open is called once per case.
func TestLog(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	groups := []struct {
		name  string
		cases []logCase
	}{
		{"Append", appendCases},
		{"Epoch", epochCases},
		{"Current", currentCases},
		{"Follow", followCases},
		{"Foreign", foreignCases},
		{"Archive", archiveCases},
		{"Snapshots", snapshotCases},
		{"DeadLetters", deadLetterCases},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					h := open(t)
					if c.needs != nil && !c.needs(h) {
						t.Logf("the harness cannot do what this case needs")
						return
					}
					ctx, cancel := context.WithTimeout(t.Context(), Timeout)
					defer cancel()
					c.run(ctx, t, h)
				})
			}
		})
	}
}

type logCase struct {
	name  string
	needs func(Harness) bool
	run   func(ctx context.Context, t *testing.T, h Harness)
}

func needsTrim(h Harness) bool       { return h.Trim != nil }
func needsArchive(h Harness) bool    { return h.Archive != nil }
func needsSnapshots(h Harness) bool  { return h.Snapshots != nil }
func needsPublishRaw(h Harness) bool { return h.PublishRaw != nil }

// site is the site of all cases that need just one: a name that needs escaping.
const site = "prod.nyc-1"

// refs are n different objects of the site.
func refs(n int) []pipeline.Ref {
	list := make([]pipeline.Ref, n)
	for i := range list {
		list[i] = ConfigMap(site, "object-"+string(rune('a'+i%26))+"-"+time.Duration(i).String())
	}
	return list
}

func mustAppend(ctx context.Context, t testing.TB, w pipeline.Writer, events ...pipeline.Event) pipeline.Position {
	t.Helper()
	p, err := w.Append(ctx, events)
	if err != nil {
		t.Fatalf("append %d events: %v", len(events), err)
	}
	return p
}

func mustState(ctx context.Context, t testing.TB, h pipeline.History) pipeline.State {
	t.Helper()
	st, err := h.State(ctx)
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	return st
}

func mustFollow(ctx context.Context, t testing.TB, h pipeline.History, name string, after pipeline.Position) pipeline.Subscription {
	t.Helper()
	sub, err := h.Follow(ctx, name, after)
	if err != nil {
		t.Fatalf("follow after %s: %v", after, err)
	}
	t.Cleanup(func() {
		if err := sub.Close(); err != nil {
			t.Errorf("close subscription: %v", err)
		}
	})
	return sub
}

// take reads n records and acknowledges them.
func take(ctx context.Context, t testing.TB, sub pipeline.Subscription, n int) []pipeline.Record {
	t.Helper()
	var got []pipeline.Record
	for len(got) < n {
		d, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("next, after %d of %d records: %v", len(got), n, err)
		}
		if d.Invalid != nil {
			t.Fatalf("record %s: %v", d.Position, d.Invalid)
		}
		settle(t, d)
		got = append(got, d.Record)
	}
	return got
}

func settle(t testing.TB, d pipeline.Delivery) {
	t.Helper()
	if d.Settler == nil {
		return
	}
	if err := d.Settler.Ack(); err != nil {
		t.Fatalf("acknowledge %s: %v", d.Position, err)
	}
}

// newest reads Current and keeps the last record of every Ref; a record that is
// older than one seen before fails the test. It must not hold foreign messages.
func newest(ctx context.Context, t testing.TB, h pipeline.History, q pipeline.Query) map[pipeline.Ref]pipeline.Record {
	t.Helper()
	seen := map[pipeline.Ref]pipeline.Record{}
	for r, err := range h.Current(ctx, q) {
		if err != nil {
			t.Fatalf("current: %v", err)
		}
		if before, ok := seen[r.Ref]; ok && before.Position.Compare(r.Position) > 0 {
			t.Errorf("current yields %s at %s after %s", r.Ref, r.Position, before.Position)
		}
		seen[r.Ref] = r
	}
	return seen
}

func events(records []pipeline.Record) []pipeline.Event {
	list := make([]pipeline.Event, len(records))
	for i, r := range records {
		list[i] = r.Event
	}
	return list
}

// shortBodies compares bodies as wholes, and shows long ones by their digests.
var shortBodies = cmp.Transformer("body", func(body []byte) string {
	if len(body) > 1<<10 {
		return fmt.Sprintf("%d bytes, digest %s", len(body), pipeline.DigestOf(body))
	}
	return string(body)
})

// diffRecords compares records with what was appended, ending at position last.
func diffRecords(t testing.TB, want []pipeline.Event, last pipeline.Position, got []pipeline.Record) {
	t.Helper()
	if diff := cmp.Diff(want, events(got), shortBodies); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
		return
	}
	p := last
	for i, r := range slices.Backward(got) {
		if r.Position != p {
			t.Errorf("record %d stands at %s, want %s", i, r.Position, p)
		}
		p.Seq--
		if r.Stored.IsZero() {
			t.Errorf("record %d has no time of storing", i)
		}
	}
}

// diffCurrent compares Current with the events it should hold.
func diffCurrent(t testing.TB, want []pipeline.Event, got map[pipeline.Ref]pipeline.Record) {
	t.Helper()
	wantMap, gotMap := map[pipeline.Ref]pipeline.Event{}, map[pipeline.Ref]pipeline.Event{}
	for _, e := range want {
		wantMap[e.Ref] = e
	}
	for ref, r := range got {
		gotMap[ref] = r.Event
		if r.Position.IsZero() || r.Stored.IsZero() {
			t.Errorf("%s has position %s, stored %v", ref, r.Position, r.Stored)
		}
	}
	if diff := cmp.Diff(wantMap, gotMap, shortBodies); diff != "" {
		t.Errorf("current differs (-want +got):\n%s", diff)
	}
}
