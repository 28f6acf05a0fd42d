package transform

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values, here and in what rules return. The
// API server's own limit is the same order; recursion over a value stays small.
const maxDepth = 512

// maxDigits bounds one number. jq turns large literals into big integers, at a
// price that grows faster than their length.
const maxDigits = 1024

var (
	errDepth  = fmt.Errorf("nested deeper than %d levels", maxDepth)
	errNumber = fmt.Errorf("number longer than %d digits", maxDigits)
)

// decode reads a JSON document into what gojq works on: map[string]any, []any,
// string, bool, nil, int where an integer fits and is written the plain way,
// json.Number for every other number, so that no digit is lost. Strings share
// one copy of the document.
func decode(doc []byte) (any, error) {
	d := decoder{s: string(doc)}
	d.space()
	v, err := d.value(0)
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", d.i, err)
	}
	d.space()
	if d.i < len(d.s) {
		return nil, fmt.Errorf("at byte %d: text after the document", d.i)
	}
	return v, nil
}

type decoder struct {
	s string
	i int
	// scratch holds the elements of the arrays that are open, so that each gets
	// its slice in one piece.
	scratch []any
}

var (
	errEnd    = errors.New("unexpected end")
	errSyntax = errors.New("invalid JSON")
)

func (d *decoder) space() {
	for d.i < len(d.s) {
		switch d.s[d.i] {
		case ' ', '\n', '\t', '\r':
			d.i++
		default:
			return
		}
	}
}

func (d *decoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	if d.i >= len(d.s) {
		return nil, errEnd
	}
	switch c := d.s[d.i]; c {
	case '{':
		return d.object(depth)
	case '[':
		return d.array(depth)
	case '"':
		return d.text()
	case 't':
		return true, d.word("true")
	case 'f':
		return false, d.word("false")
	case 'n':
		return nil, d.word("null")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return d.number()
		}
		return nil, errSyntax
	}
}

func (d *decoder) word(w string) error {
	if !strings.HasPrefix(d.s[d.i:], w) {
		return errSyntax
	}
	d.i += len(w)
	return nil
}

func (d *decoder) object(depth int) (any, error) {
	m := map[string]any{}
	d.i++
	d.space()
	if d.i < len(d.s) && d.s[d.i] == '}' {
		d.i++
		return m, nil
	}
	for {
		if d.i >= len(d.s) {
			return nil, errEnd
		}
		if d.s[d.i] != '"' {
			return nil, errSyntax
		}
		k, err := d.text()
		if err != nil {
			return nil, err
		}
		d.space()
		if d.i >= len(d.s) {
			return nil, errEnd
		}
		if d.s[d.i] != ':' {
			return nil, errSyntax
		}
		d.i++
		d.space()
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		m[k] = v
		more, err := d.more('}')
		if err != nil {
			return nil, err
		}
		if !more {
			return m, nil
		}
	}
}

func (d *decoder) array(depth int) (any, error) {
	d.i++
	d.space()
	if d.i < len(d.s) && d.s[d.i] == ']' {
		d.i++
		return []any{}, nil
	}
	start := len(d.scratch)
	for {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		d.scratch = append(d.scratch, v)
		more, err := d.more(']')
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	vs := make([]any, len(d.scratch)-start)
	copy(vs, d.scratch[start:])
	clear(d.scratch[start:])
	d.scratch = d.scratch[:start]
	return vs, nil
}

// more reads the comma before another member, or the end.
func (d *decoder) more(end byte) (bool, error) {
	d.space()
	if d.i >= len(d.s) {
		return false, errEnd
	}
	c := d.s[d.i]
	d.i++
	switch c {
	case end:
		return false, nil
	case ',':
		d.space()
		return true, nil
	default:
		d.i--
		return false, errSyntax
	}
}

// text reads a string that begins at d.i.
func (d *decoder) text() (string, error) {
	start := d.i + 1
	for i := start; i < len(d.s); i++ {
		switch c := d.s[i]; {
		case c == '"':
			d.i = i + 1
			return d.s[start:i], nil
		case c == '\\':
			d.i = i
			return d.escaped(start)
		case c < ' ':
			d.i = i
			return "", errSyntax
		}
	}
	d.i = len(d.s)
	return "", errEnd
}

// escaped reads on from the first escape of a string that began at start.
func (d *decoder) escaped(start int) (string, error) {
	var b strings.Builder
	b.WriteString(d.s[start:d.i])
	for d.i < len(d.s) {
		c := d.s[d.i]
		switch {
		case c == '"':
			d.i++
			return b.String(), nil
		case c < ' ':
			return "", errSyntax
		case c != '\\':
			b.WriteByte(c)
			d.i++
			continue
		}
		if d.i+1 >= len(d.s) {
			return "", errEnd
		}
		e := d.s[d.i+1]
		d.i += 2
		switch e {
		case '"', '\\', '/':
			b.WriteByte(e)
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			r, ok := d.hex4()
			if !ok {
				return "", errSyntax
			}
			if utf16.IsSurrogate(r) {
				r = d.pair(r)
			}
			b.WriteRune(r)
		default:
			return "", errSyntax
		}
	}
	return "", errEnd
}

// pair reads the second half of a surrogate pair, if there is one.
func (d *decoder) pair(first rune) rune {
	if !strings.HasPrefix(d.s[d.i:], `\u`) {
		return utf8.RuneError
	}
	before := d.i
	d.i += 2
	if second, ok := d.hex4(); ok {
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return r
		}
	}
	d.i = before
	return utf8.RuneError
}

func (d *decoder) hex4() (rune, bool) {
	if d.i+4 > len(d.s) {
		return 0, false
	}
	n, err := strconv.ParseUint(d.s[d.i:d.i+4], 16, 16)
	if err != nil || d.s[d.i] == '+' {
		return 0, false
	}
	d.i += 4
	return rune(n), true
}

func (d *decoder) number() (any, error) {
	start := d.i
	if d.s[d.i] == '-' {
		d.i++
	}
	whole := d.i
	d.digits()
	switch n := d.i - whole; {
	case n == 0:
		return nil, errSyntax
	case n > 1 && d.s[whole] == '0':
		return nil, errSyntax
	}
	plain := d.i-start < 19 && d.s[start:d.i] != "-0"
	if d.i < len(d.s) && d.s[d.i] == '.' {
		plain = false
		d.i++
		if d.digits() == 0 {
			return nil, errSyntax
		}
	}
	if d.i < len(d.s) && (d.s[d.i] == 'e' || d.s[d.i] == 'E') {
		plain = false
		d.i++
		if d.i < len(d.s) && (d.s[d.i] == '+' || d.s[d.i] == '-') {
			d.i++
		}
		if d.digits() == 0 {
			return nil, errSyntax
		}
	}
	literal := d.s[start:d.i]
	if plain {
		n, err := strconv.Atoi(literal)
		if err != nil {
			return nil, errSyntax
		}
		return n, nil
	}
	if len(literal) > maxDigits {
		return nil, errNumber
	}
	return json.Number(literal), nil
}

func (d *decoder) digits() int {
	start := d.i
	for d.i < len(d.s) && '0' <= d.s[d.i] && d.s[d.i] <= '9' {
		d.i++
	}
	return d.i - start
}
