package apply

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestStraysAreFoundBySource draws any life of some copies and holds the index of strays
// against a search through all of them.
func TestStraysAreFoundBySource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := kube.Kind{GroupResource: pipeline.GroupResource{Resource: "configmaps"}, Version: "v1", Kind: "ConfigMap", Namespaced: true}
		s := newShelf(kind, NewInventory(nil, slog.New(slog.DiscardHandler)))
		names := rapid.SampledFrom([]string{"a", "b", "c"})
		version := 0
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				k := key{"shop", names.Draw(t, "copy")}
				o := Origin{Site: "prod", UID: "u", Namespace: "shop", Name: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "source")}
				version++
				if s.begin(k) {
					uid := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "uid")
					s.wrote(k, kube.Meta{UID: uid, Version: fmt.Sprint(version), Fields: "f"}, o, digestA, "me")
				}
			},
			"delete": func(t *rapid.T) {
				k := key{"shop", names.Draw(t, "copy")}
				version++
				s.Delete(kube.Object{Namespace: k.namespace, Name: k.name, UID: s.look(k).uid, Version: fmt.Sprint(version)})
			},
			"replace": func(t *rapid.T) {
				var present []kube.Object
				for k := range s.ours {
					if rapid.Bool().Draw(t, "present") {
						present = append(present, kube.Object{Namespace: k.namespace, Name: k.name})
					}
				}
				version++
				s.Replace(present, fmt.Sprint(version))
			},
			"clear": func(*rapid.T) { s.clear() },
			"": func(t *rapid.T) {
				for _, source := range []string{"a", "b", "c"} {
					ref := pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "shop", Name: source}
					var want []key
					for k, it := range s.ours {
						if it.origin.Name == source {
							want = append(want, k)
						}
					}
					slices.SortFunc(want, key.compare)
					if got := s.straysOf(ref); !slices.Equal(got, want) {
						t.Fatalf("strays of %s are said to be %v; they are %v", source, got, want)
					}
				}
			},
		})
	})
}
