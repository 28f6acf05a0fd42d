package collect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// maxAsked is how many of the objects that a list lacks are asked for by name.
const maxAsked = 100

// errShort reports a list that lacks what is there.
var errShort = errors.New("the list lacks objects that are there: it proves nothing, listing again")

// namespaceKind is how Namespaces are read.
var namespaceKind = kube.Kind{
	GroupResource: pipeline.GroupResource{Resource: "namespaces"}, Version: "v1", Kind: "Namespace", Verbs: []string{"get"},
}

// confirm asks the source, by name, for objects that a list lacks: for all of a few, for some of many. One that is there
// shows that the list was short, and then nothing of it counts. It returns the absences, with EvidenceEmptied
// for those whose whole namespace is gone.
func (w *handler) confirm(absent []absence) ([]absence, error) {
	if w.kind.Can("get") {
		some := slices.Clone(absent)
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] }) //nolint:gosec // G404: which are asked for is no secret
		for _, a := range some[:min(len(some), maxAsked)] {
			o, there, err := w.ask(w.ctx, w.kind, a.namespace, a.name)
			if err != nil {
				return nil, err
			}
			if u, _ := packUID(o.UID); there && u == a.uid { // else another has its name since
				return nil, errShort
			}
		}
	}
	exists := map[string]bool{"": true}
	for i, a := range absent {
		if _, asked := exists[a.namespace]; !asked {
			_, there, err := w.ask(w.ctx, namespaceKind, "", a.namespace)
			if err != nil {
				return nil, err
			}
			exists[a.namespace] = there
		}
		if a.evidence == pipeline.EvidenceSweep && (!exists[a.namespace] || holdsOthers(w.kind.GroupResource)) {
			absent[i].evidence = pipeline.EvidenceEmptied
		}
	}
	return absent, nil
}

// holdsOthers reports whether objects of the kind take others with them.
func holdsOthers(k pipeline.GroupResource) bool {
	return k == namespaceKind.GroupResource || k == definitions[0]
}

// ask reads one object.
func (w *kindWatch) ask(ctx context.Context, k kube.Kind, namespace, name string) (o kube.Object, there bool, err error) {
	o, err = w.term.source.Get(ctx, k, namespace, name)
	switch {
	case err == nil:
		return o, true, nil
	case kube.IsNotFound(err):
		return o, false, nil
	}
	return o, false, fmt.Errorf("ask for what a list lacks: %w", err)
}
