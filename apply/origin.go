package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Origin is where the state of a copy comes from. It stands on the copy in
// the annotation v1alpha1.AnnotationOrigin.
type Origin struct {
	Site string
	// Position is the copy's watermark: the place in the site's history of the
	// record that was applied last.
	Position pipeline.Position
	// UID is the source object's.
	UID string
	// Namespace is the source object's, and the object's own name if it is a
	// Namespace. It is empty for other cluster-scoped objects.
	Namespace string
	// Name is the source object's if a rule gave the copy another place than the
	// Replication's mapping does, empty for all others: they have the same name.
	Name string
}

// errOrigin reports an annotation that this package did not write.
var errOrigin = errors.New("not an origin")

// originOf is the origin that a copy made from r has.
func originOf(r pipeline.Record) Origin {
	o := Origin{Site: r.Ref.Site, Position: r.Position, UID: r.UID, Namespace: r.Ref.Namespace}
	if isNamespace(r.Ref.GroupResource()) {
		o.Namespace = r.Ref.Name
	}
	return o
}

// String is "site/epoch/sequence/uid/namespace", and "/name" if there is one, with
// each part escaped as in subjects, so that every Origin has one form and no two share one.
func (o Origin) String() string {
	parts := []string{
		pipeline.EscapeToken(o.Site),
		pipeline.EscapeToken(o.Position.Epoch),
		strconv.FormatUint(o.Position.Seq, 10),
		pipeline.EscapeToken(o.UID),
		pipeline.EscapeToken(o.Namespace),
	}
	if o.Name != "" {
		parts = append(parts, pipeline.EscapeToken(o.Name))
	}
	return strings.Join(parts, "/")
}

// ParseOrigin is the inverse of Origin.String; it accepts nothing else.
func ParseOrigin(s string) (Origin, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 5 && len(parts) != 6 {
		return Origin{}, fmt.Errorf("%w: %q has %d parts, not 5 or 6", errOrigin, s, len(parts))
	}
	var o Origin
	for i, to := range map[int]*string{0: &o.Site, 1: &o.Position.Epoch, 3: &o.UID, 4: &o.Namespace, 5: &o.Name} {
		if i >= len(parts) {
			continue
		}
		v, err := pipeline.UnescapeToken(parts[i])
		if err != nil {
			return Origin{}, fmt.Errorf("%w: %q: %w", errOrigin, s, err)
		}
		*to = v
	}
	seq, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != parts[2] {
		return Origin{}, fmt.Errorf("%w: %q: sequence is not a plain number", errOrigin, s)
	}
	o.Position.Seq = seq
	if o.Site == "" || o.UID == "" || len(parts) == 6 && o.Name == "" {
		return Origin{}, fmt.Errorf("%w: %q: site, uid and name must not be empty", errOrigin, s)
	}
	return o, nil
}

// marksOf reads the mark and the origin of an object from its metadata. An object is a
// copy only if we have applied the mark and the origin can be read: a label alone
// says nothing, since controllers copy those of an object to what they make from it.
func marksOf(raw []byte) (mark string, o Origin, ok bool) {
	if mark, ok = labelsOf(raw).Lookup(v1alpha1.LabelReplication); !ok || !ownsMark(ourFields(raw)) {
		return "", Origin{}, false
	}
	o, err := ParseOrigin(annotation(raw, v1alpha1.AnnotationOrigin))
	return mark, o, err == nil
}

func annotation(raw []byte, name string) string {
	return gjson.GetBytes(raw, "metadata.annotations."+strings.ReplaceAll(name, ".", `\.`)).String()
}

// maxLabelValue is what Kubernetes allows.
const maxLabelValue = 63

// Mark is the value of the label v1alpha1.LabelReplication on the copies of a
// Replication: "namespace.name", which no other Replication has since a
// namespace holds no dot; a longer one is cut and ends in a hash of the whole.
func Mark(namespace, name string) string {
	full := namespace + "." + name
	if len(full) <= maxLabelValue {
		return full
	}
	sum := sha256.Sum256([]byte(full))
	hash := "-" + hex.EncodeToString(sum[:8])
	return full[:maxLabelValue-len(hash)] + hash
}
