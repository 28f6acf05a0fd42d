package apply

import (
	"context"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// As soon as a StatefulSet's copy is there, this cluster's own controller makes the claims
// that the copy lacks, without our mark, and so races with the claims of the source.
// Such a claim is nobody's own making. It may become the copy.

// controllerManager is the field manager of the cluster's own controllers.
const controllerManager = "kube-controller-manager"

// raised is the UID of a claim that the cluster's own controllers have made, "" of all
// else. A claim that they only bound to a volume has its access modes from somebody else.
func raised(gr pipeline.GroupResource, o kube.Object) string {
	if gr != claims {
		return ""
	}
	var theirs, others bool
	gjson.GetBytes(o.Raw, "metadata.managedFields").ForEach(func(_, entry gjson.Result) bool {
		if entry.Get("fieldsV1.f:spec.f:accessModes").Exists() {
			theirs = entry.Get("manager").Str == controllerManager && entry.Get("operation").Str == "Update"
			others = others || !theirs
		}
		return true
	})
	if !theirs || others {
		return ""
	}
	return o.UID
}

// raisedForCopy reports whether a claim has the name of one that belongs to
// a StatefulSet which is a copy of this Replication.
func (a *Applier) raisedForCopy(ctx context.Context, claim key) (bool, error) {
	s, err := a.inventory.shelf(ctx, statefulSets)
	switch {
	case err == nil:
	case pipeline.ClassOf(err) == pipeline.Transient:
		return false, err
	default:
		return false, nil // without StatefulSets it has another reason
	}
	for _, set := range setsOf(claim.name) {
		if e := s.look(key{claim.namespace, set}); e.holder == marked && e.mark == a.policy.mark {
			return true, nil
		}
	}
	return false, nil
}

// setsOf are the names that the StatefulSet of a claim may have: a claim is
// called "template-set-ordinal", and each part may hold dashes.
func setsOf(claim string) []string {
	dash := strings.LastIndexByte(claim, '-')
	if dash < 0 {
		return nil
	}
	if n, err := strconv.ParseUint(claim[dash+1:], 10, 31); err != nil || strconv.FormatUint(n, 10) != claim[dash+1:] {
		return nil
	}
	var sets []string
	_, rest, ok := strings.Cut(claim[:dash], "-")
	for ; ok; _, rest, ok = strings.Cut(rest, "-") {
		sets = append(sets, rest)
	}
	return sets
}
