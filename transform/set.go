package transform

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Limits bound what the rules may do to one object. Zero fields mean the
// default.
type Limits struct {
	// Time for all rules together; 100 ms. Where the system tells (Linux), it is the
	// processor's time, so that a rule is not slow because the machine is busy.
	Time time.Duration
	// Outputs is how many objects may come of one; 64.
	Outputs int
	// Bytes is how long the object, and together what comes of it, may be; 3 MiB.
	Bytes int
	// Memory bounds what a program holds besides the object that it was given, and
	// what it makes in single steps; 64 MiB, and less for small objects: 4 MiB and 64
	// times the object's length.
	Memory int64
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Time:    cmp.Or(max(l.Time, 0), 100*time.Millisecond),
		Outputs: cmp.Or(max(l.Outputs, 0), 64),
		Bytes:   cmp.Or(max(l.Bytes, 0), 3<<20),
		Memory:  cmp.Or(max(l.Memory, 0), 64<<20),
	}
}

// Lookup resolves the references of params. It is called while rules are
// compiled; its errors become Problems.
type Lookup interface {
	Lookup(ref Reference) (string, error)
}

// Options say how to compile.
type Options struct {
	// Stage is the side the Set is for: rules of the other one are checked and
	// left out. AtDestination when empty.
	Stage Stage
	// Rules are further rules, like those of Standby, which come before those of
	// the documents where the order is the same.
	Rules []Rule
	// Lookup may be nil when no rule refers to Secrets or ConfigMaps.
	Lookup Lookup
	Limits Limits
}

// Set is a number of compiled rules. It is immutable and safe for concurrent
// use; a changed set of rules is another Set.
type Set struct {
	rules    []compiled
	limits   Limits
	patterns *patterns
	// kinds caches a *kindIndex for each kind seen.
	kinds sync.Map
}

type compiled struct {
	Rule
	matcher matcher
	program *program
	// when is nil without a condition.
	when *program
	// secret: a parameter is from a Secret.
	secret bool
}

// Compile compiles the rules and modules of documents. When anything is wrong
// it returns no Set and all Problems.
func Compile(docs []Document, o Options) (*Set, error) {
	rules, err := Parse(docs...)
	c := &compiler{}
	if problems, ok := errors.AsType[Problems](err); ok {
		c.problems = problems
	}
	c.addModules(docs)
	stage := cmp.Or(o.Stage, AtDestination)
	s := &Set{limits: o.Limits.withDefaults(), patterns: &patterns{known: map[string]*pattern{}}}
	for _, r := range slices.Concat(o.Rules, rules) {
		r.Stage = cmp.Or(r.Stage, AtDestination)
		lookup := o.Lookup
		if r.Stage != stage {
			lookup = elsewhere{} // its values are at the other side
		}
		one, ok := c.rule(r, lookup)
		if ok && r.Stage == stage {
			s.rules = append(s.rules, one)
		}
	}
	if err := c.problems.err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.rules, func(a, b compiled) int { return cmp.Compare(a.Order, b.Order) })
	return s, nil
}

// elsewhere stands for values that only the other side has.
type elsewhere struct{}

func (elsewhere) Lookup(Reference) (string, error) { return "", nil }

func (c *compiler) rule(r Rule, lookup Lookup) (compiled, bool) {
	before := len(c.problems)
	if r.jq.value == "" {
		r.jq.value = r.JQ
	}
	if r.when.value == "" {
		r.when.value = r.Match.When
	}
	params, secret := make(map[string]any, len(r.Params)), false
	for _, name := range sortedKeys(r.Params) {
		p := r.Params[name]
		params[name] = p.Value
		if p.From == nil {
			continue
		}
		secret = secret || p.From.Secret
		if lookup == nil {
			c.reportParam(r, name, "references cannot be resolved here")
			continue
		}
		v, err := lookup.Lookup(*p.From)
		if err != nil {
			c.reportParam(r, name, err.Error())
			continue
		}
		params[name] = v
	}
	one := compiled{Rule: r, matcher: newMatcher(&r.Match), secret: secret}
	one.program = c.program(r.Origin, r.Name, r.jq, params)
	if r.Match.When != "" {
		one.when = c.program(r.Origin, r.Name, r.when, params)
	}
	return one, len(c.problems) == before && one.program != nil && (r.Match.When == "" || one.when != nil)
}

// Rules are the rules of the set in the order in which they run.
func (s *Set) Rules() []Rule {
	rules := make([]Rule, len(s.rules))
	for i := range s.rules {
		rules[i] = s.rules[i].Rule
	}
	return rules
}

// Env is what a run may know of its surroundings.
type Env struct {
	// SourceSite is $source.site, DestinationSite $destination.site, and the
	// Replication's name $replication.namespace and $replication.name.
	SourceSite, DestinationSite           string
	ReplicationNamespace, ReplicationName string
	// Protected says which namespaces no rule may move an object into, or rename a
	// Namespace to; nil protects none.
	Protected func(namespace string) bool
}

// Result is what became of an object.
type Result struct {
	// Objects are to be written: the object itself, rewritten or not, or several
	// of its kind. None means that the rules dropped it, unless Skipped.
	Objects []Object
	// Skipped means that a rule failed and says to leave the object out: whatever
	// copy there is stays as it is.
	Skipped bool
	// Applied are the rules that ran, in order; of those after a rule with several
	// results, one for each object they ran on.
	Applied []ID
	// Failures are the errors that onError has dealt with.
	Failures []error
}

// Dropped says that the rules want no copy of the object.
func (r *Result) Dropped() bool { return len(r.Objects) == 0 && !r.Skipped }

// maxKinds bounds the cache of Set.kinds; a cluster serves a few hundred.
const maxKinds = 4096

func (s *Set) index(kind pipeline.GroupResource) *kindIndex {
	if x, ok := s.kinds.Load(kind); ok {
		return x.(*kindIndex) //nolint:errcheck // only index stores there
	}
	x := newKindIndex(s.rules, kind)
	n := 0
	s.kinds.Range(func(any, any) bool { n++; return n < maxKinds })
	if n < maxKinds {
		s.kinds.Store(kind, x)
	}
	return x
}

// Matches says whether any rule may be for the object, conditions left aside.
// It decodes nothing.
func (s *Set) Matches(o Object) bool {
	if len(s.rules) == 0 {
		return false
	}
	f := facts{kind: o.Kind, body: o.Body}
	return s.index(o.Kind).next(s.rules, &f, 0) >= 0
}

// Run applies the rules to an object, in their order, each to what the one
// before made of it. An object that no rule matches comes back as it is. It is
// safe to call at once from many goroutines, and to call again: it has no
// effects. Errors are *Error, with class Invalid or Malformed, or ctx's own.
func (s *Set) Run(ctx context.Context, env Env, o Object) (Result, error) {
	index := s.index(o.Kind)
	f := facts{kind: o.Kind, body: o.Body}
	if index.next(s.rules, &f, 0) < 0 {
		return Result{Objects: []Object{o}}, nil
	}
	r := run{set: s, env: &env, index: index, kind: o.Kind}
	return r.all(ctx, o)
}
