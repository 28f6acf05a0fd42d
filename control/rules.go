package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/transform"
)

// edition is the rules of a Replication at one time. It is not changed once made.
type edition struct {
	// set is what runs; nil if there is nothing that could.
	set *transform.Set
	// key differs for sets that may do different things. It tells nothing of what is in them.
	key string
	// problem is why the rules that the spec asks for are not the ones in set; nil if they are.
	problem *refusal
	// count is how many rules of the user's are in set.
	count int
	// stamp differs when what the edition was made from, the sections, may be another.
	stamp    string
	sections []section
	// material is what set was made from.
	material material
}

// material is what a set is made from: documents, and the values that their rules take
// from elsewhere.
type material struct {
	documents []transform.Document
	values    map[string]string // by reference; see referenceKey
	secrets   []string          // the namespaces of those in Secrets
}

// compiler makes the editions of all Replications.
type compiler struct {
	book *rulebook
	// shared is the namespace of DR-Syncer itself.
	shared string
}

// errUnread says that what rules are made of is not read yet.
var errUnread = errors.New("the ConfigMaps of the rules are being read")

// edition makes the rules that a Replication asks for now, given its former ones, nil if
// there are none. If they cannot be made, those of before stay, with the problem beside them. It
// returns errUnread while it is not known yet what to make them from.
func (c *compiler) edition(ctx context.Context, repl *v1alpha1.Replication, former *edition) (*edition, error) {
	if former != nil {
		if stamp, err := c.stamp(repl, former.sections); err == nil && stamp == former.stamp {
			return former, nil
		}
	}
	e := &edition{}
	var wrong []error
	m, _ := c.gather(repl)
	for { // once, unless rules come to ask for Secrets of another namespace meanwhile
		e.sections = withSecrets(c.sections(repl), m)
		c.book.use(ctx, types.NamespacedName{Namespace: repl.Namespace, Name: repl.Name}, e.sections...)
		var err error
		// Before the sections are read: what comes after must not look like what was read.
		if e.stamp, err = c.stamp(repl, e.sections); err != nil {
			return c.keep(e, former, repl, v1alpha1.ReasonRulesUnread, err)
		}
		m, wrong = c.gather(repl)
		if slices.Equal(withSecrets(c.sections(repl), m), e.sections) {
			break
		}
	}
	set, err := c.compile(repl, &m, c.lookup)
	if err = errors.Join(append(wrong, err)...); err != nil {
		return c.keep(e, former, repl, v1alpha1.ReasonRulesInvalid, err)
	}
	return e.with(repl, set, m), nil
}

// with completes an edition that is being made.
func (e *edition) with(repl *v1alpha1.Replication, set *transform.Set, m material) *edition {
	e.set, e.material, e.key = set, m, keyOf(repl, m)
	for _, r := range set.Rules() {
		if r.Origin.ConfigMap != "" {
			e.count++
		}
	}
	return e
}

// keep makes an edition of what the former was made from, if there is one, with a problem. The parts
// of the spec that need no ConfigMap, as mapping and standby, hold all the same.
func (c *compiler) keep(e, former *edition, repl *v1alpha1.Replication, reason string, problem error) (*edition, error) {
	working := former != nil && former.set != nil
	if errors.Is(problem, errUnread) {
		if !working {
			return nil, errUnread
		}
		e.problem, e.stamp = former.problem, "" // it will be known in a moment
	} else {
		e.problem = &refusal{reason, shortened(problem)}
	}
	if !working {
		return e, nil
	}
	m := former.material
	values := m.values
	set, err := c.compile(repl, &m, func(ref transform.Reference) (string, error) { return values[referenceKey(ref)], nil })
	if err != nil {
		return nil, fmt.Errorf("compile the former rules again: %w", err)
	}
	return e.with(repl, set, m), nil
}

// sections are what a spec asks for before any rule was read.
func (c *compiler) sections(repl *v1alpha1.Replication) []section {
	t := repl.Spec.Transforms
	if t == nil {
		return nil
	}
	var out []section
	if len(t.Names) > 0 || t.Selector != nil {
		out = append(out, section{namespace: repl.Namespace})
	}
	if shared := (section{namespace: c.shared}); (len(t.Shared) > 0 || t.Selector != nil) && !slices.Contains(out, shared) {
		out = append(out, shared)
	}
	return out
}

// withSecrets adds the Secrets of the namespaces whose rules ask for some. Only
// those are read.
func withSecrets(sections []section, m material) []section {
	out := slices.Clone(sections)
	for _, namespace := range m.secrets {
		out = append(out, section{namespace: namespace, secrets: true})
	}
	return out
}

func asksForSecret(doc transform.Document) bool {
	if !strings.Contains(doc.Text, "fromSecret") {
		return false
	}
	rules, _ := transform.Parse(doc) // what is wrong with it, compiling says
	return slices.ContainsFunc(rules, func(r transform.Rule) bool {
		for _, p := range r.Params {
			if p.From != nil && p.From.Secret {
				return true
			}
		}
		return false
	})
}

// stamp tells one state of the spec and the sections from another.
func (c *compiler) stamp(repl *v1alpha1.Replication, sections []section) (string, error) {
	var b strings.Builder
	b.WriteString(builtInKey(repl))
	text, err := json.Marshal(repl.Spec.Transforms)
	if err != nil {
		return "", fmt.Errorf("read spec.transforms: %w", err)
	}
	b.Write(text)
	var unread error
	for _, s := range sections {
		_, revision, known, err := c.book.read(s)
		fmt.Fprintf(&b, "|%v %d %t %v", s, revision, known, err)
		switch {
		case known:
		case err != nil:
			unread = fmt.Errorf("the rules in namespace %q cannot be read: %w", s.namespace, err)
		case unread == nil:
			unread = errUnread
		}
	}
	return b.String(), unread
}

// gather takes the documents that the spec asks for from the book.
func (c *compiler) gather(repl *v1alpha1.Replication) (m material, wrong []error) {
	own, _, _, _ := c.book.read(section{namespace: repl.Namespace})
	shared, _, _, _ := c.book.read(section{namespace: c.shared})
	return pick(repl, c.shared, own, shared)
}

// Rules returns what the rules of a Replication are made of: the documents that its
// spec names and selects, in the order in which they are to run, and the rules that
// stand for its standby and mapping. own and offered are the ConfigMaps of its namespace
// and of DR-Syncer's own, whose name is system. Errors say what is wrong with the spec; the
// rest is returned beside them.
func Rules(repl *v1alpha1.Replication, system string, own, offered []kube.Values) ([]transform.Document, []transform.Rule, error) {
	byName := func(all []kube.Values) map[string]kube.Values {
		m := make(map[string]kube.Values, len(all))
		for _, v := range all {
			m[v.Name] = v
		}
		return m
	}
	m, wrong := pick(repl, system, byName(own), byName(offered))
	return m.documents, builtIn(repl.Spec), errors.Join(wrong...)
}

// pick takes the documents that the spec names and selects, in the order in which
// they are to run, and what is wrong with the spec. own and shared are ConfigMaps by name.
func pick(repl *v1alpha1.Replication, system string, own, shared map[string]kube.Values) (m material, wrong []error) {
	m.values = map[string]string{}
	t := repl.Spec.Transforms
	if t == nil {
		return m, nil
	}
	taken := map[string]bool{}
	take := func(v kube.Values) {
		id := v.Namespace + "/" + v.Name
		if taken[id] {
			return
		}
		taken[id] = true
		for _, key := range slices.Sorted(maps.Keys(v.Data)) {
			doc := transform.Document{ConfigMap: id, Key: key, Text: v.Data[key]}
			m.documents = append(m.documents, doc)
			if !slices.Contains(m.secrets, v.Namespace) && asksForSecret(doc) {
				m.secrets = append(m.secrets, v.Namespace)
			}
		}
		for _, key := range v.NotText {
			m.documents = append(m.documents, transform.Document{ConfigMap: id, Key: key, NotText: true})
		}
	}
	for _, name := range t.Names {
		v, ok := own[name]
		if !ok {
			wrong = append(wrong, fmt.Errorf("configmap %s/%s: there is none: create it, or take it out of spec.transforms.names", repl.Namespace, name))
			continue
		}
		take(v)
	}
	for _, name := range t.Shared {
		v, ok := shared[name]
		if !ok || !offered(v) {
			wrong = append(wrong, fmt.Errorf("configmap %s/%s: there is none with the label %s: \"true\": create it, label it, or take it out of spec.transforms.shared",
				system, name, v1alpha1.LabelTransform))
			continue
		}
		take(v)
	}
	if t.Selector == nil {
		return m, wrong
	}
	selector, err := metav1.LabelSelectorAsSelector(t.Selector)
	if err != nil {
		return m, append(wrong, fmt.Errorf("spec.transforms.selector: %w", err))
	}
	for _, from := range []map[string]kube.Values{own, shared} {
		for _, name := range slices.Sorted(maps.Keys(from)) {
			if v := from[name]; offered(v) && selector.Matches(labels.Set(v.Labels)) {
				take(v)
			}
		}
	}
	return m, wrong
}

// offered reports whether a ConfigMap is there for whoever wants its rules.
func offered(v kube.Values) bool { return v.Labels[v1alpha1.LabelTransform] == "true" }

// compile makes the set, and notes in m the values that it has looked up.
func (c *compiler) compile(repl *v1alpha1.Replication, m *material, lookup func(transform.Reference) (string, error)) (*transform.Set, error) {
	values := map[string]string{}
	set, err := transform.Compile(m.documents, transform.Options{
		Rules: builtIn(repl.Spec),
		Lookup: lookupFunc(func(ref transform.Reference) (string, error) {
			v, err := lookup(ref)
			values[referenceKey(ref)] = v
			return v, err
		}),
	})
	m.values = values
	return set, err
}

// lookupFunc is a function as a transform.Lookup.
type lookupFunc func(transform.Reference) (string, error)

// Lookup implements transform.Lookup.
func (f lookupFunc) Lookup(ref transform.Reference) (string, error) { return f(ref) }

// lookup finds a value that a rule asks for, in the namespace of the rule.
func (c *compiler) lookup(ref transform.Reference) (string, error) {
	namespace, _, _ := strings.Cut(ref.Origin.ConfigMap, "/")
	all, _, known, err := c.book.read(section{namespace: namespace, secrets: ref.Secret})
	switch {
	case err != nil && !known:
		return "", err
	case !known:
		return "", errUnread
	}
	v, ok := all[ref.Name]
	if !ok {
		return "", fmt.Errorf("there is none in namespace %q", namespace)
	}
	value, ok := v.Data[ref.Key]
	if !ok {
		return "", errors.New("it has no such key with text")
	}
	return value, nil
}

// referenceKey tells references apart that may have different values.
func referenceKey(ref transform.Reference) string {
	namespace, _, _ := strings.Cut(ref.Origin.ConfigMap, "/")
	return fmt.Sprintf("%s/%t/%s/%s", namespace, ref.Secret, ref.Name, ref.Key)
}

// builtIn are the rules that a spec asks for by its own fields.
func builtIn(spec v1alpha1.ReplicationSpec) []transform.Rule {
	var m transform.Mapping
	if s := spec.Mapping; s != nil {
		m = transform.Mapping{
			StorageClasses: s.StorageClasses, AccessModes: s.AccessModes, IngressClasses: s.IngressClasses,
			Hosts: s.Hosts, Registries: s.Registries, KeepNodePorts: s.KeepNodePorts,
		}
	}
	rules := m.Rules()
	if !spec.Standby.Asleep() {
		return rules
	}
	var standby transform.Standby
	if s := spec.Standby; s != nil {
		standby = transform.Standby{
			Workloads: transform.Setting(s.Workloads), CronJobs: transform.Setting(s.CronJobs), Jobs: transform.Setting(s.Jobs),
			DaemonSets: transform.Setting(s.DaemonSets), Pods: transform.Setting(s.Pods), Autoscalers: transform.Setting(s.Autoscalers),
			Services: transform.Setting(s.Services), Ingresses: transform.Setting(s.Ingresses), Gateways: transform.Setting(s.Gateways),
			Certificates: transform.Setting(s.Certificates), ExternalDNS: transform.Setting(s.ExternalDNS),
			VirtualMachines: transform.Setting(s.VirtualMachines), Webhooks: transform.Setting(s.Webhooks), Hosts: s.Hosts,
			Operators: transform.Setting(s.Operators), DisruptionBudgets: transform.Setting(s.DisruptionBudgets), Injection: transform.Setting(s.Injection),
		}
	}
	return append(rules, standby.Rules()...)
}

// builtInKey differs for specs with different built-in rules.
func builtInKey(repl *v1alpha1.Replication) string {
	return textOf(v1alpha1.ReplicationSpec{Mapping: repl.Spec.Mapping, Standby: repl.Spec.Standby})
}

// keyOf is a hash of all that a set is made from.
func keyOf(repl *v1alpha1.Replication, m material) string {
	h := sha256.New()
	part := func(texts ...string) {
		for _, t := range texts {
			fmt.Fprintf(h, "%d:%s", len(t), t)
		}
	}
	part(builtInKey(repl))
	for _, doc := range m.documents {
		part(doc.ConfigMap, doc.Key, doc.Text)
	}
	for _, ref := range slices.Sorted(maps.Keys(m.values)) {
		part(ref, m.values[ref])
	}
	return string(h.Sum(nil))
}

// maxProblem is the most text of what is wrong with rules in a condition.
const maxProblem = 8 << 10

// shortened is the text of err, without the end if that is very long.
func shortened(err error) string {
	text := err.Error()
	if len(text) <= maxProblem {
		return text
	}
	kept := strings.ToValidUTF8(text[:maxProblem], "")
	if i := strings.LastIndex(kept, "\nconfigmap "); i > 0 {
		kept = kept[:i]
	}
	return fmt.Sprintf("%s\n(and %d more)", kept, strings.Count(text[len(kept):], "\nconfigmap "))
}
