package natslog

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answering answers on a connection until the test ends, with its name and the site and question that it got.
func answering(t *testing.T, c *Conn, name string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.AnswerVolumes(ctx, func(site string, question []byte) ([]byte, error) {
			if string(question) == "bad" {
				return nil, errors.New("not a question")
			}
			return []byte(name + " to " + site + ": " + string(question)), nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// asked asks until as many answers come as are wanted: who answers may just be beginning to.
func asked(t *testing.T, c *Conn, site, question string, want ...string) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		answers, err := c.AskVolumes(t.Context(), site, []byte(question))
		var got []string
		for _, a := range answers {
			got = append(got, string(a))
		}
		slices.Sort(got)
		if err == nil && cmp.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("asked %q: %v, %v; want %v", question, got, err, want)
		}
	}
}

func TestQuestionsOfTwoSites(t *testing.T) {
	s, a, b := twoSites(t, "a", "b")
	asked(t, a, "a", "is anybody there?")
	own := testConn(t, ConnectConfig{InProcess: s})
	answering(t, own, "dr")
	asked(t, a, "a", "hello", "dr to a: hello")
	asked(t, b, "b", "hello", "dr to b: hello")
	if answers, err := a.AskVolumes(t.Context(), "a", []byte("bad")); err != nil || len(answers) > 0 {
		t.Errorf("a bad question: %q, %v", answers, err)
	}
	if answers, err := a.AskVolumes(t.Context(), "b", []byte("as another")); len(answers) > 0 {
		t.Errorf("site a asks in the name of b: %q, %v", answers, err)
	}
	if err := a.AnswerVolumes(t.Context(), func(string, []byte) ([]byte, error) { return nil, nil }); !errors.Is(err, ErrDenied) {
		t.Errorf("site a answers the questions of others: %v", err)
	}
}

func TestQuestionsToTwoDestinations(t *testing.T) {
	s := testServer(t, listening)
	answering(t, testConn(t, ConnectConfig{URL: s.URL()}), "x")
	answering(t, testConn(t, ConnectConfig{URL: s.URL()}), "y")
	asked(t, testConn(t, ConnectConfig{URL: s.URL()}), "a.b", "hello", "x to a.b: hello", "y to a.b: hello")
}

func TestQuestionsOverALink(t *testing.T) {
	l := newLinked(t, "a")
	answering(t, testConn(t, ConnectConfig{InProcess: l.destination}), "dr")
	asked(t, testConn(t, ConnectConfig{InProcess: l.source}), "a", "hello", "dr to a: hello")
}
