package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

func wish(transfer string, epoch uint64) Wish {
	return Wish{
		Session: stream.Session{
			ID: sessionID(transfer, epoch), Claim: "prod/shop/db", Epoch: epoch, Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		},
		Peer: stream.Pin{1}, Transfer: transfer,
	}
}

func asks(t *testing.T, b *Board, site string, answers ...Answer) []Wish {
	t.Helper()
	text, err := json.Marshal(question{Version: wireVersion, Answers: answers})
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.Serve(site, text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseReply(out)
	if err != nil {
		t.Fatal(err)
	}
	return r.Wishes
}

// TestBoard has two sites ask: each learns of its own wishes, for as long as they are repeated, and only its own answers count.
func TestBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard()
		w := wish("t1", 1)
		b.Wish("prod", w)
		if diff := cmp.Diff([]Wish{w}, asks(t, b, "prod")); diff != "" {
			t.Errorf("wishes (-want +got)\n%s", diff)
		}
		serving := Answer{Session: w.Session.ID, State: SourceServing, Pin: stream.Pin{2}, Addresses: []string{"10.0.0.1:4440"}}
		if got := asks(t, b, "other", serving); len(got) > 0 {
			t.Errorf("another site is told %v", got)
		}
		if a, ok := b.Answer(w.Session.ID); ok {
			t.Errorf("another site's answer counts: %v", a)
		}
		asks(t, b, "prod", serving)
		a, ok := b.Answer(w.Session.ID)
		if diff := cmp.Diff(serving, a); !ok || diff != "" {
			t.Errorf("answer (-want +got)\n%s", diff)
		}
		pass(answerLife + time.Second)
		if a, ok := b.Answer(w.Session.ID); ok {
			t.Errorf("an old answer is believed: %v", a)
		}
		b.Wish("prod", w)
		pass(wishLife - time.Second)
		if len(asks(t, b, "prod")) != 1 {
			t.Error("the wish has lapsed early")
		}
		pass(2 * time.Second)
		if len(asks(t, b, "prod")) != 0 {
			t.Error("the wish stands though nobody repeats it")
		}
		b.Wish("prod", w)
		b.Forget("t1")
		b.Wish("prod", wish("t2", 1))
		b.Withdraw(sessionID("t2", 1))
		if got := asks(t, b, "prod"); len(got) != 0 {
			t.Errorf("taken back: %v", got)
		}
		out, err := b.Serve("prod", []byte(`{"version":1,"answers":[]}`))
		if err != nil || !strings.Contains(string(out), sessionID("t1", 1)) || !strings.Contains(string(out), sessionID("t2", 1)) {
			t.Errorf("it is not told what is over: %s, %v", out, err)
		}
		if out, err := b.Serve("other", []byte(`{"version":1,"answers":[]}`)); err != nil || strings.Contains(string(out), "over") {
			t.Errorf("another site is told what is over: %s, %v", out, err)
		}
	})
}

// TestLeases has a source hear wishes early, late and again: of each transfer the highest epoch counts, and what is over or was
// outrun does not come back.
func TestLeases(t *testing.T) {
	var says reply
	s := &Server{Site: "prod", Ask: func(context.Context, []byte) ([][]byte, error) {
		says.Version = wireVersion
		text, err := json.Marshal(says)
		return [][]byte{text}, err
	}}
	s.begin()
	foreign := wish("c", 1)
	foreign.Session.Claim = "other/shop/db"
	expired := wish("d", 1)
	expired.Session.Expires = time.Now().Add(-time.Second)
	for _, step := range []struct {
		name string
		says reply
		want []string
	}{
		{"First", reply{Wishes: []Wish{wish("a", 1), wish("b", 1), foreign, expired}}, []string{"a1", "b1"}},
		{"Missed", reply{}, []string{"a1", "b1"}},
		{"Next", reply{Wishes: []Wish{wish("a", 2), wish("a", 1)}}, []string{"a2", "b1"}},
		{"Late", reply{Wishes: []Wish{wish("a", 1)}}, []string{"a2", "b1"}},
		{"Over", reply{Over: []string{sessionID("a", 2)}}, []string{"b1"}},
		{"LateAgain", reply{Wishes: []Wish{wish("a", 1), wish("a", 2)}}, []string{"b1"}},
		{"Anew", reply{Wishes: []Wish{wish("a", 3)}}, []string{"a3", "b1"}},
	} {
		says = step.says
		if err := s.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range s.live() {
			got = append(got, fmt.Sprint(w.Transfer, w.Session.Epoch))
		}
		slices.Sort(got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: live (-want +got)\n%s", step.name, diff)
		}
	}
}

func TestHostileMessages(t *testing.T) {
	good := Answer{Session: "s", State: SourceServing, Pin: stream.Pin{1}}
	for name, change := range map[string]func(*Answer){
		"state":     func(a *Answer) { a.State = "Dancing" },
		"silent":    func(a *Answer) { a.State = SourceSilent },
		"class":     func(a *Answer) { a.Class = "Deleted" },
		"session":   func(a *Answer) { a.Session = "../s" },
		"pin":       func(a *Answer) { a.Pin = stream.Pin{} },
		"address":   func(a *Answer) { a.Addresses = []string{"example.com:80"} },
		"addresses": func(a *Answer) { a.Addresses = make([]string, maxAddresses+1) },
		"capacity":  func(a *Answer) { a.Facts = &Facts{Capacity: "-1Gi"} },
		"mode":      func(a *Answer) { a.Facts = &Facts{AccessModes: []string{"Everything"}} },
	} {
		t.Run(name, func(t *testing.T) {
			a := good
			if err := a.check(); err != nil {
				t.Fatal(err)
			}
			if change(&a); a.check() == nil {
				t.Error("it is accepted")
			}
		})
	}
	for name, change := range map[string]func(*Wish){
		"claim": func(w *Wish) { w.Session.Claim = "prod/shop" }, "path": func(w *Wish) { w.Session.Claim = "prod/../db" },
		"epoch": func(w *Wish) { w.Session.Epoch = 0 }, "peer": func(w *Wish) { w.Peer = stream.Pin{} },
		"transfer": func(w *Wish) { w.Transfer = "a,b=c" },
	} {
		t.Run(name, func(t *testing.T) {
			w := wish("t", 1)
			if err := w.check(); err != nil {
				t.Fatal(err)
			}
			if change(&w); w.check() == nil {
				t.Error("it is accepted")
			}
		})
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add([]byte(`{"version":1,"answers":[{"session":"s","state":"Refused","class":"Refused","message":"no\u001b[31m"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := parseQuestion(text)
		if err != nil {
			return
		}
		for _, a := range q.Answers {
			shown(t, a.Message, maxText)
			if a.Facts != nil {
				shown(t, a.Facts.Node, maxName)
			}
		}
	})
}

func FuzzParseReply(f *testing.F) {
	text, err := json.Marshal(reply{Version: wireVersion, Wishes: []Wish{wish("t", 1)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseReply(text)
		if err != nil {
			return
		}
		for _, w := range r.Wishes {
			if _, namespace, name, ok := w.parts(); !ok || strings.ContainsAny(namespace+name, "/?#% ") {
				t.Errorf("wish of %q", w.Session.Claim)
			}
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"session":"s","epoch":1,"phase":"Finished","progress":{"bytes":-5},"verdict":{"class":"Done","reason":"copied"},"reports":[{"pass":"Data","class":"Done","problems":["a\nb"]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseReport(text)
		if err != nil {
			return
		}
		for _, line := range append(append(append([]string{r.Phase}, r.Problems...), r.Different...), r.CannotKeep...) {
			shown(t, line, maxText)
		}
		if len(r.Problems) > maxLines || len(r.Different) > maxLines || min(r.Progress.Bytes, r.Progress.Known, r.Progress.Left, r.Sent, r.Received, r.Rate, r.Deleted, r.Total) < 0 {
			t.Errorf("report %+v", r)
		}
		if r.Verdict != nil && r.outcome().Class == "" {
			t.Error("an outcome without a class")
		}
	})
}

// shown fails the test unless a text may be shown.
func shown(t *testing.T, text string, limit int) {
	t.Helper()
	if len(text) > 2*limit || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q is not harmless", text)
	}
}

// pass lets time go by, in a bubble.
func pass(d time.Duration) { <-time.After(d) }
