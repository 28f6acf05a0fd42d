package apply

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func mustSelect(t *testing.T, spec v1alpha1.ReplicationSpec) *Selector {
	t.Helper()
	spec.Source.Site = "prod"
	s, err := NewSelector(spec)
	if err != nil {
		t.Fatalf("NewSelector: %v", err)
	}
	return s
}

func matchLabels(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

func namespaceRecord(name, labels string) pipeline.Record {
	return pipeline.Record{Event: pipeline.Event{
		Op: pipeline.OpPut, Ref: pipeline.Ref{Site: "prod", Resource: "namespaces", Name: name},
		Body: []byte(`{"metadata":{"name":"` + name + `","labels":` + labels + `}}`),
	}}
}

func TestSelect(t *testing.T) {
	secret := pipeline.Ref{Site: "prod", Resource: "secrets", Namespace: "shop", Name: "a"}
	role := pipeline.Ref{Site: "prod", Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "a"}
	shop := pipeline.Ref{Site: "prod", Resource: "namespaces", Name: "shop"}
	selector := func(l *metav1.LabelSelector, names ...string) *v1alpha1.NamespaceSelector {
		return &v1alpha1.NamespaceSelector{Names: names, LabelSelector: l}
	}
	cases := map[string]struct {
		spec   v1alpha1.ReplicationSpec
		ref    pipeline.Ref
		labels string
		want   selection
		reason string
	}{
		"everything":              {ref: secret, want: selected},
		"cluster scope unasked":   {ref: role, want: unselected},
		"cluster scope asked":     {spec: v1alpha1.ReplicationSpec{IncludeClusterScoped: true}, ref: role, want: selected},
		"namespace always":        {spec: v1alpha1.ReplicationSpec{Kinds: []string{"secrets"}}, ref: shop, want: selected, reason: "its objects need it"},
		"namespace kind excluded": {spec: v1alpha1.ReplicationSpec{ExcludeKinds: []string{"namespaces"}}, ref: shop, want: unselected},
		"kind":                    {spec: v1alpha1.ReplicationSpec{Kinds: []string{"secrets"}}, ref: secret, want: selected},
		"other kind":              {spec: v1alpha1.ReplicationSpec{Kinds: []string{"configmaps"}}, ref: secret, want: unselected},
		"same name, other group":  {spec: v1alpha1.ReplicationSpec{Kinds: []string{"vault.example/secrets"}}, ref: secret, want: unselected},
		"any group":               {spec: v1alpha1.ReplicationSpec{Kinds: []string{"*/secrets"}}, ref: secret, want: selected},
		"whole group":             {spec: v1alpha1.ReplicationSpec{Kinds: []string{"rbac.authorization.k8s.io/*"}, IncludeClusterScoped: true}, ref: role, want: selected},
		"excluded kind wins":      {spec: v1alpha1.ReplicationSpec{ExcludeKinds: []string{"secrets"}}, ref: secret, want: unselected},
		"namespace by name":       {spec: v1alpha1.ReplicationSpec{Namespaces: selector(nil, "shop")}, ref: secret, want: selected},
		"namespace by glob":       {spec: v1alpha1.ReplicationSpec{Namespaces: selector(nil, "s?o*")}, ref: secret, want: selected},
		"other namespace":         {spec: v1alpha1.ReplicationSpec{Namespaces: selector(nil, "sho")}, ref: secret, want: unselected},
		"other namespace itself":  {spec: v1alpha1.ReplicationSpec{Namespaces: selector(nil, "sho")}, ref: shop, want: unselected},
		"excluded namespace wins": {spec: v1alpha1.ReplicationSpec{Namespaces: &v1alpha1.NamespaceSelector{Names: []string{"*"}, Exclude: []string{"sh*"}}}, ref: secret, want: unselected},
		"only an exclusion":       {spec: v1alpha1.ReplicationSpec{Namespaces: &v1alpha1.NamespaceSelector{Exclude: []string{"x"}}}, ref: secret, want: selected},
		"namespace by label":      {spec: v1alpha1.ReplicationSpec{Namespaces: selector(matchLabels("tier", "gold"))}, ref: secret, want: selected},
		"namespace other label":   {spec: v1alpha1.ReplicationSpec{Namespaces: selector(matchLabels("tier", "iron"))}, ref: secret, want: unselected},
		"name or label":           {spec: v1alpha1.ReplicationSpec{Namespaces: selector(matchLabels("tier", "iron"), "shop")}, ref: secret, want: selected},
		"labels not seen":         {spec: v1alpha1.ReplicationSpec{Namespaces: selector(matchLabels("tier", "gold"))}, ref: pipeline.Ref{Resource: "secrets", Namespace: "new", Name: "a"}, want: undecided},
		"label":                   {spec: v1alpha1.ReplicationSpec{LabelSelector: matchLabels("app.example.com/name", "web")}, ref: secret, labels: `{"app.example.com/name":"web"}`, want: selected},
		"other label":             {spec: v1alpha1.ReplicationSpec{LabelSelector: matchLabels("app", "web")}, ref: secret, labels: `{"app":"db"}`, want: unselected},
		"no labels":               {spec: v1alpha1.ReplicationSpec{LabelSelector: matchLabels("app", "web")}, ref: secret, want: unselected},
		"excluded label":          {spec: v1alpha1.ReplicationSpec{ExcludeLabels: matchLabels("app", "web")}, ref: secret, labels: `{"app":"web"}`, want: unselected},
		"namespaces have no say":  {spec: v1alpha1.ReplicationSpec{LabelSelector: matchLabels("app", "web")}, ref: shop, want: selected, reason: "label selectors do not filter namespaces"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := mustSelect(t, c.spec)
			s.Observe(namespaceRecord("shop", `{"tier":"gold"}`))
			body := `{"metadata":{"name":"a"}}`
			if c.labels != "" {
				body = `{"metadata":{"name":"a","labels":` + c.labels + `}}`
			}
			if got := s.object(c.ref, []byte(body)); got != c.want {
				t.Errorf("object(%s) = %d, want %d; %s", c.ref, got, c.want, c.reason)
			}
		})
	}
}

func TestObserveTellsGrowth(t *testing.T) {
	s := mustSelect(t, v1alpha1.ReplicationSpec{Namespaces: &v1alpha1.NamespaceSelector{Names: []string{"named"}, LabelSelector: matchLabels("dr", "yes")}})
	steps := []struct {
		record pipeline.Record
		want   bool
		reason string
	}{
		{namespaceRecord("a", `{"dr":"yes"}`), false, "a new namespace has nothing that was passed over"},
		{namespaceRecord("a", `{}`), false, "less is selected"},
		{namespaceRecord("a", `{"dr":"yes"}`), true, "it was known and not selected"},
		{namespaceRecord("a", `{"dr":"yes","x":"y"}`), false, "nothing changed"},
		{namespaceRecord("named", `{}`), false, "selected by name"},
		{namespaceRecord("named", `{"dr":"yes"}`), false, "selected before"},
		{pipeline.Record{Event: pipeline.Event{Op: pipeline.OpDelete, Ref: pipeline.Ref{Resource: "namespaces", Name: "a"}}}, false, "gone"},
		{namespaceRecord("a", `{"dr":"yes"}`), false, "new again"},
	}
	for i, step := range steps {
		if got := s.Observe(step.record); got != step.want {
			t.Errorf("step %d: Observe = %t, want %t: %s", i, got, step.want, step.reason)
		}
	}
}

func TestMapNamespace(t *testing.T) {
	s := mustSelect(t, v1alpha1.ReplicationSpec{
		Namespaces:       &v1alpha1.NamespaceSelector{Names: []string{"shop", "team-*"}},
		NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"shop": "store"}, Prefix: "dr-", Suffix: "-x"},
	})
	for from, want := range map[string]string{"shop": "store", "team-a": "dr-team-a-x", "other": "other", "": ""} {
		if got := s.MapNamespace(from); got != want {
			t.Errorf("MapNamespace(%q) = %q, want %q", from, got, want)
		}
	}
}

func TestWantsNamespacesForTheirLabels(t *testing.T) {
	for name, c := range map[string]struct {
		selector *v1alpha1.NamespaceSelector
		want     bool
	}{
		"by name":  {&v1alpha1.NamespaceSelector{Names: []string{"shop"}}, false},
		"by label": {&v1alpha1.NamespaceSelector{LabelSelector: matchLabels("a", "b")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Applier{selector: mustSelect(t, v1alpha1.ReplicationSpec{Namespaces: c.selector, ExcludeKinds: []string{"namespaces"}})}
			if got := a.Wants(pipeline.GroupResource{Resource: "namespaces"}); got != c.want {
				t.Errorf("Wants = %t, want %t", got, c.want)
			}
		})
	}
}
