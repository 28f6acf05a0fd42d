package transform

import "strings"

// token is a name in jq text: a function, a variable with its "$", or a format
// with its "@". Fields (.name), object keys, text in strings and comments are
// not tokens.
type token struct {
	name   string
	offset int
	// defined says that the name is being defined here, not used.
	defined bool
}

// tokens finds the names in jq text. gojq's syntax tree has no positions, so
// this is how an error that names something gets its place.
func tokens(src string) []token {
	var found []token
	// braces holds, for each open string interpolation, the parentheses within it.
	var braces []int
	for i := 0; i < len(src); {
		switch c := src[i]; {
		case c == '#':
			n := strings.IndexByte(src[i:], '\n')
			if n < 0 {
				return found
			}
			i += n
		case c == '"':
			var open bool
			if i, open = endOfText(src, i+1); open {
				braces = append(braces, 0)
			}
		case c == '(' && len(braces) > 0:
			braces[len(braces)-1]++
			i++
		case c == ')' && len(braces) > 0:
			i++
			if braces[len(braces)-1]--; braces[len(braces)-1] < 0 {
				braces = braces[:len(braces)-1]
				var open bool
				if i, open = endOfText(src, i); open {
					braces = append(braces, 0)
				}
			}
		case c == '$' || c == '@' || isLetter(c):
			start := i
			for i++; i < len(src) && (isLetter(src[i]) || isDigit(src[i]) || strings.HasPrefix(src[i:], "::")); i++ {
				if src[i] == ':' {
					i++
				}
			}
			if start > 0 && src[start-1] == '.' && (start < 2 || src[start-2] != '.') {
				break // a field
			}
			if c != '$' && c != '@' && strings.HasPrefix(strings.TrimLeft(src[i:], " \t\r\n"), ":") {
				if !defining(found, src[:start]) {
					break // an object key
				}
			}
			found = append(found, token{src[start:i], start, defining(found, src[:start])})
		case isDigit(c):
			for i < len(src) && (isLetter(src[i]) || isDigit(src[i]) || src[i] == '.') {
				i++
			}
		default:
			i++
		}
	}
	return found
}

// defining says whether the text before a name ends in "def".
func defining(found []token, before string) bool {
	if len(found) == 0 {
		return false
	}
	last := found[len(found)-1]
	return last.name == "def" && strings.TrimSpace(before[last.offset:]) == "def"
}

// endOfText walks through a string from i, inside it. It returns the place
// behind its end, or behind the "\(" of an interpolation.
func endOfText(src string, i int) (end int, interpolation bool) {
	for ; i < len(src); i++ {
		switch src[i] {
		case '"':
			return i + 1, false
		case '\\':
			i++
			if i < len(src) && src[i] == '(' {
				return i + 1, true
			}
		}
	}
	return len(src), false
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// locate is the offset of the first use of this name, else of its definition,
// or -1.
func locate(src, name string) int {
	definition := -1
	for _, t := range tokens(src) {
		if t.name == name && !t.defined {
			return t.offset
		}
		if t.name == name && definition < 0 {
			definition = t.offset
		}
	}
	return definition
}
