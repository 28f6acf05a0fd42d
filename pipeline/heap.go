package pipeline

// priority is a binary heap whose members know their place in it, so that any
// one can be taken out.
type priority[T any] struct {
	items  []T
	before func(a, b T) bool
	place  func(T) *int
}

// first returns the foremost member; there must be one.
func (h *priority[T]) first() T { return h.items[0] }

func (h *priority[T]) len() int { return len(h.items) }

func (h *priority[T]) push(v T) {
	*h.place(v) = len(h.items)
	h.items = append(h.items, v)
	h.up(len(h.items) - 1)
}

// remove takes out a member.
func (h *priority[T]) remove(v T) {
	i, last := *h.place(v), len(h.items)-1
	h.swap(i, last)
	clear(h.items[last:])
	h.items = h.items[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h *priority[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *priority[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			return
		}
		if right := child + 1; right < len(h.items) && h.before(h.items[right], h.items[child]) {
			child = right
		}
		if !h.before(h.items[child], h.items[i]) {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h *priority[T]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.place(h.items[i]), *h.place(h.items[j]) = i, j
}
