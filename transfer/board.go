package transfer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// wishLife is how long a wish stands that is not repeated. It is shorter than the source's lease: what is no longer wished here is
	// no longer renewed there.
	wishLife = 30 * time.Second
	// answerLife is how long an answer is believed.
	answerLife = 30 * time.Second
)

// Board holds, at the destination, what is wished of the sources, and what they said of it last. It survives nothing: wishes are
// repeated, and answers too. Its methods are safe for concurrent use.
type Board struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[string]*entry // by session
}

type entry struct {
	site     string
	wish     Wish
	wished   time.Time
	answer   Answer
	answered time.Time
	over     bool // taken back, to be told for as long as a wish lives
}

// NewBoard returns an empty board.
func NewBoard() *Board { return &Board{now: time.Now, entries: map[string]*entry{}} }

// Wish puts a wish to a site up, or repeats it.
func (b *Board) Wish(site string, w Wish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[w.Session.ID]
	if e == nil {
		e = &entry{}
		b.entries[w.Session.ID] = e
	}
	e.site, e.wish, e.wished, e.over = site, w, b.now(), false
}

// Withdraw takes a wish back. It may be repeated.
func (b *Board) Withdraw(session string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(session)
}

// end has a wish be over.
func (b *Board) end(session string) {
	if e := b.entries[session]; e != nil && !e.over {
		e.over, e.wished, e.answered = true, b.now(), time.Time{}
	}
}

// Forget takes all wishes of a transfer back.
func (b *Board) Forget(transfer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for session, e := range b.entries {
		if e.wish.Transfer == transfer {
			b.end(session)
		}
	}
}

// Answer is what the source said of a wish, if that was lately.
func (b *Board) Answer(session string) (Answer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[session]
	if e == nil || e.answered.IsZero() || b.now().Sub(e.answered) > answerLife {
		return Answer{}, false
	}
	return e.answer, true
}

// Serve takes what a site says, and returns what is wished of it. A site is told of its own wishes only, and its answers
// count for these only.
func (b *Board) Serve(site string, text []byte) ([]byte, error) {
	q, err := parseQuestion(text)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, a := range q.Answers {
		if e := b.entries[a.Session]; e != nil && e.site == site && !e.over {
			e.answer, e.answered = a, now
		}
	}
	r := reply{Version: wireVersion, Wishes: []Wish{}}
	for session, e := range b.entries {
		switch {
		case now.Sub(e.wished) > wishLife:
			delete(b.entries, session)
		case e.site == site && e.over:
			r.Over = append(r.Over, session)
		case e.site == site:
			r.Wishes = append(r.Wishes, e.wish)
		}
	}
	slices.SortFunc(r.Wishes, func(a, b Wish) int { return cmp.Compare(a.Session.ID, b.Session.ID) })
	slices.Sort(r.Over)
	r.Wishes, r.Over = r.Wishes[:min(len(r.Wishes), maxEntries)], r.Over[:min(len(r.Over), maxEntries)]
	out, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode what is wished: %w", err)
	}
	return out, nil
}
