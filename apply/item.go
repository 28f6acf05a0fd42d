package apply

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// key names an object within its kind at the destination.
type key struct{ namespace, name string }

func (k key) compare(o key) int {
	return cmp.Or(strings.Compare(k.namespace, o.namespace), strings.Compare(k.name, o.name))
}

// holder says whose an object at the destination is.
type holder uint8

const (
	// absent: there is no such object.
	absent holder = iota
	// foreign: it is no copy, whatever its labels say.
	foreign
	// marked: it is a copy of some Replication.
	marked
)

// entry is what is known of one object at the destination.
type entry struct {
	holder holder
	// mark is the value of the mark: which Replication's copy it is.
	mark   string
	uid    string
	origin Origin
	// source is the name of the source object, whose namespace the origin says.
	source string
	digest pipeline.Digest
	// seen is the newest position that was found to need no write: a watermark beyond the origin's.
	seen pipeline.Position
	// deleting: it is being deleted and will be gone.
	deleting bool
	// drifted: somebody else has changed it, or an earlier write of ours has come late.
	drifted bool
	// left: its source object does not want it any more, and it was kept.
	left bool
	// raised: it is foreign, a claim that this cluster's controller made for a StatefulSet.
	raised bool
	// unproven, if not empty, is the set of fields that we own, of a copy found when
	// watching began: whether all are still ours is not known yet.
	unproven string
}

// item is an entry as a shelf keeps it.
type item struct {
	entry
	// version is the newest resourceVersion known, 0 if the server's are not numbers.
	version uint64
	// stamp and applied tell our part of the copy: as last seen, and as our write
	// left it, or zero if it is not known that it was this process's.
	stamp, applied stamp
	// ended: it is we who delete it.
	ended bool
	// synced: it is as the log last said.
	synced bool
}

// stranger is an object that is no copy.
type stranger struct {
	// derived: it is not somebody's own making but comes from another object or from the namespace.
	derived bool
	// raised is the UID of a claim that the controller made for a StatefulSet.
	raised string
}

// stamp tells our part of a copy from what anybody else makes of it: somebody who takes a field from us
// changes it, and so does an earlier write of ours that comes late.
type stamp struct {
	fields string // a hash of the fields we own
	marks  uint64 // a hash of the annotations of ours
}

var marksSeed = maphash.MakeSeed()

func stampOf(fields, origin, digest string) stamp {
	return stamp{fields: fields, marks: maphash.Comparable(marksSeed, [2]string{origin, digest})}
}

// loss is a copy that is not what we knew.
type loss struct {
	mark string
	ref  pipeline.Ref
}

// number reads a resourceVersion. Those of objects of one kind can be compared as
// numbers; a server whose versions are no numbers gives 0, which is never newer.
func number(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func title(gr pipeline.GroupResource, k key) string {
	if k.namespace == "" {
		return fmt.Sprintf("%s %s", gr, k.name)
	}
	return fmt.Sprintf("%s %s/%s", gr, k.namespace, k.name)
}
