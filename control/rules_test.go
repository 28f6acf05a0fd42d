package control

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/transform"
)

// shelf is a rulebook that knows just these ConfigMaps and Secrets, by "namespace/name";
// a name with a trailing "+" has the label that offers its rules to all.
type shelf struct {
	configMaps, secrets map[string]map[string]string
	errs                map[section]error
	unread              bool
}

func (s shelf) book() *rulebook {
	b := newRulebook(nil, nil)
	close(b.done) // nothing is to be watched
	for _, namespace := range []string{"team", "other", "dr"} {
		for _, secrets := range []bool{false, true} {
			at := section{namespace, secrets}
			p := &page{known: s.errs[at] == nil && !s.unread, all: map[string]kube.Values{}, err: s.errs[at]}
			from := s.configMaps
			if secrets {
				from = s.secrets
			}
			for id, data := range from {
				ns, name, _ := strings.Cut(id, "/")
				if ns != namespace {
					continue
				}
				v := kube.Values{Namespace: ns, Name: strings.TrimSuffix(name, "+"), Labels: map[string]string{"name": strings.TrimSuffix(name, "+")}, Data: data}
				for key, text := range data {
					if !utf8.ValidString(text) { // as the bytes of a ConfigMap
						v.NotText, v.Data = append(v.NotText, key), maps.Clone(v.Data)
						delete(v.Data, key)
					}
				}
				if strings.HasSuffix(name, "+") {
					v.Labels[v1alpha1.LabelTransform] = "true"
				}
				p.all[v.Name] = v
			}
			for _, v := range p.all {
				p.revision += len(fmt.Sprint(v)) // differs enough for a test
			}
			b.pages[at] = p
		}
	}
	// A user of everything keeps all of it.
	for at := range b.pages {
		b.users[owner("keep", "all")] = append(b.users[owner("keep", "all")], at)
	}
	return b
}

func (s shelf) edition(t *testing.T, repl *v1alpha1.Replication, former *edition) (*edition, error) {
	t.Helper()
	c := &compiler{book: s.book(), shared: "dr"}
	return c.edition(t.Context(), repl, former)
}

func owner(namespace, name string) (n types.NamespacedName) {
	n.Namespace, n.Name = namespace, name
	return n
}

func replication(t v1alpha1.Transforms) *v1alpha1.Replication {
	r := &v1alpha1.Replication{Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}, Transforms: &t}}
	r.Namespace, r.Name = "team", "all"
	return r
}

func named(names ...string) *v1alpha1.Replication {
	return replication(v1alpha1.Transforms{Names: names})
}

// rulesOf are the names of the user's rules, in order.
func rulesOf(set *transform.Set) []string {
	var names []string
	for _, r := range set.Rules() {
		if r.Origin.ConfigMap != "" {
			names = append(names, r.Name)
		}
	}
	return names
}

// doc is a document of one rule for each name.
func doc(names ...string) map[string]string {
	text := "rules:\n"
	for _, n := range names {
		text += fmt.Sprintf("- {name: %s, jq: .}\n", n)
	}
	return map[string]string{"rules.yaml": text}
}

func TestWhichRulesAReplicationUses(t *testing.T) {
	all := shelf{configMaps: map[string]map[string]string{
		"team/a": doc("team-a"), "team/b": {"2.yaml": doc("b2")["rules.yaml"], "1.yaml": doc("b1")["rules.yaml"]}, "team/offered+": doc("team-offered"),
		"dr/a": doc("dr-a"), "dr/shared+": doc("dr-shared"), "other/a+": doc("other-a"),
	}}
	selecting := func(key, value string) v1alpha1.Transforms {
		return v1alpha1.Transforms{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
	}
	cases := map[string]struct {
		transforms v1alpha1.Transforms
		want       []string
		problem    string
	}{
		"nothing":                  {},
		"its own, in its order":    {v1alpha1.Transforms{Names: []string{"b", "a"}}, []string{"b1", "b2", "team-a"}, ""},
		"shared":                   {v1alpha1.Transforms{Shared: []string{"shared"}, Names: []string{"a"}}, []string{"team-a", "dr-shared"}, ""},
		"not offered":              {v1alpha1.Transforms{Shared: []string{"a"}}, nil, `configmap dr/a: there is none with the label dr-syncer.io/transform: "true"`},
		"not there":                {v1alpha1.Transforms{Names: []string{"shared", "x"}}, nil, "configmap team/x: there is none"},
		"of another namespace":     {selecting("name", "a"), nil, ""},
		"selected":                 {selecting(v1alpha1.LabelTransform, "true"), []string{"team-offered", "dr-shared"}, ""},
		"selected and named, once": {v1alpha1.Transforms{Names: []string{"offered"}, Selector: &metav1.LabelSelector{}}, []string{"team-offered", "dr-shared"}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, err := all.edition(t, replication(c.transforms), nil)
			switch {
			case err != nil:
				t.Fatal(err)
			case c.problem != "":
				if e.set != nil || e.problem == nil || e.problem.reason != v1alpha1.ReasonRulesInvalid || !strings.Contains(e.problem.message, c.problem) {
					t.Errorf("problem %+v, want %q and no rules", e.problem, c.problem)
				}
			case e.problem != nil:
				t.Errorf("problem: %+v", e.problem)
			default:
				if diff := cmp.Diff(c.want, rulesOf(e.set), cmpopts.EquateEmpty()); diff != "" || e.count != len(c.want) {
					t.Errorf("%d rules (-want +got):\n%s", e.count, diff)
				}
			}
		})
	}
}

// TestBadConfigMaps has all that is wrong told at once, with its place.
func TestBadConfigMaps(t *testing.T) {
	text := func(yaml string) map[string]string { return map[string]string{"r.yaml": yaml} }
	cases := map[string]struct {
		data map[string]string
		want []string
	}{
		"not YAML":             {text("rules: ["), []string{"key r.yaml, line 1"}},
		"not rules":            {text("a: b"), []string{`unknown field "a"`}},
		"a list":               {text("- a"), []string{"line 1"}},
		"no name":              {text("rules: [{jq: .}]"), []string{"a rule must have a name"}},
		"no jq":                {text("rules: [{name: a}]"), []string{`rule "a"`, "a rule must have jq"}},
		"twice":                {map[string]string{"1.yaml": doc("a")["rules.yaml"], "2.yaml": doc("a")["rules.yaml"]}, []string{"there is another rule of this name"}},
		"jq that ends early":   {text("rules:\n- name: a\n  jq: |\n    .a = (\n"), []string{`rule "a"`, "line 4"}},
		"no such function":     {text("rules: [{name: a, jq: nosuch}]"), []string{"line 1, column 23", "nosuch/0"}},
		"no such module":       {text("rules: [{name: a, jq: 'import \"x\" as x; .'}]"), []string{`rule "a"`}},
		"a bad module":         {map[string]string{"m.jq": "def f: (;"}, []string{"key m.jq"}},
		"the environment":      {text("rules: [{name: a, jq: env}]"), []string{`rule "a"`}},
		"input":                {text("rules: [{name: a, jq: input}]"), []string{`rule "a"`}},
		"a kind":               {text("rules: [{name: a, match: {kinds: [Deployment]}, jq: .}]"), []string{"lower case"}},
		"onError":              {text("rules: [{name: a, onError: stop, jq: .}]"), []string{"park, skip or pass"}},
		"no such Secret":       {text("rules: [{name: a, jq: ., params: {p: {fromSecret: {name: x, key: y}}}}]"), []string{"secret x, key y", "none in namespace"}},
		"no such key":          {text("rules: [{name: a, jq: ., params: {p: {fromSecret: {name: pass, key: y}}}}]"), []string{"no such key"}},
		"no such ConfigMap":    {text("rules: [{name: a, jq: ., params: {p: {fromConfigMap: {name: x, key: y}}}}]"), []string{"configmap x, key y"}},
		"a Secret elsewhere":   {text("rules: [{name: a, jq: ., params: {p: {fromSecret: {name: other/pass, key: k}}}}]"), []string{"none in namespace"}},
		"bytes":                {map[string]string{"b.yaml": "\xff"}, []string{"configmap team/rules, key b.yaml, line 1, column 1: not text"}},
		"a module of bytes":    {map[string]string{"m.jq": "\xff", "r.yaml": "rules: [{name: a, jq: 'import \"m\" as m; m::f'}]"}, []string{"key m.jq, line 1, column 1: not text"}},
		"bytes beside wrong":   {map[string]string{"b.yaml": "\xff", "r.yaml": "rules: [{name: a, jq: nosuch}]"}, []string{"key b.yaml, line 1, column 1: not text", "key r.yaml, rule \"a\", line 1, column 23"}},
		"huge":                 {text(strings.Repeat("# x\n", 300_000)), []string{"key r.yaml, line 1, column 1: longer than 1048576 bytes"}},
		"two documents":        {text("rules: []\n---\nrules: []"), []string{"line 2, column 1: more than one YAML document"}},
		"a broken second":      {text("rules: []\n---\n{"), []string{"line 3, column 1: not YAML"}},
		"the same key twice":   {text("{\"rules\": [], \"rules\": []}"), []string{"line 1, column 15", "stands here twice"}},
		"Windows":              {text("rules:\r\n- name: a\r\n  jq: |\r\n    nosuch\r\n"), []string{"rule \"a\", line 4, column 5"}},
		"a tab":                {text("rules:\n\t- {name: a, jq: .}"), []string{"line 2, column 1: not YAML"}},
		"aliases":              {text("rules:\n- &a {name: a, jq: .}\n- *a"), []string{"line 3, column 3"}},
		"unknown field":        {text("rules: [{name: a, jq: ., when: x}]"), []string{"rule \"a\", line 1, column 26: unknown field"}},
		"wrong types":          {text("rules:\n- {name: a, jq: [.], order: x, match: text}"), []string{"line 2, column 17", "line 2, column 29", "line 2, column 39"}},
		"a module of itself":   {map[string]string{"m.jq": "import \"m\" as m; def f: m::f;"}, []string{"key m.jq, line 1, column 1: the module imports itself"}},
		"modules in a circle":  {map[string]string{"m.jq": "import \"n\" as n; def f: n::f;", "n.jq": "import \"m\" as m; def f: m::f;"}, []string{"m imports n imports m", "n imports m imports n"}},
		"the param's place":    {text("rules:\n- name: a\n  jq: .\n  params:\n    p: {fromSecret: {name: x, key: y}}"), []string{"rule \"a\", line 5, column 9: param \"p\": secret x, key y"}},
		"several, all at once": {text("rules:\n- {name: a, jq: nosuch}\n- {name: b, jq: '.['}\n- {name: c}\n"), []string{`rule "a", line 2`, `rule "b", line 3`, `rule "c", line 4`}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			good := shelf{configMaps: map[string]map[string]string{"team/good": doc("good"), "team/rules": doc("former")}}
			former, err := good.edition(t, named("good", "rules"), nil)
			if err != nil {
				t.Fatal(err)
			}
			bad := good
			bad.configMaps = map[string]map[string]string{"team/good": doc("good"), "team/rules": c.data}
			bad.secrets = map[string]map[string]string{"team/pass": {"k": "hunter2"}}
			for _, before := range []*edition{nil, former} {
				e, err := bad.edition(t, named("good", "rules"), before)
				if err != nil || e.problem == nil {
					t.Fatalf("%v, %+v, want a problem", err, e)
				}
				for _, want := range append(c.want, "configmap team/rules") {
					if !strings.Contains(e.problem.message, want) {
						t.Errorf("problem %q, want %q in it", e.problem.message, want)
					}
				}
				if strings.Contains(e.problem.message, "hunter2") {
					t.Error("the problem tells a Secret")
				}
				switch {
				case before == nil && e.set != nil:
					t.Error("rules run though none ever compiled")
				case before != nil && !slices.Equal(rulesOf(e.set), []string{"good", "former"}):
					t.Errorf("rules %v run, want those of before", rulesOf(e.set))
				case before != nil && e.key != before.key:
					t.Error("the rules of before count as others")
				}
			}
		})
	}
}

func TestManyProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 500 {
		fmt.Fprintf(&text, "- {name: r%d, jq: nosuch}\n", i)
	}
	e, err := shelf{configMaps: map[string]map[string]string{"team/a": {"r.yaml": text.String()}}}.edition(t, named("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := e.problem.message
	if shown := strings.Count(m, "configmap team/a"); len(m) > maxProblem+64 || !strings.HasSuffix(m, fmt.Sprintf("(and %d more)", 500-shown)) {
		t.Errorf("%d bytes, %d problems shown, ending in %q", len(m), shown, m[len(m)-40:])
	}
}

// TestSpecHoldsWhileRulesAreBroken: waking must not wait for somebody to mend a rule.
func TestSpecHoldsWhileRulesAreBroken(t *testing.T) {
	repl := named("a")
	former, err := shelf{configMaps: map[string]map[string]string{"team/a": doc("former")}}.edition(t, repl, nil)
	if err != nil {
		t.Fatal(err)
	}
	standby := func(e *edition) bool {
		return slices.ContainsFunc(e.set.Rules(), func(r transform.Rule) bool { return r.Name == "standby" })
	}
	if !standby(former) {
		t.Fatal("the standby is not on by default")
	}
	awake := false
	repl.Spec.Standby = &v1alpha1.Standby{Enabled: &awake}
	e, err := shelf{configMaps: map[string]map[string]string{"team/a": {"r.yaml": "rules: ["}}}.edition(t, repl, former)
	if err != nil {
		t.Fatal(err)
	}
	if standby(e) || !slices.Equal(rulesOf(e.set), []string{"former"}) || e.problem == nil || e.key == former.key {
		t.Errorf("rules %v with standby %t, problem %v", rulesOf(e.set), standby(e), e.problem)
	}
}

func TestParamsChangeTheRules(t *testing.T) {
	asking := map[string]string{"r.yaml": "rules:\n- name: a\n  jq: .data.x = $params.s + $params.c\n  params: {s: {fromSecret: {name: pass, key: k}}, c: {fromConfigMap: {name: site, key: k}}}\n"}
	with := func(secret, site string) shelf {
		return shelf{
			configMaps: map[string]map[string]string{"team/a": asking, "team/site": {"k": site}, "dr/site": {"k": "not this"}},
			secrets:    map[string]map[string]string{"team/pass": {"k": secret}, "dr/pass": {"k": "not this"}},
		}
	}
	edition := func(s shelf, former *edition) (*edition, string) {
		t.Helper()
		e, err := s.edition(t, named("a"), former)
		if err != nil || e.problem != nil {
			t.Fatalf("%v, %+v", err, e)
		}
		out, err := e.set.Run(t.Context(), transform.Env{}, transform.Object{Kind: configmaps, Body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"},"data":{}}`)})
		if err != nil {
			t.Fatal(err)
		}
		return e, string(out.Objects[0].Body)
	}
	first, body := edition(with("one-", "fra"), nil)
	if !strings.Contains(body, `"x":"one-fra"`) {
		t.Errorf("made %s", body)
	}
	if strings.Contains(first.key+first.stamp, "one-") {
		t.Error("the key or the stamp tells the Secret")
	}
	again, _ := edition(with("one-", "fra"), nil)
	if again.key != first.key {
		t.Error("the same rules count as others")
	}
	if rotated, body := edition(with("two--", "fra"), first); rotated.key == first.key || !strings.Contains(body, `"x":"two--fra"`) {
		t.Errorf("after the Secret was changed: %s", body)
	}
	if moved, body := edition(with("one-", "paris"), first); moved.key == first.key || !strings.Contains(body, `"x":"one-paris"`) {
		t.Errorf("after the ConfigMap was changed: %s", body)
	}
}

func TestRulesThatCannotBeRead(t *testing.T) {
	known := shelf{configMaps: map[string]map[string]string{"team/a": doc("a")}}
	if _, err := (shelf{unread: true}).edition(t, named("a"), nil); !errors.Is(err, errUnread) {
		t.Errorf("while they are being read: %v", err)
	}
	denied := shelf{errs: map[section]error{{namespace: "team"}: errors.New("configmaps is forbidden")}}
	e, err := denied.edition(t, named("a"), nil)
	if err != nil || e.set != nil || e.problem == nil || e.problem.reason != v1alpha1.ReasonRulesUnread || !strings.Contains(e.problem.message, "forbidden") {
		t.Errorf("denied: %+v, %v", e, err)
	}
	former, err := known.edition(t, named("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]shelf{"denied": denied, "unread": {unread: true}} {
		if e, err := s.edition(t, named("a"), former); err != nil || e.set == nil || e.key != former.key {
			t.Errorf("%s, with rules of before: %+v, %v", name, e, err)
		}
	}
	if e, err := known.edition(t, named("a"), former); err != nil || e != former {
		t.Errorf("nothing has changed, but the rules were made again: %v", err)
	}
}

// TestDocumentedSpecs reads the parts of Replications that docs/transforms.md and README.md show.
// TestRulesReadWhileTheyAreAskedFor has the ConfigMaps read just when a Replication
// begins to use them.
func TestRulesReadWhileTheyAreAskedFor(t *testing.T) {
	there := shelf{configMaps: map[string]map[string]string{"team/a": doc("first")}}.book()
	b := newRulebook(nil, nil)
	defer close(b.done)
	repl := replication(v1alpha1.Transforms{Names: []string{"a"}, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "none"}}})
	go func() {
		<-b.begin
		b.mu.Lock()
		for at, p := range b.pages {
			*p = *there.pages[at]
		}
		b.mu.Unlock()
		<-b.begin
	}()
	c := &compiler{book: b, shared: "dr"}
	e, err := c.edition(t.Context(), repl, nil)
	if err != nil || e.problem != nil {
		t.Fatalf("%+v, %v", e, err)
	}
	if diff := cmp.Diff([]string{"first"}, rulesOf(e.set)); diff != "" {
		t.Errorf("rules (-want +got)\n%s", diff)
	}
}

func TestDocumentedSpecs(t *testing.T) {
	seen := 0
	for _, page := range []string{"../docs/transforms.md", "../README.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\nspec:\n")[1:] {
			block, _, _ = strings.Cut(block, "```")
			seen++
			var spec v1alpha1.ReplicationSpec
			if err := yaml.UnmarshalStrict([]byte(block), &spec); err != nil {
				t.Errorf("%s: %v\n%s", page, err, block)
			}
		}
	}
	if seen < 2 {
		t.Errorf("%d specs found", seen)
	}
}
