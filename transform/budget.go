package transform

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"

	"github.com/itchyny/gojq"
)

const (
	// maxIndex is the greatest index that a rule may write a list at.
	maxIndex = 65535
	// maxPart is the longest list that may be an index.
	maxPart = 16
	// maxSteps bounds the work of one function that compares two values.
	maxSteps = 1 << 24
	// maxTextSteps bounds the work of looking for one text in another.
	maxTextSteps = 1 << 30
	// maxPatternSteps bounds the work of one pattern: its size times the text's.
	maxPatternSteps = 1 << 24
	// maxPatternCount bounds groups of all matches times the text's size: gojq
	// counts the characters before each group.
	maxPatternCount = 1 << 26
	// maxPatternLength bounds the text of one pattern.
	maxPatternLength = 8 << 10
	// largeStep is how many bytes, and largeIndex how many elements, one step may make
	// before the meter is looked at.
	largeStep  = 16 << 10
	largeIndex = 255
	// heavyStep is how much work, in the units of the limits above, one step may do.
	heavyStep = 1 << 16
	// patternSize is about what gojq keeps of a pattern for each of its instructions.
	patternSize = 256
	// groupSize is about what gojq makes of one group of one match.
	groupSize = 512
	// maxSearchSteps bounds how often looking for a place compares two elements.
	maxSearchSteps = 1 << 22
)

var (
	errMemory = errors.New("needs too much memory")
	errSteps  = errors.New("wants too much work in one step")
	errLong   = fmt.Errorf("text longer than %d characters where a number or a format is wanted", maxDigits)
	errIndex  = fmt.Errorf("an index greater than %d", maxIndex)
)

// budget is the allowance of one event. It belongs to one goroutine.
type budget struct {
	meter    meter
	patterns *patterns
	// met are the patterns of this event so far.
	met map[string]struct{}
	// bytes may still be made.
	bytes int64
	// nodes may be walked through at once.
	nodes int
	// spent is the first excess. Programs can catch errors, but not this one: the
	// run fails with it however it ends.
	spent error
}

func (b *budget) exceed(err error) error {
	if b.spent == nil {
		b.spent = err
	}
	return err
}

func (b *budget) spend(bytes int64) error {
	if bytes > largeStep {
		b.meter.soon()
	}
	if b.bytes -= bytes; b.bytes < 0 || bytes < 0 {
		b.bytes = 0
		return b.exceed(errMemory)
	}
	return nil
}

// work allows one step to do so much of what the limit is for.
func (b *budget) work(steps, limit int64) error {
	if steps > heavyStep {
		b.meter.soon()
	}
	if steps > limit {
		return b.exceed(errSteps)
	}
	return nil
}

// size is what a value takes.
type size struct {
	nodes int
	bytes int64
}

// measure walks through v as a tree, the way functions that compare or write
// it do: a part that is shared counts each time.
func (b *budget) measure(v any) (size, error) {
	var s size
	err := b.walk(v, 0, &s)
	return s, err
}

func (b *budget) walk(v any, depth int, s *size) error {
	if s.nodes++; s.nodes > b.nodes {
		return b.exceed(errMemory)
	}
	if s.nodes%4096 == 0 {
		if err := b.meter.look(); err != nil {
			return err
		}
	}
	if depth > maxDepth {
		return b.exceed(errDepth)
	}
	s.bytes += 16
	switch v := v.(type) {
	case string:
		s.bytes += int64(len(v))
	case json.Number:
		if len(v) > maxDigits {
			return b.exceed(errNumber)
		}
		s.bytes += int64(len(v))
	case *big.Int:
		if v.BitLen() > 4*maxDigits {
			return b.exceed(errNumber)
		}
		s.bytes += int64(v.BitLen() / 8)
	case []any:
		s.bytes += 8
		for _, e := range v {
			if err := b.walk(e, depth+1, s); err != nil {
				return err
			}
		}
	case map[string]any:
		s.bytes += 32
		for k, e := range v {
			s.bytes += int64(len(k)) + 16
			if err := b.walk(e, depth+1, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// shallow is the size of v itself, without its elements.
func shallow(v any) int64 {
	switch v := v.(type) {
	case string:
		return int64(len(v))
	case []any:
		return 16 * int64(len(v))
	case map[string]any:
		return 48 * int64(len(v))
	case json.Number:
		return int64(len(v))
	case *big.Int:
		return int64(v.BitLen() / 8)
	}
	return 0
}

// guards are the functions that guardSyntax puts into programs.
var guards = []gojq.CompilerOption{
	guardFunc(guardWalk, 0, func(b *budget, v any, _ []any) any {
		if _, err := b.measure(v); err != nil {
			return err
		}
		return v
	}),
	guardFunc(guardSpend, 0, func(b *budget, v any, _ []any) any {
		s, err := b.measure(v)
		if err == nil {
			err = b.spend(s.bytes)
		}
		if err != nil {
			return err
		}
		return v
	}),
	guardFunc(guardShallow, 0, func(b *budget, v any, _ []any) any {
		n := shallow(v)
		if n > 0 {
			if err := b.spend(n); err != nil {
				return err
			}
		}
		return v
	}),
	guardFunc(guardIndex, 0, checkIndex(0)),
	guardFunc(guardPath, 0, checkIndex(1)),
	guardFunc(guardPaths, 0, checkIndex(2)),
	guardFunc(guardNumeral, 0, func(_ *budget, v any, _ []any) any {
		if s, ok := v.(string); ok && len(s) > maxDigits {
			return errLong
		}
		return v
	}),
	guardFunc(guardTurn, 0, func(b *budget, v any, _ []any) any {
		if err := b.turn(v); err != nil {
			return err
		}
		return v
	}),
	guardFunc(guardProduct, 1, func(b *budget, v any, args []any) any {
		if err := b.product(v, args[0]); err != nil {
			return err
		}
		return args[0]
	}),
	guardFunc(guardSearch, 1, func(b *budget, v any, args []any) any {
		if err := b.search(v, args[0]); err != nil {
			return err
		}
		return args[0]
	}),
	guardFunc(guardSplit, 1, func(b *budget, v any, args []any) any {
		s, ok := v.(string)
		separator, isText := args[0].(string)
		if ok && isText {
			if err := b.spend(int64(len(s)) + 16*int64(strings.Count(s, separator))); err != nil {
				return err
			}
		}
		return args[0]
	}),
	guardFunc(guardPair, 2, func(b *budget, _ any, args []any) any {
		if err := b.product(args[0], args[1]); err != nil {
			return err
		}
		return []any{args[0], args[1]}
	}),
	guardFunc(guardTimes, 2, func(b *budget, _ any, args []any) any {
		if err := b.times(args[0], args[1]); err != nil {
			return err
		}
		return []any{args[0], args[1]}
	}),
	guardFunc(guardRegexp, 1, func(b *budget, v any, args []any) any {
		if err := b.match(v, args[0]); err != nil {
			return err
		}
		return args[0]
	}),
}

func guardFunc(name string, args int, f func(b *budget, v any, args []any) any) gojq.CompilerOption {
	return gojq.WithFunction(name, args+1, args+1, func(v any, all []any) any {
		b, ok := all[args].(*budget)
		if !ok {
			return errNotJSON
		}
		return f(b, v, all[:args])
	})
}

// checkIndex checks an index, or with levels of lists above them a path of indices
// or a list of paths. An index that is a list itself is looked for at every place.
func checkIndex(levels int) func(b *budget, v any, _ []any) any {
	return func(b *budget, v any, _ []any) any {
		if list, ok := v.([]any); ok {
			if _, err := b.measure(list); err != nil {
				return err
			}
		}
		if err := b.index(v, levels); err != nil {
			return err
		}
		return v
	}
}

func (b *budget) index(v any, levels int) error {
	switch v := v.(type) {
	case int, float64, *big.Int, json.Number:
		if n, ok := gojq.ToInt(v); ok && n > maxIndex {
			return errIndex
		} else if ok && n > largeIndex {
			b.meter.soon()
		}
	case []any:
		if levels <= 0 && len(v) > maxPart {
			return b.exceed(errSteps)
		}
		for _, e := range v {
			if err := b.index(e, levels-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// product allows work that goes with the product of two sizes.
func (b *budget) product(l, r any) error {
	ls, err := b.measure(l)
	if err != nil {
		return err
	}
	rs, err := b.measure(r)
	if err != nil {
		return err
	}
	if isScalar(l) && isScalar(r) {
		if err := b.work(shallow(l)*shallow(r), maxTextSteps); err != nil {
			return err
		}
		return b.spend(shallow(l) + shallow(r))
	}
	if err := b.work(int64(ls.nodes)*int64(rs.nodes), maxSteps); err != nil {
		return err
	}
	// join puts the text between all elements.
	if s, ok := r.(string); ok {
		if err := b.spend(int64(len(s)) * int64(ls.nodes)); err != nil {
			return err
		}
	}
	return b.spend(ls.bytes + rs.bytes)
}

// search allows looking for the places of one text, or list, in another. gojq
// compares at every place, element by element until one differs.
func (b *budget) search(v, what any) error {
	s, ok := v.(string)
	part, isText := what.(string)
	if !ok || !isText {
		return b.product(v, what)
	}
	if err := b.work(int64(len(s)+prefixes(s, part, maxSearchSteps)), maxSearchSteps); err != nil {
		return err
	}
	return b.spend(16 * int64(len(s)+len(part)))
}

// prefixes adds up, over all places of s, how much of part stands there. It ends
// early beyond limit. It takes time in proportion to both (the Z algorithm).
func prefixes(s, part string, limit int) int {
	both := part + s
	match := make([]int32, len(both)) // how much of the beginning stands at each place
	sum, left, right := 0, 0, 0
	for i := 1; i < len(both); i++ {
		n := 0
		if i < right {
			n = min(right-i, int(match[i-left]))
		}
		for n < len(part) && i+n < len(both) && both[n] == both[i+n] {
			n++
		}
		if i+n > right {
			left, right = i, i+n
		}
		match[i] = int32(n)
		if i >= len(part) {
			if sum += n; sum > limit {
				return sum
			}
		}
	}
	return sum
}

func isScalar(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return false
	}
	return true
}

// turn allows transpose, which fills short rows up.
func (b *budget) turn(v any) error {
	rows, ok := v.([]any)
	if !ok {
		return nil
	}
	longest := 0
	for _, row := range rows {
		if row, ok := row.([]any); ok {
			longest = max(longest, len(row))
		}
	}
	return b.spend(24 * int64(longest) * int64(len(rows)))
}

// times allows "*": repeated text, great numbers, merged objects.
func (b *budget) times(l, r any) error {
	s, ok := l.(string)
	n, isNumber := gojq.ToFloat64(r)
	if !ok {
		s, ok = r.(string)
		n, isNumber = gojq.ToFloat64(l)
	}
	if ok && isNumber {
		if product := float64(len(s)) * n; product >= 1 {
			if product > float64(b.bytes) {
				return b.exceed(errMemory)
			}
			return b.spend(int64(product))
		}
		return nil
	}
	return b.product(l, r)
}

// match allows a pattern to be run over a text.
func (b *budget) match(v, pattern any) error {
	s, ok := v.(string)
	if list, isList := pattern.([]any); isList && len(list) > 0 {
		pattern = list[0]
	}
	source, isText := pattern.(string)
	if !ok || !isText {
		return nil // for gojq to refuse
	}
	if len(source) > maxPatternLength {
		return b.exceed(errSteps)
	}
	p := b.patterns.get(source)
	if p == nil {
		return nil
	}
	if _, met := b.met[source]; !met {
		if b.met == nil {
			b.met = map[string]struct{}{}
		}
		b.met[source] = struct{}{}
		if err := b.spend(int64(len(source)) + patternSize*int64(p.size)); err != nil {
			return err
		}
	}
	if err := b.work(int64(p.size)*int64(len(s)), maxPatternSteps); err != nil {
		return err
	}
	groups := p.re.NumSubexp() + 1
	if len(s) <= 512 && groups <= 8 {
		return nil // all that can come out is little
	}
	most := maxPatternCount / (len(s) + 1) / groups
	found := len(p.re.FindAllStringIndex(s, most+1))
	if found > most {
		return b.exceed(errSteps)
	}
	return b.spend(int64(found) * int64(groups) * groupSize)
}

// patterns remembers how large patterns are. It is safe for concurrent use.
type patterns struct {
	mu    sync.Mutex
	known map[string]*pattern
}

type pattern struct {
	re   *regexp.Regexp
	size int
}

// maxPatterns bounds the memory: programs may make patterns from objects.
const maxPatterns = 256

// get is nil for what is no pattern.
func (ps *patterns) get(source string) *pattern {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p, ok := ps.known[source]; ok {
		return p
	}
	if len(ps.known) >= maxPatterns {
		clear(ps.known)
	}
	p := compilePattern(source)
	ps.known[source] = p
	return p
}

func compilePattern(source string) *pattern {
	re, err := regexp.Compile(source)
	if err != nil {
		return nil
	}
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil
	}
	return &pattern{re: re, size: len(prog.Inst)}
}
