package transform

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a rules document.
type Problem struct {
	// ConfigMap, Key and Rule say where it is; Rule is empty when the document
	// or a module is meant.
	ConfigMap, Key, Rule string
	// Line and Column are the place in the text of the key, counted in lines and
	// characters from 1; 0 when it is not known.
	Line, Column int
	// Message says what is wrong.
	Message string
	// Excerpt is the line of the text that is meant, of a long one the part around
	// the place, and Caret the character in it, from 0. Excerpt is empty when there
	// is nothing to show.
	Excerpt string
	Caret   int
}

// Error names the place, says what is wrong, and shows the line with a caret
// under the place.
func (p *Problem) Error() string {
	var b strings.Builder
	origin := Origin{ConfigMap: p.ConfigMap, Key: p.Key}
	b.WriteString(origin.String())
	if p.Rule != "" {
		fmt.Fprintf(&b, ", rule %q", p.Rule)
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, ", line %d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ", column %d", p.Column)
	}
	b.WriteString(": ")
	b.WriteString(p.Message)
	if p.Excerpt != "" {
		b.WriteString("\n    " + p.Excerpt + "\n    ")
		for i, r := range []rune(p.Excerpt) {
			if i >= p.Caret {
				break
			}
			// A tab under a tab keeps the caret in its place.
			if r != '\t' {
				r = ' '
			}
			b.WriteRune(r)
		}
		b.WriteByte('^')
	}
	return b.String()
}

// Problems are all that is wrong with the rules given to Compile. errors.As
// finds each *Problem.
type Problems []*Problem

// Error lists the problems, one after another.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems one by one.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// err is ps as an error, in the order of their places; nil when there are none.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.ConfigMap, b.ConfigMap), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ps
}

// place is one in a document.
type place struct {
	lines        []string
	line, column int
}

// mark fills in the place.
func (at place) mark(p *Problem) *Problem {
	p.Line, p.Column = at.line, at.column
	if 0 < at.line && at.line <= len(at.lines) {
		p.show(at.lines[at.line-1], at.column-1)
	}
	return p
}

// Of a line that is longer than maxExcerpt, this much before the place is shown.
const (
	maxExcerpt = 120
	lead       = 40
)

// show sets what is shown to the line, with the caret before one of its characters.
func (p *Problem) show(line string, caret int) {
	all := []rune(strings.TrimRight(line, "\r"))
	caret = min(max(caret, 0), len(all))
	if from := max(caret-lead, 0); len(all) > maxExcerpt {
		all, caret = all[from:min(from+maxExcerpt, len(all))], caret-from
	}
	p.Excerpt, p.Caret = string(all), caret
}

// text is a piece of jq and where it stands in its document.
type text struct {
	value string
	// lines is the document; nil for jq that comes from no document.
	lines []string
	// line and column are where the value's node begins; block says that the
	// text begins on the next line.
	line, column int
	block        bool
}

// at fills in the place of the byte offset.
func (t text) at(p *Problem, offset int) *Problem {
	offset = min(max(offset, 0), len(strings.TrimRight(t.value, " \t\r\n")))
	before := t.value[:offset]
	row := strings.Count(before, "\n")
	begin := strings.LastIndexByte(before, '\n') + 1
	line, _, _ := strings.Cut(t.value[begin:], "\n")
	caret := utf8.RuneCountInString(t.value[begin:offset])
	p.show(line, caret)
	switch {
	case t.lines == nil:
		p.Line, p.Column = row+1, caret+1
	case t.block:
		p.Line, p.Column = t.line, t.column
		if n := t.line + row; n < len(t.lines) {
			if i := strings.Index(t.lines[n], line); i >= 0 && strings.TrimSpace(t.lines[n][:i]) == "" {
				p.Line, p.Column = n+1, utf8.RuneCountInString(t.lines[n][:i])+caret+1
			}
		}
	default:
		// Plain or quoted: exact when it stands there letter by letter.
		p.Line, p.Column = t.line, t.column
		if row == 0 && t.line <= len(t.lines) {
			doc := []rune(t.lines[t.line-1])
			if t.column-1 <= len(doc) {
				rest := string(doc[t.column-1:])
				for skip := range 2 {
					if skip <= len(rest) && strings.HasPrefix(rest[skip:], line) {
						p.Column = t.column + skip + caret
						break
					}
				}
			}
		}
	}
	return p
}
