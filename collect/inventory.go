package collect

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// inventory is what the log is known to hold: an entry for every object whose
// last event is a put. It is built for tens of thousands of objects: names are the
// only strings an entry has of its own. Not safe for concurrent use.
type inventory struct {
	kinds map[pipeline.GroupResource]map[objectKey]entry
	// namespaces holds one copy of every namespace's name.
	namespaces map[string]string
	// odd holds the UIDs that are not UUIDs, by their hash.
	odd         map[uid]string
	count, held int
}

// objectKey names an object within its kind.
type objectKey struct{ namespace, name string }

// entry is an object as the log holds it.
type entry struct {
	uid    uid
	digest pipeline.Digest
	// version is the newest one seen with this digest, 0 if it is not a number.
	version uint64
	// held: from before the epoch. It is written anew when it is seen, and deleted when a complete
	// list of this epoch lacks it.
	held bool
	// alien, of a held one: from another cluster, from before a reset of this one, or it is not known.
	alien bool
}

// uid is a UID in 16 bytes: the UUID, or a hash of what is none.
type uid [16]byte

func newInventory() *inventory {
	return &inventory{
		kinds:      map[pipeline.GroupResource]map[objectKey]entry{},
		namespaces: map[string]string{},
		odd:        map[uid]string{},
	}
}

func keyOf(r pipeline.Ref) objectKey { return objectKey{r.Namespace, r.Name} }

func (i *inventory) get(r pipeline.Ref) (entry, bool) {
	e, ok := i.kinds[r.GroupResource()][keyOf(r)]
	return e, ok
}

// put sets the entry of an object. The strings of r may belong to anything: what is
// kept is copied.
func (i *inventory) put(r pipeline.Ref, e entry) {
	kind := i.kinds[r.GroupResource()]
	if kind == nil {
		kind = map[objectKey]entry{}
		i.kinds[pipeline.GroupResource{Group: strings.Clone(r.Group), Resource: strings.Clone(r.Resource)}] = kind
	}
	key := keyOf(r)
	former, known := kind[key]
	if !known {
		key = objectKey{i.intern(r.Namespace), strings.Clone(r.Name)}
		i.count++
	}
	i.held += count(e.held) - count(former.held)
	kind[key] = e
}

// remove takes an object out. Removing none does nothing.
func (i *inventory) remove(r pipeline.Ref) {
	kind := i.kinds[r.GroupResource()]
	former, known := kind[keyOf(r)]
	if !known {
		return
	}
	i.count--
	i.held -= count(former.held)
	delete(kind, keyOf(r))
	delete(i.odd, former.uid)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (i *inventory) intern(s string) string {
	if known, ok := i.namespaces[s]; ok {
		return known
	}
	s = strings.Clone(s)
	i.namespaces[s] = s
	return s
}

// newest returns the highest version of the entries of a kind that are of this epoch.
func (i *inventory) newest(k pipeline.GroupResource) uint64 {
	var highest uint64
	for _, e := range i.kinds[k] {
		if !e.held {
			highest = max(highest, e.version)
		}
	}
	return highest
}

// uidOf packs a UID to be put; uidText unpacks it.
func (i *inventory) uidOf(text string) uid {
	u, ok := packUID(text)
	if _, known := i.odd[u]; !ok && !known {
		i.odd[u] = strings.Clone(text)
	}
	return u
}

// packUID packs a UID; ok is false if it is a hash that cannot be unpacked.
func packUID(text string) (u uid, ok bool) {
	if u, ok = parseUUID(text); ok {
		return u, true
	}
	sum := sha256.Sum256([]byte(text))
	return uid(sum[:16]), false
}

func (i *inventory) uidText(u uid) string {
	if text, ok := i.odd[u]; ok {
		return text
	}
	var b [36]byte
	for n, span := range uuidParts {
		hex.Encode(b[span.at:], u[span.from:span.to])
		if n > 0 {
			b[span.at-1] = '-'
		}
	}
	return string(b[:])
}

// uuidParts are the groups of a UUID's text: where they begin and which bytes they show.
var uuidParts = [...]struct{ at, from, to int }{{0, 0, 4}, {9, 4, 6}, {14, 6, 8}, {19, 8, 10}, {24, 10, 16}}

// parseUUID reads a UUID in its one canonical form.
func parseUUID(text string) (u uid, ok bool) {
	if len(text) != 36 {
		return u, false
	}
	for n, span := range uuidParts {
		if n > 0 && text[span.at-1] != '-' {
			return u, false
		}
		part := text[span.at : span.at+2*(span.to-span.from)]
		if strings.ToLower(part) != part {
			return u, false
		}
		if _, err := hex.Decode(u[span.from:span.to], []byte(part)); err != nil {
			return u, false
		}
	}
	return u, true
}

// number returns a resource version as a number to compare with others of the same
// kind, 0 if it is none.
func number(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil || version[0] == '0' && len(version) > 1 || version[0] == '+' {
		return 0
	}
	return n
}
