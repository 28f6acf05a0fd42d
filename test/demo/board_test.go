package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
)

func TestBoardTimesTheFirstStateThatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		c := &column{b, "ConfigMap"}
		observe := func(version, revision string) {
			c.Observe(kube.Object{Namespace: "shop", Name: "a", Version: version, Raw: []byte(`{"data":{"r":"` + revision + `"}}`)})
		}
		observe("1", "2") // what was there before does not count
		e := b.expect("ConfigMap shop/a", field("data.r", "2"))
		start := time.Now()
		go func() {
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // fake time
			observe("2", "1")
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // fake time
			observe("3", "2")
			observe("3", "2") // the same state again
		}()
		at, err := b.wait(t.Context(), e, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := at.Sub(start); got != 20*time.Millisecond {
			t.Errorf("seen after %s, want 20ms", got)
		}
		synctest.Wait()
		if got := b.count("ConfigMap shop/a"); got != 3 {
			t.Errorf("%d states, want 3", got)
		}
	})
}

func TestBoardSaysWhatWasNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		e := b.expect("ConfigMap shop/a", exists)
		if _, err := b.wait(t.Context(), e, time.Second); !errors.Is(err, errNotSeen) {
			t.Errorf("error %v, want errNotSeen", err)
		}
		e = b.expect("ConfigMap shop/a", exists)
		cause := errors.New("watch refused")
		b.failed(cause)
		if _, err := b.wait(t.Context(), e, time.Second); !errors.Is(err, cause) {
			t.Errorf("error %v, want the watch's", err)
		}
	})
}

func TestBoardTakesAnIncompleteListForDeletions(t *testing.T) {
	b := newBoard()
	c := &column{b, "ConfigMap"}
	kept, lost := kube.Object{Namespace: "n", Name: "kept", Version: "1", Raw: []byte("{}")}, kube.Object{Namespace: "n", Name: "lost", Version: "1", Raw: []byte("{}")}
	c.Observe(kept)
	c.Observe(lost)
	(&column{b, "Secret"}).Observe(lost)
	e, other := b.expect("ConfigMap n/lost", gone), b.expect("Secret n/lost", gone)
	c.Replace([]kube.Object{kept}, "2")
	select {
	case <-e.end:
	default:
		t.Error("what a new list lacks is not taken as gone")
	}
	select {
	case <-other.end:
		t.Error("a list of one kind took away an object of another")
	default:
	}
}

func TestRowsAlignWhateverTheColor(t *testing.T) {
	var plain, colored strings.Builder
	for _, p := range []*printer{{out: &plain}, {out: &colored, color: true}} {
		p.row(p.red("edit"), "ConfigMap "+p.dim("shop/a"))(p.ms(38 * time.Millisecond))
		p.row("scale", "Deployment shop/web: 3 -> 6")(p.ms(1234 * time.Millisecond))
	}
	want := "" +
		"  edit     ConfigMap shop/a                                          38 ms\n" +
		"  scale    Deployment shop/web: 3 -> 6                             1234 ms\n"
	if diff := cmp.Diff(want, plain.String()); diff != "" {
		t.Errorf("plain (-want +got):\n%s", diff)
	}
	if !strings.Contains(colored.String(), "\x1b[31m") {
		t.Error("no color")
	}
	if diff := cmp.Diff(want, paints.ReplaceAllString(colored.String(), "")); diff != "" {
		t.Errorf("colored, without the color (-want +got):\n%s", diff)
	}
}

func TestFit(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"short", 5, "short"}, {"longer", 5, "long…"}, {"ärger mit", 4, "ärg…"}, {"", 3, ""}} {
		if got := fit(tc.in, tc.n); got != tc.want {
			t.Errorf("fit(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

func TestAppKeysNamesEveryObject(t *testing.T) {
	keys, err := appKeys()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, k := range keys {
		if seen[k] {
			t.Errorf("%s is there twice", k)
		}
		seen[k] = true
	}
	for _, want := range []string{"Namespace shop", "StatefulSet shop-data/db", "PersistentVolumeClaim shop/uploads", "Coupon shop/welcome", "ClusterRole shop-auditor"} {
		if !seen[want] {
			t.Errorf("%s is missing", want)
		}
	}
}
