package transform

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// moduleSuffix ends the keys that are jq modules.
const moduleSuffix = ".jq"

// Parse reads rules without compiling their jq. Documents that are modules are
// passed over. It returns what it understood together with Problems about the
// rest.
func Parse(docs ...Document) ([]Rule, error) {
	var rules []Rule
	var problems Problems
	for _, doc := range docs {
		if doc.NotText {
			problems = append(problems, &Problem{
				ConfigMap: doc.ConfigMap, Key: doc.Key, Line: 1, Column: 1,
				Message: "not text: rules and modules are UTF-8 under data, not under binaryData",
			})
			continue
		}
		if strings.HasSuffix(doc.Key, moduleSuffix) {
			continue
		}
		p := parser{doc: doc, lines: linesOf(doc.Text)}
		p.document()
		rules = append(rules, p.rules...)
		problems = append(problems, p.problems...)
	}
	problems = append(problems, duplicates(rules)...)
	return rules, problems.err()
}

// duplicates finds rules of one name in one ConfigMap.
func duplicates(rules []Rule) Problems {
	var problems Problems
	type name struct{ configMap, name string }
	seen := map[name]Origin{}
	for i := range rules {
		r := &rules[i]
		n := name{r.Origin.ConfigMap, r.Name}
		if at, ok := seen[n]; ok && r.Name != "" {
			p := &Problem{ConfigMap: r.Origin.ConfigMap, Key: r.Origin.Key, Rule: r.Name, Message: "there is another rule of this name in " + at.String()}
			problems = append(problems, r.at.mark(p))
		}
		seen[n] = r.Origin
	}
	return problems
}

// parser reads one document.
type parser struct {
	doc      Document
	lines    []string
	rules    []Rule
	problems Problems
}

func (p *parser) report(rule string, wrong ...*misplaced) {
	for _, m := range wrong {
		problem := &Problem{ConfigMap: p.doc.ConfigMap, Key: p.doc.Key, Rule: rule, Message: m.message}
		p.problems = append(p.problems, place{p.lines, m.line, m.column}.mark(problem))
	}
}

func (p *parser) document() {
	root, wrong := readYAML(p.doc.Text)
	if wrong != nil {
		p.report("", wrong)
		return
	}
	if root == nil {
		return
	}
	p.report("", fields(root, "the document", func(key string, at, value *yaml.Node) *misplaced {
		if key != "rules" {
			return complain(at, "unknown field %q: a document has only rules", key)
		}
		if value.Tag == "!!null" {
			return nil
		}
		if value.Kind != yaml.SequenceNode || value.Tag != "!!seq" {
			return complain(value, "rules must be a list")
		}
		for _, n := range value.Content {
			p.rule(n)
		}
		return nil
	})...)
}

// nameForm is what a rule may be called.
var nameForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)

func (p *parser) rule(n *yaml.Node) {
	r := Rule{Origin: Origin{ConfigMap: p.doc.ConfigMap, Key: p.doc.Key}, OnError: Park, Stage: AtDestination}
	hasJQ := false
	wrong := fields(n, "a rule", func(key string, at, v *yaml.Node) (m *misplaced) {
		var s string
		switch key {
		case "name":
			r.at = place{p.lines, v.Line, v.Column}
			if r.Name, m = stringOf(v, key); m == nil && !nameForm.MatchString(r.Name) {
				m = complain(v, "name must be at most 63 letters, digits, dots, dashes and underscores")
			}
		case "description":
			_, m = stringOf(v, key)
		case "match":
			return p.match(v, &r)
		case "jq":
			hasJQ = true
			if r.JQ, m = stringOf(v, key); m == nil && strings.TrimSpace(r.JQ) == "" {
				m = complain(v, "jq must not be empty: . changes nothing")
			}
			r.jq = p.text(v)
		case "order":
			var err error
			if r.Order, err = strconv.Atoi(v.Value); err != nil || v.Tag != "!!int" {
				m = complain(v, "order must be a whole number")
			}
		case "onError":
			s, m = stringOf(v, key)
			if r.OnError = OnError(s); m == nil && !slices.Contains([]OnError{Park, Skip, Pass}, r.OnError) {
				m = complain(v, "onError must be park, skip or pass")
			}
		case "stage":
			s, m = stringOf(v, key)
			if r.Stage = Stage(s); m == nil && r.Stage != AtDestination && r.Stage != AtSource {
				m = complain(v, "stage must be destination or source")
			}
		case "params":
			r.Params = map[string]Param{}
			p.report(r.Name, fields(v, "params", func(name string, _, value *yaml.Node) *misplaced {
				param, m := p.param(value)
				r.Params[name] = param
				return m
			})...)
		default:
			m = complain(at, "unknown field %q: a rule has name, description, match, jq, order, onError, stage and params", key)
		}
		return m
	})
	if n.Kind == yaml.MappingNode {
		if r.Name == "" && !slices.ContainsFunc(wrong, func(m *misplaced) bool { return strings.HasPrefix(m.message, "name") }) {
			wrong = append(wrong, complain(n, "a rule must have a name"))
		}
		if !hasJQ {
			wrong = append(wrong, complain(n, "a rule must have jq"))
		}
	}
	p.report(r.Name, wrong...)
	// Whatever else is wrong with it, its jq shall be looked at too.
	if strings.TrimSpace(r.JQ) != "" {
		p.rules = append(p.rules, r)
	}
}

func (p *parser) match(n *yaml.Node, r *Rule) *misplaced {
	p.report(r.Name, fields(n, "match", func(key string, at, v *yaml.Node) (m *misplaced) {
		what := "match." + key
		switch key {
		case "kinds":
			r.Match.Kinds, m = stringsOf(v, what)
			for i, k := range r.Match.Kinds {
				if why := badKind(k); why != "" {
					return complain(v.Content[i], "%s: %s", what, why)
				}
			}
		case "namespaces":
			r.Match.Namespaces, m = stringsOf(v, what)
		case "names":
			r.Match.Names, m = stringsOf(v, what)
		case "labels":
			r.Match.Labels, m = stringMapOf(v, what)
		case "annotations":
			r.Match.Annotations, m = stringMapOf(v, what)
		case "when":
			if r.Match.When, m = stringOf(v, what); m == nil && strings.TrimSpace(r.Match.When) == "" {
				m = complain(v, "match.when must not be empty")
			}
			r.when = p.text(v)
		default:
			m = complain(at, "unknown field %q: match has kinds, namespaces, names, labels, annotations and when", key)
		}
		return m
	})...)
	return nil
}

// badKind says what is wrong with a pattern for kinds.
func badKind(pattern string) string {
	group, resource, grouped := strings.Cut(pattern, "/")
	switch {
	case pattern == "*":
		return ""
	case !grouped:
		resource = pattern
	case group == "":
		return "the core group is written without a slash: " + resource
	}
	if resource == "" || strings.Contains(resource, "/") {
		return "write resource or group/resource, like configmaps or apps/deployments"
	}
	if strings.ToLower(resource) != resource {
		return "write the plural resource in lower case, like apps/deployments, not the kind"
	}
	return ""
}

func (p *parser) param(n *yaml.Node) (Param, *misplaced) {
	if n.Kind == yaml.MappingNode && len(n.Content) == 2 {
		if from := n.Content[0].Value; from == "fromSecret" || from == "fromConfigMap" {
			ref := &Reference{Secret: from == "fromSecret", Origin: Origin{ConfigMap: p.doc.ConfigMap, Key: p.doc.Key}}
			wrong := fields(n.Content[1], from, func(key string, at, v *yaml.Node) (m *misplaced) {
				switch key {
				case "name":
					ref.Name, m = stringOf(v, from+".name")
				case "key":
					ref.Key, m = stringOf(v, from+".key")
				default:
					m = complain(at, "unknown field %q: %s has name and key", key, from)
				}
				return m
			})
			if len(wrong) == 0 && (ref.Name == "" || ref.Key == "") {
				wrong = append(wrong, complain(n, "%s must have name and key", from))
			}
			if len(wrong) > 0 {
				return Param{}, wrong[0]
			}
			return Param{From: ref, at: place{p.lines, n.Content[0].Line, n.Content[0].Column}}, nil
		}
	}
	v, wrong := valueOf(n)
	return Param{Value: v}, wrong
}

// text keeps where a piece of jq stands.
func (p *parser) text(n *yaml.Node) text {
	return text{
		value: n.Value, lines: p.lines, line: n.Line, column: n.Column,
		block: n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0,
	}
}

// sortedKeys are the keys of m in order, for the same messages every time.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
