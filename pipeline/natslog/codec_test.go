package natslog

import (
	"crypto/sha256"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestOrigin(t *testing.T) {
	s := siteOf("a.b")
	epoch := nextEpoch(t, "")
	stream := s.history(epoch)
	cases := map[string]struct {
		header string
		want   uint64
	}{
		"plain":         {stream + " 7 > x drs.v1.a=2Eb.obj.x", 7},
		"identity":      {stream + " 7 > x drs.v1.a=2Eb.obj.x abc", 7},
		"other domain":  {stream + ":hash 7 > x drs.v1.a=2Eb.obj.x", 7},
		"other site":    {siteOf("a").history(epoch) + " 7 > x y", 0},
		"no epoch":      {"H_a=2Eb_x 7 > x y", 0},
		"no sequence":   {stream + " x > x y", 0},
		"sequence zero": {stream + " 0 > x y", 0},
		"short":         {stream + " 7", 0},
		"empty":         {"", 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			at, subject, ok := s.originOf(tc.header)
			if ok != (tc.want != 0) || at.Seq != tc.want || ok && (at.Epoch != epoch || subject == "") {
				t.Errorf("origin of %q: %s %q %v", tc.header, at, subject, ok)
			}
		})
	}
}

// TestNamesOfSites makes sure that no two sites share a stream, a subject, a
// reader or an account, and that a site knows its own streams only.
func TestNamesOfSites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringN(1, 20, 60), 2, 2, rapid.ID).Draw(t, "sites")
		a, b := siteOf(names[0]), siteOf(names[1])
		epoch := nextEpoch(t, "")
		for _, pair := range [][2]string{
			{a.history(epoch), b.history(epoch)},
			{a.current(), b.current()},
			{a.claims(), b.claims()},
			{a.all(), b.all()},
			{a.account(), b.account()},
			{a.readerName(1), b.readerName(1)},
			{SiteInboxPrefix(a.name), SiteInboxPrefix(b.name)},
		} {
			if pair[0] == pair[1] {
				t.Fatalf("sites %q and %q share %q", a.name, b.name, pair[0])
			}
			if strings.ContainsAny(pair[0], " \t\r\n*\\/") {
				t.Fatalf("%q is no name for NATS", pair[0])
			}
		}
		if got, ok := a.epochOf(a.history(epoch)); !ok || got != epoch {
			t.Fatalf("site %q does not know its own stream", a.name)
		}
		if got, ok := a.epochOf(b.history(epoch)); ok {
			t.Fatalf("site %q takes the stream of %q for its epoch %s", a.name, b.name, got)
		}
	})
}

// nextEpoch names an epoch after the one before, "" if there is none.
func nextEpoch(t interface {
	Helper()
	Fatal(args ...any)
}, before string,
) string {
	t.Helper()
	epoch, err := pipeline.NextEpoch(before, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

func FuzzParseClaim(f *testing.F) {
	f.Add(claim{digest: sha256.Sum256(nil), size: 10, pieces: 2}.String())
	f.Add("x/1/1")
	f.Add(strings.Repeat("0", 64) + "/01/1")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseClaim(s)
		if err == nil && (c.String() != s || c.size < 1 || c.size > maxClaim || c.pieces < 1 || c.pieces > c.size) {
			t.Errorf("%q became %+v", s, c)
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add("H_a_01M82X80EPKPVF3P06AW7SG1PP 7 > x drs.v1.a.obj.x")
	s := siteOf("a")
	f.Fuzz(func(t *testing.T, header string) {
		at, subject, ok := s.originOf(header)
		if ok && (!validEpoch(at.Epoch) || at.Seq == 0 || subject == "") {
			t.Errorf("%q became %s %q", header, at, subject)
		}
	})
}

func TestRaise(t *testing.T) {
	o := testOptions()
	base := o.history(siteOf("a"), nextEpoch(t, ""))
	cases := map[string]struct {
		reason  string
		change  func(*jetstream.StreamConfig)
		changed bool
		wrong   bool
	}{
		"same":            {change: func(*jetstream.StreamConfig) {}, reason: "nothing to do"},
		"server metadata": {change: func(c *jetstream.StreamConfig) { c.Metadata["_nats.ver"] = "2.15.2" }, reason: "the server's own keys are not ours"},
		"smaller":         {change: func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = 1, time.Second }, changed: true, reason: "limits are raised"},
		"larger":          {change: func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = 1<<50, 0 }, reason: "limits are never lowered"},
		"unlimited":       {change: func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = -1, 0 }, reason: "unlimited is larger than any limit"},
		"replicas":        {change: func(c *jetstream.StreamConfig) { c.Replicas = 3 }, reason: "replicas are never taken away"},
		"no batches":      {change: func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, changed: true, reason: "batches are needed"},
		"deletable":       {change: func(c *jetstream.StreamConfig) { c.DenyDelete = false }, wrong: true, reason: "not a history"},
		"compacted":       {change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, wrong: true, reason: "not a history"},
		"other site":      {change: func(c *jetstream.StreamConfig) { c.Metadata[metaSite] = "b" }, wrong: true, reason: "somebody else's"},
		"other format":    {change: func(c *jetstream.StreamConfig) { c.Metadata[metaFormat] = "2" }, wrong: true, reason: "a later version's"},
		"not ours at all": {change: func(c *jetstream.StreamConfig) { c.Metadata = nil }, wrong: true, reason: "made by somebody else"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			have := o.history(siteOf("a"), base.Metadata[metaEpoch])
			tc.change(&have)
			next, changed, err := raise(have, base)
			if changed != tc.changed || errors.Is(err, ErrForeignStream) != tc.wrong {
				t.Fatalf("changed %v, %v: %s", changed, err, tc.reason)
			}
			if err == nil && (larger(next.MaxBytes, have.MaxBytes) != next.MaxBytes || next.Replicas < have.Replicas) {
				t.Errorf("raised to %+v: %s", next, tc.reason)
			}
		})
	}
}

// TestCurrentOfBeforeTheDenials has a current stream that permits deletions, as earlier versions made them.
func TestCurrentOfBeforeTheDenials(t *testing.T) {
	c := inProcess(t, testServer(t))
	s := siteOf("a")
	cfg := testOptions().current(s)
	cfg.DenyDelete, cfg.DenyPurge = false, false
	if _, err := c.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	w := testWriter(t, c, "a")
	event := numbered(1)
	mustAppend(t, w, event)
	for n := range 3 {
		event.Version = strconv.Itoa(n + 2)
		mustAppend(t, w, event)
	}
	eventually(t, "it holds the last only", func() bool { return testState(t, c, "a").Through.Seq == 4 })
	stream, err := c.js.Stream(t.Context(), s.current())
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d messages of one object", n)
	}
	if err := stream.DeleteMsg(t.Context(), stream.CachedInfo().State.LastSeq); err == nil {
		t.Error("a deletion is permitted")
	}
	if err := stream.Purge(t.Context()); err == nil {
		t.Error("a purge is permitted")
	}
}

func TestForeignStreamIsLeftAlone(t *testing.T) {
	c := inProcess(t, testServer(t))
	cfg := jetstream.StreamConfig{Name: siteOf("a").current(), Subjects: []string{"theirs"}}
	if _, err := c.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Writer(t.Context(), "a", testOptions()); !errors.Is(err, ErrForeignStream) || !strings.Contains(err.Error(), "C_a") {
		t.Errorf("open: %v", err)
	}
	stream, err := c.js.Stream(t.Context(), cfg.Name)
	if err != nil || len(stream.CachedInfo().Config.Sources) != 0 {
		t.Errorf("their stream: %v", err)
	}
}

func TestStreamOptions(t *testing.T) {
	if err := DefaultStreamOptions().Validate(); err != nil {
		t.Error(err)
	}
	bad := StreamOptions{MaxBytes: 1, MaxAge: 1, CurrentMaxBytes: 1, ClaimsMaxBytes: 1, Replicas: 2}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, word := range []string{"history", "current state", "claims", "age", "replicas"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not mention %q", err, word)
		}
	}
	c := inProcess(t, testServer(t, func(cfg *ServerConfig) { cfg.MaxStore = 1 << 30 }))
	if _, err := c.Writer(t.Context(), "a", DefaultStreamOptions()); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "raise") {
		t.Errorf("streams larger than the store: %v", err)
	}
}

func TestNextSource(t *testing.T) {
	const e1, e2, e3 = "01", "02", "03"
	histories := []historyState{{Epoch: e1, Last: 5, Messages: 5}, {Epoch: e2, Last: 3, Messages: 3}, {Epoch: e3}}
	cases := map[string]struct {
		state   siteState
		next    string
		waiting bool
	}{
		"nothing":       {siteState{}, "", false},
		"first":         {siteState{Histories: histories[:1]}, e1, false},
		"first of many": {siteState{Histories: histories}, e1, false},
		"behind":        {siteState{Histories: histories, Sourced: e1, Through: pipeline.Position{Epoch: e1, Seq: 4}}, "", true},
		"at the end":    {siteState{Histories: histories, Sourced: e1, Through: pipeline.Position{Epoch: e1, Seq: 5}}, e2, false},
		"not begun":     {siteState{Histories: histories, Sourced: e2, Through: pipeline.Position{Epoch: e1, Seq: 5}}, "", true},
		"all":           {siteState{Histories: histories, Sourced: e3, Through: pipeline.Position{Epoch: e2, Seq: 3}}, "", false},
		"oldest gone":   {siteState{Histories: histories[1:], Sourced: e2, Through: pipeline.Position{Epoch: e2, Seq: 3}}, e3, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if next, waiting := nextSource(tc.state); next != tc.next || waiting != tc.waiting {
				t.Errorf("next %q, waiting %v", next, waiting)
			}
		})
	}
}
