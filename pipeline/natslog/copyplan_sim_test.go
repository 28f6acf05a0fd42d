package natslog

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// twoEnds simulates a source and the copy of its histories, with only the numbers.
type twoEnds struct {
	source, copies []historyState
	through, seen  pipeline.Position
	broken         bool
}

func epochNamed(n int) string { return string(rune('A' + n)) }

func (e *twoEnds) begin(whole bool) {
	e.source = append(e.source, historyState{Epoch: epochNamed(len(e.source)), First: 1, Whole: whole})
}

// carry brings some records of the epoch that is being copied over the link.
func (e *twoEnds) carry(n uint64) {
	if len(e.copies) == 0 {
		return
	}
	mine := &e.copies[len(e.copies)-1]
	for i := range e.source {
		from := e.source[i]
		if from.Epoch != mine.Epoch || mine.Last >= from.Last {
			continue
		}
		first := max(mine.Last+1, from.First) // what retention has dropped does not come
		last := min(first+n, from.Last)
		mine.Messages += last - first + 1
		if mine.First == 0 {
			mine.First = first
		}
		mine.Last = last
		if mine.Messages == mine.Last { // nothing is missing: the current stream takes it up
			e.through = pipeline.Position{Epoch: mine.Epoch, Seq: mine.Last}
		}
	}
}

// plan is one exchange over the link.
func (e *twoEnds) plan(t *rapid.T) {
	next, broken, err := planCopy(e.copies, e.through, e.seen, e.source)
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	if next != "" && broken {
		t.Fatalf("epoch %s is copied though a whole one is asked for", next)
	}
	e.broken = broken
	if next == "" {
		return
	}
	var of historyState
	at := 0
	for i, h := range e.source {
		if h.Epoch == next {
			of, at = h, i
		}
	}
	switch mine := len(e.copies) - 1; {
	case of.Epoch == "" || !of.untrimmed():
		t.Fatalf("epoch %q is to be copied, whose beginning is gone: %+v", next, e.source)
	case mine >= 0 && next <= e.copies[mine].Epoch:
		t.Fatalf("epoch %s is to be copied after %s", next, e.copies[mine].Epoch)
	case of.Whole:
	case mine < 0:
		t.Fatalf("the copying begins with epoch %s, which is not whole", next)
	case at == 0 || e.source[at-1].Epoch != e.copies[mine].Epoch || e.copies[mine].Last != e.source[at-1].Last || e.copies[mine].Messages != e.copies[mine].Last:
		t.Fatalf("epoch %s is not whole and what is before it is not copied: %+v of %+v", next, e.copies, e.source)
	}
	e.copies = append(e.copies, historyState{Epoch: next, Copy: true})
}

// TestPlanCopyOfAnything has a source append, drop its oldest records and begin
// epochs, over a link that carries as it likes. No record is ever passed over
// silently, and once the source is quiet and the link works the copy is complete.
func TestPlanCopyOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &twoEnds{}
		e.begin(true)
		newest := func() *historyState { return &e.source[len(e.source)-1] }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) { newest().Last += rapid.Uint64Range(1, 9).Draw(t, "records") },
			"trim": func(t *rapid.T) {
				h := &e.source[rapid.IntRange(0, len(e.source)-1).Draw(t, "epoch")]
				if h.First <= h.Last {
					h.First = rapid.Uint64Range(h.First, h.Last).Draw(t, "first")
				}
			},
			"epoch": func(*rapid.T) {
				if len(e.source) < 20 {
					e.begin(e.broken) // a writer that is told writes a whole one
				}
			},
			"carry":                func(t *rapid.T) { e.carry(rapid.Uint64Range(0, 9).Draw(t, "records")) },
			"plan":                 e.plan,
			"lose the destination": func(*rapid.T) { e.copies, e.through = nil, pipeline.Position{} },
		})
		for range 2 * (len(e.source) + 3) {
			e.plan(t)
			if e.broken {
				e.begin(true)
				newest().Last = 3
			}
			e.carry(1 << 20)
		}
		last := e.copies[len(e.copies)-1]
		if e.broken || last.Epoch != newest().Epoch || last.Last != newest().Last {
			t.Fatalf("in the end the copy is %+v of %+v, broken: %v", last, *newest(), e.broken)
		}
	})
}
