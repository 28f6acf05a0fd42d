package apply

import (
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Rules may give a copy another place than the Replication's mapping does, or make
// several copies of one object. Such a stray copy says in its origin whose it is, so
// that it is found again by its source after any restart.

// setOrigin changes a copy's origin. The lock is held.
func (s *shelf) setOrigin(k key, it *item, origin Origin) {
	s.unstray(k, it)
	it.origin = s.share(origin)
	if it.origin.Name != "" {
		ref := s.refOf(k, it)
		s.strays[ref] = append(s.strays[ref], k)
	}
}

// unstray forgets where a copy has strayed to. The lock is held.
func (s *shelf) unstray(k key, it *item) {
	if it.origin.Name == "" {
		return
	}
	ref := s.refOf(k, it)
	left := slices.DeleteFunc(s.strays[ref], func(other key) bool { return other == k })
	if len(left) == 0 {
		delete(s.strays, ref)
		return
	}
	s.strays[ref] = left
}

// straysOf returns where the stray copies of a source object are, in order.
func (s *shelf) straysOf(ref pipeline.Ref) []key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.Clone(s.strays[ref])
	slices.SortFunc(keys, key.compare)
	return keys
}

// await has ref told as drifted when the copy that another source object has can be
// had. It reports false if it can be had already.
func (s *shelf) await(k key, mark string, ref pipeline.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.ours[k]
	if it == nil || it.left || s.refOf(k, it) == ref {
		return false
	}
	l := loss{mark, ref}
	if !slices.Contains(s.waiting[k], l) {
		s.waiting[k] = append(s.waiting[k], l)
	}
	return true
}

// free returns who waits for a copy, and forgets them. The lock is held.
func (s *shelf) free(k key) []loss {
	all := s.waiting[k]
	delete(s.waiting, k)
	return all
}

// tell says whom it concerns. It is called without the lock.
func (s *shelf) tell(all []loss) {
	for _, l := range all {
		s.inv.drifted(l.mark, l.ref)
	}
}
