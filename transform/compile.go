package transform

import (
	_ "embed" // the library
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/itchyny/gojq"
)

//go:embed library/dr.jq
var library string

// libraryName is the module that every rule can import.
const libraryName = "dr"

// maxProgram bounds one piece of jq, and with it how deep its compiler recurses.
const maxProgram = 64 << 10

// Library is the text of the module "dr".
func Library() string { return library }

// builtIn reads the library, once.
var builtIn = sync.OnceValues(func() (*module, Problems) {
	m := &module{text: text{value: library}}
	c := compiler{modules: modules{byName: map[string]*module{}}}
	m.query = c.parse(m.origin, "", m.text)
	m.broken = m.query == nil || !c.check(m.origin, "", m.text, &gojq.Query{FuncDefs: m.query.FuncDefs, Term: identity().Term})
	return m, c.problems
})

// compiler turns texts into programs and collects what is wrong with them.
type compiler struct {
	modules  modules
	problems Problems
}

func (c *compiler) addModules(docs []Document) {
	lib, wrong := builtIn()
	c.problems = append(c.problems, wrong...)
	c.modules.byName = map[string]*module{libraryName: lib}
	for _, doc := range docs {
		name, ok := strings.CutSuffix(doc.Key, moduleSuffix)
		if !ok {
			continue
		}
		m := &module{origin: Origin{ConfigMap: doc.ConfigMap, Key: doc.Key}, text: text{value: doc.Text}, broken: doc.NotText}
		if other := c.modules.byName[name]; other != nil {
			where := other.origin.String()
			if name == libraryName {
				where = "the library"
			}
			c.report(m.origin, "", m.text, 0, "there is a module of this name already: "+where)
			continue
		}
		c.modules.byName[name] = m
	}
	names := slices.DeleteFunc(sortedKeys(c.modules.byName), func(name string) bool { return name == libraryName })
	for _, name := range names {
		m := c.modules.byName[name]
		if m.broken { // Parse has said so
			continue
		}
		if m.query = c.parse(m.origin, "", m.text); m.query == nil {
			m.broken = true
		} else if q := m.query; q.Term != nil || q.Op != 0 {
			c.report(m.origin, "", m.text, 0, "a module has definitions only")
			m.broken = true
		}
	}
	for _, name := range names {
		c.checkCycle(name)
	}
	for _, name := range names {
		m := c.modules.byName[name]
		if m.broken || c.usesBroken(m.query, map[string]bool{}) {
			m.broken = true
			continue
		}
		body := &gojq.Query{Imports: m.query.Imports, FuncDefs: m.query.FuncDefs, Term: identity().Term}
		m.broken = !c.check(m.origin, "", m.text, body)
	}
}

// checkCycle finds modules that import themselves, by whatever way round.
func (c *compiler) checkCycle(name string) {
	m := c.modules.byName[name]
	var visit func(at string, way []string) bool
	visit = func(at string, way []string) bool {
		here := c.modules.byName[at]
		if here == nil || here.query == nil {
			return false
		}
		for _, next := range imports(here.query) {
			if next == name {
				c.report(m.origin, "", m.text, max(strings.Index(m.text.value, "import"), 0), "the module imports itself: "+strings.Join(append(way, name), " imports "))
				return true
			}
			if !slices.Contains(way, next) && visit(next, append(slices.Clip(way), next)) {
				return true
			}
		}
		return false
	}
	if visit(name, []string{name}) {
		m.broken = true
	}
}

// usesBroken says whether q imports, itself or through modules, one that does
// not compile. Its own errors cannot be told then.
func (c *compiler) usesBroken(q *gojq.Query, seen map[string]bool) bool {
	for _, name := range imports(q) {
		m := c.modules.byName[name]
		if m == nil || seen[name] {
			continue
		}
		seen[name] = true
		if m.broken || m.query != nil && c.usesBroken(m.query, seen) {
			return true
		}
	}
	return false
}

func (c *compiler) report(origin Origin, rule string, t text, offset int, message string) {
	p := &Problem{ConfigMap: origin.ConfigMap, Key: origin.Key, Rule: rule, Message: message}
	c.problems = append(c.problems, t.at(p, offset))
}

// reportParam reports a reference that has no value.
func (c *compiler) reportParam(r Rule, name, why string) {
	p := r.Params[name]
	c.problems = append(c.problems, p.at.mark(&Problem{
		ConfigMap: r.Origin.ConfigMap, Key: r.Origin.Key, Rule: r.Name, Message: fmt.Sprintf("param %q: %s: %s", name, p.From, why),
	}))
}

// parse reads jq and puts the guards in; nil when it is wrong.
func (c *compiler) parse(origin Origin, rule string, t text) *gojq.Query {
	if len(t.value) > maxProgram {
		c.report(origin, rule, t, 0, fmt.Sprintf("longer than %d bytes", maxProgram))
		return nil
	}
	if i := notText(t.value); i >= 0 {
		c.report(origin, rule, t, i, fmt.Sprintf("not text: byte 0x%02x", t.value[i]))
		return nil
	}
	if deepest(t.value) > maxDepth {
		c.report(origin, rule, t, 0, fmt.Sprintf("brackets are nested deeper than %d levels", maxDepth))
		return nil
	}
	q, err := gojq.Parse(t.value)
	if err != nil {
		if parse, ok := errors.AsType[*gojq.ParseError](err); ok {
			c.report(origin, rule, t, parse.Offset-len(parse.Token), parse.Error())
		} else {
			c.report(origin, rule, t, 0, err.Error())
		}
		return nil
	}
	ok := true
	for _, i := range q.Imports {
		if strings.HasPrefix(i.ImportAlias, "$") {
			c.report(origin, rule, t, max(locate(t.value, i.ImportAlias), 0), errNoData.Error())
			ok = false
		}
	}
	for _, name := range guardSyntax(q) {
		c.report(origin, rule, t, max(locate(t.value, name), 0), name+" cannot be used: "+refusal(name))
		ok = false
	}
	if !ok {
		return nil
	}
	return q
}

// deepest is how deep brackets are nested: the parser and the compiler recurse.
func deepest(src string) int {
	depth, most := 0, 0
	for i := range len(src) {
		switch src[i] {
		case '(', '[', '{':
			depth++
			most = max(most, depth)
		case ')', ']', '}':
			depth--
		}
	}
	return most
}

// program compiles jq; nil when it is wrong.
func (c *compiler) program(origin Origin, rule string, t text, params map[string]any) *program {
	q := c.parse(origin, rule, t)
	if q == nil || c.usesBroken(q, map[string]bool{}) || !c.check(origin, rule, t, q) {
		return nil
	}
	p := &program{params: params, query: q, names: c.modules.variablesOf(t.value, q, map[string]bool{}), options: append(c.modules.options(), gojq.WithVariables(variables))}
	first, err := p.borrow()
	if err != nil {
		c.report(origin, rule, t, 0, err.Error())
		return nil
	}
	p.giveBack(first)
	return p
}

// check compiles q and reports every unknown name: what is missing is put in
// its place, and the rest compiled again.
func (c *compiler) check(origin Origin, rule string, t text, q *gojq.Query) bool {
	options := c.modules.options()
	names := slices.Clone(variables)
	before := len(c.problems)
	const most = 20
	for len(c.problems)-before < most {
		_, err := gojq.Compile(q, append(slices.Clip(options), gojq.WithVariables(names))...)
		if err == nil {
			break
		}
		kind, name, _ := strings.Cut(err.Error(), ": ")
		if no, ok := errors.AsType[*noModuleError](err); ok {
			c.report(origin, rule, t, max(strings.Index(t.value, strconv.Quote(no.name)), 0), fmt.Sprintf("there is no module %q: modules are keys that end in .jq, and \"dr\"", no.name))
			break
		}
		switch kind {
		case "function not defined":
			bare, arity, _ := strings.Cut(name, "/")
			n, _ := strconv.Atoi(arity)
			c.report(origin, rule, t, max(locate(t.value, bare), 0), err.Error())
			if n > 30 {
				return false
			}
			options = append(options, gojq.WithFunction(bare, n, n, func(any, []any) any { return nil }))
			continue
		case "variable not defined":
			c.report(origin, rule, t, max(locate(t.value, name), 0), err.Error())
			if !strings.Contains(name, "::") {
				names = append(names, name)
				continue
			}
		case "label not defined":
			c.report(origin, rule, t, max(locate(t.value, name), 0), err.Error())
		default:
			c.report(origin, rule, t, 0, err.Error())
		}
		break
	}
	return len(c.problems) == before
}
