package natslog

import (
	"errors"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

func TestPlanCopy(t *testing.T) {
	has := func(epoch string, first, last uint64) historyState {
		return historyState{Epoch: epoch, First: first, Last: last, Messages: last + 1 - first}
	}
	whole := func(h historyState) historyState { h.Whole = true; return h }
	of := func(h historyState) historyState { h.Copy = true; return h }
	holed := func(h historyState) historyState { h.Messages--; return h }
	type list = []historyState
	cases := map[string]struct {
		have, offered list
		through, seen pipeline.Position
		next          string
		broken        bool
		err           error
	}{
		"nothing there":              {},
		"first copy":                 {offered: list{whole(has("1", 1, 9))}, next: "1"},
		"first copy, from the start": {offered: list{whole(has("1", 1, 9)), whole(has("2", 1, 3))}, next: "1"},
		"first copy, beginning gone": {offered: list{whole(has("1", 5, 9)), has("2", 1, 3)}, broken: true},
		"first copy, whole later":    {offered: list{has("1", 5, 9), whole(has("2", 1, 3)), has("3", 1, 3)}, next: "2"},
		"goes on":                    {have: list{of(has("1", 1, 4))}, offered: list{has("1", 1, 9)}},
		"complete":                   {have: list{of(has("1", 1, 9))}, offered: list{has("1", 1, 9), has("2", 1, 1)}, next: "2"},
		"not complete yet":           {have: list{of(has("1", 1, 8))}, offered: list{has("1", 1, 9), has("2", 1, 1)}},
		"behind retention":           {have: list{of(has("1", 1, 4))}, offered: list{has("1", 6, 9)}, broken: true},
		"behind it, whole epoch":     {have: list{of(has("1", 1, 4))}, offered: list{has("1", 6, 9), whole(has("2", 1, 1))}, next: "2"},
		"hole":                       {have: list{of(holed(has("1", 1, 9)))}, offered: list{has("1", 1, 9)}, broken: true},
		"trimmed and taken up":       {have: list{of(has("1", 5, 9))}, through: pipeline.Position{Epoch: "1", Seq: 9}, offered: list{has("1", 1, 9)}},
		"trimmed, not taken up":      {have: list{of(has("1", 5, 9))}, through: pipeline.Position{Epoch: "1", Seq: 3}, offered: list{has("1", 1, 9)}, broken: true},
		"original lost its end":      {have: list{of(has("1", 1, 9))}, seen: pipeline.Position{Epoch: "1", Seq: 9}, offered: list{has("1", 1, 7)}, broken: true},
		"older original":             {have: list{of(has("2", 1, 9))}, offered: list{has("1", 1, 7)}, err: ErrConflict},
		"written here":               {have: list{{Epoch: "1", Open: true}}, offered: list{has("2", 1, 7)}, err: ErrConflict},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			next, broken, err := planCopy(tc.have, tc.through, tc.seen, tc.offered)
			if next != tc.next || broken != tc.broken || !errors.Is(err, tc.err) {
				t.Errorf("plan: %q, %v, %v; want %q, %v, %v", next, broken, err, tc.next, tc.broken, tc.err)
			}
		})
	}
}
