package transform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"

	"github.com/itchyny/gojq"
)

// splice writes the value after as JSON, taking from doc, the document that
// before was decoded from, the bytes of everything that is equal in both. Keys
// keep their order; new ones follow, sorted. Elements of lists are found again
// by identity, by their "name", or by their place. It returns doc itself when
// nothing changed, and fails when the result would be longer than limit.
func splice(doc []byte, before, after any, limit int) ([]byte, error) {
	if identical(before, after) {
		return doc, nil
	}
	w := writer{doc: doc, out: make([]byte, 0, len(doc)+len(doc)/8+64), limit: limit}
	start := skipSpace(doc, 0)
	if err := w.merge(start, skipValue(doc, start), before, after, 0); err != nil {
		return nil, err
	}
	return w.out, nil
}

type writer struct {
	doc   []byte
	out   []byte
	limit int
	spans []span
	keys  []string
}

// span is where a value stands in the document.
type span struct{ start, end int }

func (w *writer) room() error {
	if len(w.out) > w.limit {
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, w.limit)
	}
	return nil
}

// merge writes after, whose former state before stands in doc[start:end].
func (w *writer) merge(start, end int, before, after any, depth int) error {
	if depth > maxDepth {
		return errDepth
	}
	if identical(before, after) {
		w.out = append(w.out, w.doc[start:end]...)
		return w.room()
	}
	switch a := after.(type) {
	case map[string]any:
		if b, ok := before.(map[string]any); ok {
			return w.mergeObject(start, b, a, depth)
		}
	case []any:
		if b, ok := before.([]any); ok {
			return w.mergeArray(start, b, a, depth)
		}
	}
	return w.value(after, depth)
}

func (w *writer) mergeObject(start int, before, after map[string]any, depth int) error {
	w.out = append(w.out, '{')
	open := len(w.out)
	kept, seen := 0, 0
	for i := skipSpace(w.doc, start+1); w.doc[i] != '}'; {
		keyEnd := skipValue(w.doc, i)
		key := keyText(w.doc[i:keyEnd])
		valueStart := skipSpace(w.doc, skipSpace(w.doc, keyEnd)+1)
		valueEnd := skipValue(w.doc, valueStart)
		seen++
		if v, ok := after[string(key)]; ok {
			if len(w.out) > open {
				w.out = append(w.out, ',')
			}
			w.out = append(append(w.out, w.doc[i:keyEnd]...), ':')
			if err := w.merge(valueStart, valueEnd, before[string(key)], v, depth+1); err != nil {
				return err
			}
			kept++
		}
		if i = skipSpace(w.doc, valueEnd); w.doc[i] == ',' {
			i = skipSpace(w.doc, i+1)
		}
	}
	if seen != len(before) {
		// A key stood there twice: write the object as it was understood.
		w.out = w.out[:open-1]
		return w.value(after, depth)
	}
	if kept == len(after) {
		w.out = append(w.out, '}')
		return w.room()
	}
	first := len(w.keys)
	for k := range after {
		if _, ok := before[k]; !ok {
			w.keys = append(w.keys, k)
		}
	}
	slices.Sort(w.keys[first:])
	for n, last := first, len(w.keys); n < last; n++ {
		if len(w.out) > open {
			w.out = append(w.out, ',')
		}
		k := w.keys[n]
		w.out = append(appendString(w.out, k), ':')
		if err := w.value(after[k], depth+1); err != nil {
			return err
		}
	}
	w.keys = w.keys[:first]
	w.out = append(w.out, '}')
	return w.room()
}

func (w *writer) mergeArray(start int, before, after []any, depth int) error {
	first := len(w.spans)
	for i := skipSpace(w.doc, start+1); w.doc[i] != ']'; {
		end := skipValue(w.doc, i)
		w.spans = append(w.spans, span{i, end})
		if i = skipSpace(w.doc, end); w.doc[i] == ',' {
			i = skipSpace(w.doc, i+1)
		}
	}
	w.out = append(w.out, '[')
	for i, v := range after {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		j := former(before, after, i)
		if j < 0 {
			if err := w.value(v, depth+1); err != nil {
				return err
			}
			continue
		}
		s := w.spans[first+j]
		if err := w.merge(s.start, s.end, before[j], v, depth+1); err != nil {
			return err
		}
	}
	w.spans = w.spans[:first]
	w.out = append(w.out, ']')
	return w.room()
}

// former is the index of the element of before that after[i] was made from,
// as far as can be told, or -1.
func former(before, after []any, i int) int {
	if i < len(before) && identical(before[i], after[i]) {
		return i
	}
	if len(before) <= 64 && len(after) <= 64 {
		if j := slices.IndexFunc(before, func(b any) bool { return identical(b, after[i]) }); j >= 0 {
			return j
		}
		if m, ok := after[i].(map[string]any); ok {
			if name, ok := m["name"].(string); ok {
				j := slices.IndexFunc(before, func(b any) bool {
					bm, ok := b.(map[string]any)
					return ok && bm["name"] == name
				})
				if j >= 0 {
					return j
				}
			}
		}
	}
	if len(before) == len(after) {
		return i
	}
	return -1
}

// identical says that a and b are the same scalar or the very same container.
// Rules copy what they change, so a container that is still the same one is
// untouched.
func identical(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case bool:
		return a == b
	case string:
		return a == b
	case map[string]any:
		m, ok := b.(map[string]any)
		return ok && reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(m).UnsafePointer()
	case []any:
		s, ok := b.([]any)
		return ok && len(a) == len(s) && (len(a) == 0 || &a[0] == &s[0])
	case int, json.Number:
		return equalNumbers(a, b)
	}
	return false
}

// equalNumbers compares a decoded number with one that a rule returned.
func equalNumbers(a, b any) bool {
	switch b := b.(type) {
	case int:
		if n, ok := a.(int); ok {
			return n == b
		}
	case json.Number:
		if n, ok := a.(json.Number); ok {
			return n == b
		}
	case float64:
		if math.IsInf(b, 0) || math.IsNaN(b) {
			return false
		}
	case *big.Int:
	default:
		return false
	}
	return gojq.Compare(a, b) == 0
}

// keyText is the text of a JSON string, as bytes to look a map up with.
func keyText(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	d := decoder{s: string(quoted)}
	s, err := d.text()
	if err != nil {
		return nil
	}
	return []byte(s)
}

// skipSpace and skipValue walk over a document that was decoded before, so
// that it is known to be well-formed.
func skipSpace(doc []byte, i int) int {
	for doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\t' || doc[i] == '\r' {
		i++
	}
	return i
}

func skipValue(doc []byte, i int) int {
	switch doc[i] {
	case '"':
		return skipString(doc, i)
	case '{', '[':
		for depth := 0; ; {
			switch doc[i] {
			case '"':
				i = skipString(doc, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	default:
		for i < len(doc) && doc[i] != ',' && doc[i] != '}' && doc[i] != ']' && doc[i] > ' ' {
			i++
		}
		return i
	}
}

func skipString(doc []byte, i int) int {
	for i++; doc[i] != '"'; i++ {
		if doc[i] == '\\' {
			i++
		}
	}
	return i + 1
}
