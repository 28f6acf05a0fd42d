package apply

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

func TestValidate(t *testing.T) {
	names := func(n ...string) *v1alpha1.NamespaceSelector { return &v1alpha1.NamespaceSelector{Names: n} }
	badLabels := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like", Values: []string{"b"}}}}
	seconds := func(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Second} }
	cases := map[string]struct {
		spec v1alpha1.ReplicationSpec
		want string // part of the one message; empty: valid
	}{
		"least":               {v1alpha1.ReplicationSpec{}, ""},
		"all forms of kinds":  {v1alpha1.ReplicationSpec{Kinds: []string{"*", "secrets", "apps/deployments", "batch/*", "*/widgets"}}, ""},
		"kind with capital":   {v1alpha1.ReplicationSpec{Kinds: []string{"Deployment"}}, "plural resource name"},
		"kind with version":   {v1alpha1.ReplicationSpec{Kinds: []string{"apps/v1/deployments"}}, "without a version"},
		"core with version":   {v1alpha1.ReplicationSpec{Kinds: []string{"v1/secrets"}}, "write just secrets"},
		"kubectl's form":      {v1alpha1.ReplicationSpec{Kinds: []string{"deployments.apps"}}, "apps/deployments"},
		"group forgotten":     {v1alpha1.ReplicationSpec{ExcludeKinds: []string{"deployments"}}, "write apps/deployments"},
		"leading slash":       {v1alpha1.ReplicationSpec{Kinds: []string{"/secrets"}}, "write just secrets"},
		"partial wildcard":    {v1alpha1.ReplicationSpec{Kinds: []string{"apps/deploy*"}}, "write *"},
		"empty kind":          {v1alpha1.ReplicationSpec{Kinds: []string{""}}, "write *"},
		"glob":                {v1alpha1.ReplicationSpec{Namespaces: names("shop-*", "team-?")}, ""},
		"glob with brackets":  {v1alpha1.ReplicationSpec{Namespaces: names("shop-[ab]")}, "lower-case letters"},
		"system namespace":    {v1alpha1.ReplicationSpec{Namespaces: names("kube-system")}, "belongs to this cluster itself"},
		"system mapped away":  {v1alpha1.ReplicationSpec{Namespaces: names("kube-system"), NamespaceMapping: &v1alpha1.NamespaceMapping{Prefix: "dr-"}}, ""},
		"mapped into system":  {v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a": "kube-public"}}}, "choose another name"},
		"mapped together":     {v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a": "c", "b": "c"}}}, `"a" and "b" are both mapped to "c"`},
		"mapped onto another": {v1alpha1.ReplicationSpec{Namespaces: names("a", "b"), NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a": "b"}}}, `both be written to "b"`},
		"mapped in a swap":    {v1alpha1.ReplicationSpec{Namespaces: names("a", "b"), NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a": "b", "b": "a"}}}, ""},
		"mapped, unselected":  {v1alpha1.ReplicationSpec{Namespaces: names("a"), NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"x": "y"}}}, "never selected"},
		"mapped glob":         {v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a*": "c"}}}, "globs are not allowed"},
		"mapped to a non-name": {
			v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"a": "A_b"}}},
			"not a namespace's name",
		},
		"prefix":            {v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Prefix: "-x"}}, "prefix"},
		"suffix":            {v1alpha1.ReplicationSpec{NamespaceMapping: &v1alpha1.NamespaceMapping{Suffix: "x-"}}, "suffix"},
		"labels":            {v1alpha1.ReplicationSpec{LabelSelector: badLabels}, "spec.labelSelector"},
		"excluded labels":   {v1alpha1.ReplicationSpec{ExcludeLabels: badLabels}, "spec.excludeLabels"},
		"namespace labels":  {v1alpha1.ReplicationSpec{Namespaces: &v1alpha1.NamespaceSelector{LabelSelector: badLabels}}, "spec.namespaces.labelSelector"},
		"immutable":         {v1alpha1.ReplicationSpec{ImmutablePolicy: &v1alpha1.ImmutablePolicy{Kinds: map[string]v1alpha1.ImmutableAction{"services": v1alpha1.ImmutablePark}}}, ""},
		"immutable, any":    {v1alpha1.ReplicationSpec{ImmutablePolicy: &v1alpha1.ImmutablePolicy{Kinds: map[string]v1alpha1.ImmutableAction{"apps/*": v1alpha1.ImmutablePark}}}, "wildcards are not allowed"},
		"negative workers":  {v1alpha1.ReplicationSpec{Workers: -1}, "spec.workers"},
		"too many workers":  {v1alpha1.ReplicationSpec{Workers: 1000}, "1 to 256"},
		"negative attempts": {v1alpha1.ReplicationSpec{Retry: &v1alpha1.RetryPolicy{Attempts: -1}}, "spec.retry.attempts"},
		"no delay":          {v1alpha1.ReplicationSpec{Retry: &v1alpha1.RetryPolicy{InitialDelay: seconds(0)}}, "spec.retry.initialDelay"},
		"delays reversed":   {v1alpha1.ReplicationSpec{Retry: &v1alpha1.RetryPolicy{InitialDelay: seconds(9), MaxDelay: seconds(3)}}, "spec.retry.maxDelay"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.spec.Source.Site = "prod"
			errs := Validate(c.spec)
			switch {
			case c.want == "" && len(errs) > 0:
				t.Errorf("Validate: %v, want no error", errors.Join(errs...))
			case c.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want)):
				t.Errorf("Validate: %v, want one error with %q", errs, c.want)
			}
			if _, err := NewSelector(c.spec); (err == nil) != (c.want == "") {
				t.Errorf("NewSelector: %v, want it to agree with Validate", err)
			}
		})
	}
	t.Run("no site", func(t *testing.T) {
		if errs := Validate(v1alpha1.ReplicationSpec{}); len(errs) != 1 || !strings.Contains(errs[0].Error(), "spec.source.site") {
			t.Errorf("Validate: %v, want one error about the site", errs)
		}
	})
}
