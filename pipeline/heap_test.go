package pipeline

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPriority(t *testing.T) {
	type member struct{ rank, place int }
	rapid.Check(t, func(t *rapid.T) {
		h := priority[*member]{
			before: func(a, b *member) bool { return a.rank < b.rank },
			place:  func(m *member) *int { return &m.place },
		}
		var model []*member
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				m := &member{rank: rapid.IntRange(0, 50).Draw(t, "rank")}
				h.push(m)
				model = append(model, m)
			},
			"remove": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				h.remove(model[i])
				model = slices.Delete(model, i, i+1)
			},
			"": func(t *rapid.T) {
				if h.len() != len(model) {
					t.Fatalf("%d members, want %d", h.len(), len(model))
				}
				for i, m := range h.items {
					if m.place != i {
						t.Fatalf("the member at %d believes to be at %d", i, m.place)
					}
				}
				lowest := slices.MinFunc(append(model, &member{rank: 99}), func(a, b *member) int { return a.rank - b.rank })
				if h.len() > 0 && h.first().rank != lowest.rank {
					t.Fatalf("first is %d, want %d", h.first().rank, lowest.rank)
				}
			},
		})
		for last := -1; h.len() > 0; {
			m := h.first()
			if m.rank < last {
				t.Fatalf("%d came after %d", m.rank, last)
			}
			last = m.rank
			h.remove(m)
		}
	})
}
