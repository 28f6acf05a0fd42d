package natslog

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// large is an event whose body of 2 MiB does not fit into one message and does not compress.
func large(name string, version, from int) pipeline.Event {
	return pipelinetest.PutBody(pipelinetest.ConfigMap("a", name), version, incompressible(from + 2<<20)[from:])
}

// TestBlockedEventIsNamed appends large bodies to a log that has room for one of them.
func TestBlockedEventIsNamed(t *testing.T) {
	c := testConn(t, ConnectConfig{URL: externalServer(t)})
	opts := testOptions()
	opts.ClaimsMaxBytes = 3 << 20
	w, err := c.Writer(t.Context(), "a", opts)
	if err != nil {
		t.Fatal(err)
	}
	first := mustAppend(t, w, large("first", 1, 0))
	events := []pipeline.Event{put("a", "small", 2), large("second", 3, 1), large("first", 4, 0), large("third", 5, 2)}
	_, err = w.Append(t.Context(), events)
	var blocked *pipeline.BlockedError
	if !errors.As(err, &blocked) || !errors.Is(err, ErrFull) {
		t.Fatalf("append: %v", err)
	}
	// The one whose body the log holds already passes.
	if diff := cmp.Diff([]int{1, 3}, blocked.Events); diff != "" {
		t.Fatalf("blocked (-want +got):\n%s", diff)
	}
	at := mustAppend(t, w, events[0], events[2])
	if at.Seq != first.Seq+2 {
		t.Errorf("the others end at %s, the first at %s", at, first)
	}
	opts.ClaimsMaxBytes = 10 << 20
	if w, err = c.Writer(t.Context(), "a", opts); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, w, events[1], events[3])
	for r, err := range c.History("a").Current(t.Context(), pipeline.Query{}) {
		if err != nil || pipeline.DigestOf(r.Body) != r.Digest {
			t.Errorf("%s: %d bytes, %v", r.Ref, len(r.Body), err)
		}
	}
}

// TestLargeWaitWithoutTheirStream: what only large bodies need keeps only them.
func TestLargeWaitWithoutTheirStream(t *testing.T) {
	c := testConn(t, ConnectConfig{URL: externalServer(t)})
	w := testWriter(t, c, "a")
	if err := c.js.DeleteStream(t.Context(), siteOf("a").claims()); err != nil {
		t.Fatal(err)
	}
	_, err := w.Append(t.Context(), []pipeline.Event{large("x", 1, 0), put("a", "small", 2), large("y", 3, 1)})
	var blocked *pipeline.BlockedError
	if !errors.As(err, &blocked) || !slices.Equal(blocked.Events, []int{0, 2}) {
		t.Fatalf("append: %v", err)
	}
	mustAppend(t, w, put("a", "small", 2))
}

// TestPiecesOfAnotherLimit: the pieces of a body that was stored when the server took less at a
// time stay readable when it is stored again.
func TestPiecesOfAnotherLimit(t *testing.T) {
	body := incompressible(3<<20 + 17)
	for pieces := 1; pieces < 9; pieces++ {
		cl := claim{size: len(body), pieces: pieces}
		var joined []byte
		for n := range pieces {
			joined = append(joined, cl.cut(body, n)...)
			if other := (claim{size: len(body), pieces: pieces + 1}); siteOf("a").piece(cl, n) == siteOf("a").piece(other, n) {
				t.Errorf("piece %d of %d and of %d have one name", n, pieces, pieces+1)
			}
		}
		if !slices.Equal(joined, body) {
			t.Errorf("%d pieces do not make the body again", pieces)
		}
	}
}

// TestSiteAsksToBeTidied: a site's user has no rights to remove anything, and asks who has.
func TestSiteAsksToBeTidied(t *testing.T) {
	s, a, _ := twoSites(t, "a", "b")
	mustAppend(t, testWriter(t, a, "a"), put("a", "x", 1))
	for range 3 * stewardWorkers { // more than can wait
		if n, err := a.CollectClaims(t.Context(), "a"); n != 0 || err != nil {
			t.Fatalf("collected %d, %v", n, err)
		}
	}
	eventually(t, "the steward has taken what it was asked", func() bool { return len(s.steward.untidy) == 0 })
}
