package transform

import (
	"slices"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

// jq functions that are written in Go run to their end whatever the deadline
// says: gojq looks at its context only between steps. Some of them do work, or
// make values, out of all proportion to the program: "x" * 1e9, .[1e8] = 0,
// doubling a list thirty times, comparing values that share parts. So the
// syntax tree of every program is rewritten before it is compiled: the inputs
// and arguments of such functions pass through guards (see budget.go) that stop
// the program when its allowance is used up. What a guard passes, it passes
// unchanged, so results are those of plain jq.

// budgetVariable carries the *budget of a run to the guards. Programs cannot
// name variables that begin with "$__".
const budgetVariable = "$__budget"

// guardSyntax rewrites a program, and returns the names it uses that are refused.
func guardSyntax(q *gojq.Query) []string {
	g := guarder{}
	g.query(q)
	return g.refused
}

type guarder struct{ refused []string }

func (g *guarder) query(q *gojq.Query) {
	if q == nil {
		return
	}
	for _, f := range q.FuncDefs {
		g.name(f.Name)
		for _, a := range f.Args {
			g.name(a)
		}
		g.query(f.Body)
	}
	g.term(q.Term)
	g.query(q.Left)
	g.query(q.Right)
	g.patterns(q.Patterns)
	operator(q)
}

// operator guards the operands of a query's own operator.
func operator(q *gojq.Query) {
	switch q.Op {
	case gojq.OpAdd:
		q.Left, q.Right = pipeUnlessPlain(q.Left, guardShallow), pipeUnlessPlain(q.Right, guardShallow)
	case gojq.OpDiv, gojq.OpMod:
		q.Left, q.Right = pipeUnlessPlain(q.Left, guardSpend), pipeUnlessPlain(q.Right, guardSpend)
	case gojq.OpEq, gojq.OpNe, gojq.OpLt, gojq.OpLe, gojq.OpGt, gojq.OpGe:
		// Comparing with a scalar takes one step.
		if !plain(q.Left) && !plain(q.Right) {
			q.Left, q.Right = pipe(q.Left, guardWalk), pipe(q.Right, guardWalk)
		}
	case gojq.OpSub:
		if !plain(q.Left) && !plain(q.Right) {
			pairUp(q, guardPair)
		}
	case gojq.OpMul:
		pairUp(q, guardTimes)
	case gojq.OpModify:
		q.Left, q.Right, q.Op = call(guardWalk), group(&gojq.Query{Left: q.Left, Op: gojq.OpModify, Right: q.Right}), gojq.OpPipe
	case gojq.OpUpdateAdd, gojq.OpUpdateSub, gojq.OpUpdateMul, gojq.OpUpdateDiv, gojq.OpUpdateMod, gojq.OpUpdateAlt:
		update(q)
	default:
		// The others are run step by step.
	}
}

// update rewrites "l op= r" to what it stands for, "r as $x | l |= (. op $x)",
// so that the operator gets its guards.
func update(q *gojq.Query) {
	const operand = "$__operand"
	op := map[gojq.Operator]gojq.Operator{
		gojq.OpUpdateAdd: gojq.OpAdd, gojq.OpUpdateSub: gojq.OpSub, gojq.OpUpdateMul: gojq.OpMul,
		gojq.OpUpdateDiv: gojq.OpDiv, gojq.OpUpdateMod: gojq.OpMod, gojq.OpUpdateAlt: gojq.OpAlt,
	}[q.Op]
	change := &gojq.Query{Left: identity(), Op: op, Right: call(operand)}
	operator(change)
	q.Left, q.Patterns, q.Op, q.Right = group(q.Right), []*gojq.Pattern{{Name: operand}}, gojq.OpPipe, &gojq.Query{
		Left: call(guardWalk), Op: gojq.OpPipe,
		Right: group(&gojq.Query{Left: q.Left, Op: gojq.OpModify, Right: group(change)}),
	}
}

func (g *guarder) name(name string) {
	if refusal(name) != "" && !slices.Contains(g.refused, name) {
		g.refused = append(g.refused, name)
	}
}

func (g *guarder) patterns(ps []*gojq.Pattern) {
	for _, p := range ps {
		if p == nil {
			continue
		}
		g.name(p.Name)
		g.patterns(p.Array)
		for _, o := range p.Object {
			if strings.HasPrefix(o.Key, "$") {
				g.name(o.Key)
			}
			g.text(o.KeyString)
			g.query(o.KeyQuery)
			g.patterns([]*gojq.Pattern{o.Val})
		}
	}
}

func (g *guarder) text(s *gojq.String) {
	if s == nil {
		return
	}
	for i, q := range s.Queries {
		if q.Term != nil && q.Term.Type == gojq.TermTypeString && len(q.Term.SuffixList) == 0 && q.Term.Str.Queries == nil {
			continue // the text between interpolations
		}
		g.query(q)
		s.Queries[i] = pipe(q, guardSpend)
	}
}

func (g *guarder) index(x *gojq.Index) {
	if x == nil {
		return
	}
	g.text(x.Str)
	g.query(x.Start)
	g.query(x.End)
	if x.Start != nil && !x.IsSlice && !smallIndex(x.Start) {
		x.Start = pipe(x.Start, guardIndex)
	}
}

func (g *guarder) term(t *gojq.Term) {
	if t == nil {
		return
	}
	for _, s := range t.SuffixList {
		g.index(s.Index)
	}
	g.index(t.Index)
	g.name(t.Format)
	g.text(t.Str)
	if t.Object != nil {
		for _, kv := range t.Object.KeyVals {
			if strings.HasPrefix(kv.Key, "$") {
				g.name(kv.Key)
			}
			g.text(kv.KeyString)
			g.query(kv.KeyQuery)
			g.query(kv.Val)
		}
	}
	if t.Array != nil {
		g.query(t.Array.Query)
	}
	if t.Unary != nil {
		g.term(t.Unary.Term)
	}
	if t.If != nil {
		g.query(t.If.Cond)
		g.query(t.If.Then)
		for _, e := range t.If.Elif {
			g.query(e.Cond)
			g.query(e.Then)
		}
		g.query(t.If.Else)
	}
	if t.Try != nil {
		g.query(t.Try.Body)
		g.query(t.Try.Catch)
	}
	if t.Reduce != nil {
		g.query(t.Reduce.Query)
		g.patterns(t.Reduce.Patterns)
		g.query(t.Reduce.Start)
		g.query(t.Reduce.Update)
	}
	if t.Foreach != nil {
		g.query(t.Foreach.Query)
		g.patterns(t.Foreach.Patterns)
		g.query(t.Foreach.Start)
		g.query(t.Foreach.Update)
		g.query(t.Foreach.Extract)
	}
	if t.Label != nil {
		g.query(t.Label.Body)
	}
	g.query(t.Query)
	switch {
	case t.Func != nil:
		g.call(t)
	case t.Format != "" && t.Str == nil:
		guardInput(t, &gojq.Term{Type: gojq.TermTypeFormat, Format: t.Format}, guardSpend)
	}
}

// call guards the call of a function.
func (g *guarder) call(t *gojq.Term) {
	f := t.Func
	g.name(f.Name)
	for _, a := range f.Args {
		g.query(a)
	}
	guards, ok := guarded[f.Name]
	if !ok {
		return
	}
	if f.Name == "split" && len(f.Args) == 1 { // no pattern
		guards = guarding{"", guardSplit}
	}
	for i, a := range f.Args {
		switch guards.args {
		case "":
		case guardProduct, guardRegexp, guardSearch, guardSplit:
			if i == 0 {
				f.Args[i] = call(guards.args, a)
			}
		case guardIndex, guardPath, guardPaths:
			if i == 0 && !smallIndex(a) {
				f.Args[i] = pipe(a, guards.args)
			}
		default:
			f.Args[i] = pipeUnlessPlain(a, guards.args)
		}
	}
	if guards.input != "" {
		guardInput(t, &gojq.Term{Type: gojq.TermTypeFunc, Func: f}, guards.input)
	}
	if f.Name == "fromjson" {
		// What comes out may hold what decode would have refused.
		t.Query = pipe(t.Query, guardWalk)
	}
}

// guardInput turns t into (guard | inner), with t's suffixes.
func guardInput(t, inner *gojq.Term, guard string) {
	*t = gojq.Term{
		Type:       gojq.TermTypeQuery,
		Query:      &gojq.Query{Left: call(guard), Op: gojq.OpPipe, Right: &gojq.Query{Term: inner}},
		SuffixList: t.SuffixList,
	}
}

func identity() *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIdentity}}
}

func group(q *gojq.Query) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeQuery, Query: q}}
}

// call is a call of a variable or of a guard, which gets the budget last.
func call(name string, args ...*gojq.Query) *gojq.Query {
	if name[0] != '$' {
		args = append(args, call(budgetVariable))
	}
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: name, Args: args}}}
}

func pipe(q *gojq.Query, guard string) *gojq.Query {
	return group(&gojq.Query{Left: q, Op: gojq.OpPipe, Right: call(guard)})
}

func pipeUnlessPlain(q *gojq.Query, guard string) *gojq.Query {
	if plain(q) {
		return q
	}
	return pipe(q, guard)
}

// pairUp turns "l op r" into "guard(l; r) | .[0] op .[1]".
func pairUp(q *gojq.Query, guard string) {
	at := func(n string) *gojq.Query {
		return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIndex, Index: &gojq.Index{
			Start: &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeNumber, Number: n}},
		}}}
	}
	q.Left, q.Right, q.Op = call(guard, q.Left, q.Right), group(&gojq.Query{Left: at("0"), Op: q.Op, Right: at("1")}), gojq.OpPipe
}

// plain says that q is a literal scalar of modest size.
func plain(q *gojq.Query) bool {
	if q.Term == nil || len(q.Term.SuffixList) > 0 {
		return false
	}
	switch t := q.Term; t.Type {
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse:
		return true
	case gojq.TermTypeNumber:
		return len(t.Number) < maxDigits
	case gojq.TermTypeString:
		return t.Str.Queries == nil
	default:
		return false
	}
}

func smallIndex(q *gojq.Query) bool {
	if q.Term == nil || len(q.Term.SuffixList) > 0 {
		return false
	}
	switch t := q.Term; t.Type {
	case gojq.TermTypeString:
		return t.Str.Queries == nil
	case gojq.TermTypeNumber:
		n, err := strconv.Atoi(t.Number)
		return err == nil && n <= largeIndex
	default:
		return false
	}
}
