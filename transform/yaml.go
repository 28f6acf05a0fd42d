package transform

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxDocument bounds a rules document: a ConfigMap holds no more either.
const maxDocument = 1 << 20

// misplaced is an error at a place in a YAML document.
type misplaced struct {
	line, column int
	message      string
}

func (m *misplaced) Error() string { return m.message }

func complain(n *yaml.Node, format string, args ...any) *misplaced {
	return &misplaced{line: n.Line, column: n.Column, message: fmt.Sprintf(format, args...)}
}

// lineBreak is what YAML takes for the end of a line.
var lineBreak = regexp.MustCompile(`\r\n|[\r\n\x{85}\x{2028}\x{2029}]`)

func linesOf(doc string) []string { return lineBreak.Split(doc, -1) }

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// readYAML parses one YAML document. It returns nil for an empty one.
func readYAML(doc string) (root *yaml.Node, wrong *misplaced) {
	if len(doc) > maxDocument {
		return nil, misplacedAt(doc, 0, "longer than %d bytes", maxDocument)
	}
	if i := notText(doc); i >= 0 {
		return nil, misplacedAt(doc, i, "not text: byte 0x%02x", doc[i])
	}
	defer func() {
		// The parser is a port of C and has panicked on odd input before.
		if r := recover(); r != nil {
			root, wrong = nil, misplacedAt(doc, 0, "not YAML")
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(doc))
	var first, second yaml.Node
	if err := dec.Decode(&first); err != nil {
		if err.Error() == "EOF" {
			return nil, nil
		}
		return nil, yamlProblem(doc, err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, complain(&second, "more than one YAML document: give each a key of its own")
	case err.Error() != "EOF":
		return nil, yamlProblem(doc, err)
	}
	if len(first.Content) == 0 || first.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return first.Content[0], nil
}

// notText is the place of the first byte that is not of a text, or -1.
func notText(doc string) int {
	for i, r := range doc {
		if r == utf8.RuneError && !strings.HasPrefix(doc[i:], string(utf8.RuneError)) || r < ' ' && r != '\t' && r != '\n' && r != '\r' {
			return i
		}
	}
	return -1
}

// misplacedAt is an error at a byte of the document.
func misplacedAt(doc string, offset int, format string, args ...any) *misplaced {
	lines := linesOf(doc[:offset])
	last := lines[len(lines)-1]
	return &misplaced{line: len(lines), column: utf8.RuneCountInString(last) + 1, message: fmt.Sprintf(format, args...)}
}

// yamlProblem finds the place in the parser's message; the column is where the
// text of that line begins. Without a line it is the end that the parser did not
// expect, or else the document as a whole.
func yamlProblem(doc string, err error) *misplaced {
	message, _, _ := strings.Cut(err.Error(), "\n")
	m := yamlLine.FindStringSubmatch(message)
	if m == nil {
		return misplacedAt(doc, 0, "not YAML: %s", message)
	}
	lines := linesOf(doc)
	if n, err := strconv.Atoi(m[1]); err == nil && 0 < n && n <= len(lines) {
		line := lines[n-1]
		return &misplaced{line: n, column: len(line) - len(strings.TrimLeft(line, " ")) + 1, message: "not YAML: " + m[2]}
	}
	at := 0
	if strings.Contains(m[2], "end of stream") {
		at = len(strings.TrimRight(doc, " \t\r\n"))
	}
	return misplacedAt(doc, at, "not YAML: %s", m[2])
}

// fields walks over a mapping's members, in order.
func fields(n *yaml.Node, what string, visit func(key string, at, value *yaml.Node) *misplaced) []*misplaced {
	if n.Kind == yaml.AliasNode {
		return []*misplaced{complain(n, "aliases are not supported")}
	}
	if n.Kind != yaml.MappingNode {
		return []*misplaced{complain(n, "%s must be a mapping", what)}
	}
	var wrong []*misplaced
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!merge":
			wrong = append(wrong, complain(k, "%s: a key must be a plain name", what))
			continue
		case seen[k.Value]:
			wrong = append(wrong, complain(k, "%s: %q stands here twice", what, k.Value))
			continue
		}
		seen[k.Value] = true
		if v.Kind == yaml.AliasNode {
			wrong = append(wrong, complain(v, "%s: aliases are not supported", what))
			continue
		}
		if m := visit(k.Value, k, v); m != nil {
			wrong = append(wrong, m)
		}
	}
	return wrong
}

// stringOf reads a scalar that must be text.
func stringOf(n *yaml.Node, what string) (string, *misplaced) {
	if n.Kind != yaml.ScalarNode {
		return "", complain(n, "%s must be text", what)
	}
	if n.Tag != "!!str" {
		return "", complain(n, "%s must be text: put %s in quotes", what, n.Value)
	}
	return n.Value, nil
}

func stringsOf(n *yaml.Node, what string) ([]string, *misplaced) {
	if n.Kind != yaml.SequenceNode {
		return nil, complain(n, "%s must be a list", what)
	}
	list := make([]string, len(n.Content))
	for i, e := range n.Content {
		s, m := stringOf(e, what)
		if m != nil {
			return nil, m
		}
		list[i] = s
	}
	return list, nil
}

func stringMapOf(n *yaml.Node, what string) (map[string]string, *misplaced) {
	m := map[string]string{}
	wrong := fields(n, what, func(key string, _, v *yaml.Node) *misplaced {
		s, wrong := stringOf(v, what+"."+key)
		m[key] = s
		return wrong
	})
	if len(wrong) > 0 {
		return nil, wrong[0]
	}
	return m, nil
}

// appendJSON writes a node as JSON, keys in the order of the document.
func appendJSON(out []byte, n *yaml.Node, depth int) ([]byte, *misplaced) {
	if depth > maxDepth {
		return nil, complain(n, "%v", errDepth)
	}
	var wrong *misplaced
	switch n.Kind {
	case yaml.MappingNode:
		out = append(out, '{')
		open := len(out)
		all := fields(n, "the value", func(key string, _, v *yaml.Node) *misplaced {
			if len(out) > open {
				out = append(out, ',')
			}
			out = append(appendString(out, key), ':')
			var m *misplaced
			out, m = appendJSON(out, v, depth+1)
			return m
		})
		if len(all) > 0 {
			return nil, all[0]
		}
		return append(out, '}'), nil
	case yaml.SequenceNode:
		out = append(out, '[')
		for i, e := range n.Content {
			if i > 0 {
				out = append(out, ',')
			}
			if out, wrong = appendJSON(out, e, depth+1); wrong != nil {
				return nil, wrong
			}
		}
		return append(out, ']'), nil
	case yaml.ScalarNode:
		s, err := scalarJSON(n)
		if err != nil {
			return nil, complain(n, "%v", err)
		}
		return append(out, s...), nil
	case yaml.DocumentNode, yaml.AliasNode:
	}
	return nil, complain(n, "aliases are not supported")
}

func scalarJSON(n *yaml.Node) ([]byte, error) {
	switch n.Tag {
	case "!!null":
		return []byte("null"), nil
	case "!!str", "!!timestamp":
		return appendString(nil, n.Value), nil
	case "!!int", "!!float":
		d := decoder{s: n.Value}
		if _, err := d.value(0); err == nil && d.i == len(n.Value) {
			return []byte(n.Value), nil
		}
	case "!!bool":
	default:
		return nil, fmt.Errorf("the tag %s is not supported", n.Tag)
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, errors.New("not a value that JSON can hold")
	}
	return encode(v, maxDocument)
}

// valueOf reads any node as jq sees it.
func valueOf(n *yaml.Node) (any, *misplaced) {
	doc, wrong := appendJSON(nil, n, 0)
	if wrong != nil {
		return nil, wrong
	}
	v, err := decode(doc)
	if err != nil {
		return nil, complain(n, "%v", err)
	}
	return v, nil
}
