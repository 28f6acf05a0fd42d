package collect

import (
	"errors"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dr-syncer/dr-syncer/kube"
)

// TestAbsenceIsConfirmed restarts a collector into a list that lacks something, and wants to read in the log what
// that proves.
func TestAbsenceIsConfirmed(t *testing.T) {
	const shop = "namespaces/shop"
	cases := map[string]struct {
		reason string
		kind   kube.Kind
		// before and after are what is listed, there what is answered when asked for by name, as "resource/name", with UIDs.
		before, after []string
		there         map[string]string
		want          []string
	}{
		"OneOfTwo": {
			"it is not in the list, nor there by name, and the namespace is",
			configMaps,
			[]string{"a", "b"},
			[]string{"b"},
			map[string]string{shop: uidTwo},
			[]string{"put a", "put b", "delete sweep a"},
		},
		"WholeKind": {
			"a source that cannot see them shows the same",
			configMaps,
			[]string{"a", "b"},
			nil,
			map[string]string{shop: uidTwo},
			[]string{"put a", "put b", "delete emptied a", "delete emptied b"},
		},
		"WholeKindOfOne": {
			"however few there were",
			configMaps,
			[]string{"a"},
			nil,
			map[string]string{shop: uidTwo},
			[]string{"put a", "delete emptied a"},
		},
		"OnlyNewOnes": {
			"the source sees the kind",
			configMaps,
			[]string{"a"},
			[]string{"new"},
			map[string]string{shop: uidTwo},
			[]string{"put a", "put new", "delete sweep a"},
		},
		"WholeNamespace": {
			"it is gone with its namespace",
			configMaps,
			[]string{"a", "b"},
			[]string{"b"},
			nil,
			[]string{"put a", "put b", "delete emptied a"},
		},
		"Namespace": {
			"it would take all that is in it along",
			namespaceKind,
			[]string{"a", "b"},
			[]string{"b"},
			nil,
			[]string{"put a", "put b", "delete emptied a"},
		},
		"ShortList": {
			"it is there by name, so the list proves nothing",
			configMaps,
			[]string{"a", "b"},
			[]string{"b"},
			map[string]string{shop: uidTwo, "configmaps/a": uidOne},
			[]string{"put a", "put b"},
		},
		"AnotherHasItsName": {
			"it was made anew after the list",
			configMaps,
			[]string{"a", "b"},
			[]string{"b"},
			map[string]string{shop: uidTwo, "configmaps/a": "00000000-0000-0000-0000-000000000009"},
			[]string{"put a", "put b", "delete sweep a"},
		},
		"NoAnswer": {
			"who cannot ask knows nothing",
			configMaps,
			[]string{"a", "b"},
			[]string{"b"},
			map[string]string{shop: uidTwo, "configmaps/a": ""},
			[]string{"put a", "put b"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := scriptedWorld(t)
			written := w.written()
			lists := func(version string, names []string) *scripted {
				s := newScripted("one", func(k kube.Kind, h kube.Handler) {
					var objects []kube.Object
					for _, name := range names {
						objects = append(objects, scriptedObject(k, name, strings.Replace(uidOne, "1", map[string]string{"a": "1", "b": "2", "new": "3"}[name], 1), "10"))
					}
					list(h, version, objects...)
				}, c.kind)
				s.get = func(k kube.Kind, _, name string) (kube.Object, error) {
					switch uid, there := c.there[k.Resource+"/"+name]; {
					case !there:
						return kube.Object{}, apierrors.NewNotFound(schema.GroupResource{Resource: k.Resource}, name)
					case uid == "":
						return kube.Object{}, errors.New("no answer")
					default:
						return scriptedObject(k, name, uid, "30"), nil
					}
				}
				return s
			}
			w.source = lists("20", c.before)
			w.start()
			w.incarnation("one")
			w.stop()
			w.source = lists("40", c.after)
			w.start()
			sorted := func() []string { return slices.Sorted(slices.Values(written())) } // what goes together goes in any order
			slices.Sort(c.want)
			if strings.HasPrefix(c.want[0], "delete") {
				w.writes(sorted, c.want...)
				return
			}
			w.eventually("it says so", func() string {
				if h := w.heartbeat(); h.Complete || h.Failing["configmaps"] == "" {
					return "nothing fails"
				}
				return ""
			})
			w.stop()
			w.writes(sorted, c.want...)
		})
	}
}
