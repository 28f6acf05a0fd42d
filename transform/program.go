package transform

import (
	"errors"
	"runtime"
	"strings"
	"sync"

	"github.com/itchyny/gojq"
)

// variables are what programs see, in the order in which run passes them.
var variables = []string{"$params", "$source", "$destination", "$replication", budgetVariable}

// program is a jq program, ready to run. It is safe for concurrent use: gojq's
// compiled code is not (functions that delete write to constants of the
// program), so each run borrows a copy of its own.
type program struct {
	params map[string]any
	// names are the variables that the program or its modules use.
	names map[string]bool

	mu      sync.Mutex
	query   *gojq.Query
	options []gojq.CompilerOption
	idle    []*copyOf
}

// copyOf is compiled code and how often it ran. gojq remembers every regular
// expression of a program for ever; patterns made from objects would fill the
// memory, so a copy is thrown away some time.
type copyOf struct {
	code *gojq.Code
	runs int
}

const maxRuns = 1 << 14

func (p *program) borrow() (*copyOf, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return c, nil
	}
	code, err := gojq.Compile(p.query, p.options...)
	if err != nil {
		return nil, err
	}
	return &copyOf{code: code}, nil
}

func (p *program) giveBack(c *copyOf) {
	if c.runs++; c.runs >= maxRuns {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) < runtime.GOMAXPROCS(0) {
		p.idle = append(p.idle, c)
	}
}

// run passes the results of the program over v to each, until that returns an
// error. The values passed in must not be used by anybody else meanwhile.
func (p *program) run(b *budget, env *Env, v any, each func(any) error) error {
	c, err := p.borrow()
	if err != nil {
		return err
	}
	defer p.giveBack(c)
	iter := c.code.RunWithContext(&b.meter, v, p.values(env, b)...)
	b.meter.weigh.input, b.meter.weigh.machine = v, iter
	defer func() { b.meter.weigh.input, b.meter.weigh.machine = nil, nil }()
	for {
		out, ok := iter.Next()
		if b.spent != nil {
			return b.spent
		}
		if !ok {
			return nil
		}
		if err, failed := out.(error); failed {
			return err
		}
		if err := each(out); err != nil {
			return err
		}
	}
}

// values are those of the variables, in their order. Programs may write to
// containers, so each run gets its own; what the program does not name is left
// out.
func (p *program) values(env *Env, b *budget) []any {
	values := make([]any, len(variables))
	if p.names["$params"] {
		values[0] = clone(p.params)
	}
	if p.names["$source"] {
		values[1] = map[string]any{"site": env.SourceSite}
	}
	if p.names["$destination"] {
		values[2] = map[string]any{"site": env.DestinationSite}
	}
	if p.names["$replication"] {
		values[3] = map[string]any{"namespace": env.ReplicationNamespace, "name": env.ReplicationName}
	}
	values[4] = b
	return values
}

// clone copies the containers of v.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = clone(e)
		}
		return m
	case []any:
		s := make([]any, len(v))
		for i, e := range v {
			s[i] = clone(e)
		}
		return s
	default:
		return v
	}
}

// modules are the jq modules of a set of documents, by name.
type modules struct {
	byName map[string]*module
}

type module struct {
	origin Origin
	text   text
	query  *gojq.Query
	broken bool
}

// loader gives modules to gojq. Importing another module's module works; files
// do not exist.
type loader struct{ modules *modules }

var errNoData = errors.New("data cannot be imported: use params")

// LoadModule is called by gojq.
func (l loader) LoadModule(name string) (*gojq.Query, error) {
	if m := l.modules.byName[strings.TrimSuffix(name, moduleSuffix)]; m != nil && m.query != nil {
		return m.query, nil
	}
	return nil, &noModuleError{name}
}

type noModuleError struct{ name string }

func (e *noModuleError) Error() string { return "there is no module " + e.name }

// variablesOf collects the names of the variables in a program and in all that
// it imports.
func (ms *modules) variablesOf(src string, q *gojq.Query, into map[string]bool) map[string]bool {
	for _, t := range tokens(src) {
		if t.name[0] == '$' {
			into[t.name] = true
		}
	}
	for _, name := range imports(q) {
		if m := ms.byName[name]; m != nil && !into[name] {
			into[name] = true
			ms.variablesOf(m.text.value, m.query, into)
		}
	}
	return into
}

func (ms *modules) options() []gojq.CompilerOption {
	return append([]gojq.CompilerOption{gojq.WithModuleLoader(loader{ms})}, guards...)
}

// imports are the names of the modules that a program imports.
func imports(q *gojq.Query) []string {
	var names []string
	for _, i := range q.Imports {
		name := i.ImportPath
		if name == "" {
			name = i.IncludePath
		}
		names = append(names, strings.TrimSuffix(name, moduleSuffix))
	}
	return names
}
