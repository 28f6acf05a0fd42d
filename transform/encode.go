package transform

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

var (
	errTooLarge  = errors.New("result too large")
	errNotNumber = errors.New("result holds a number that JSON cannot: infinite or not a number")
	errNotJSON   = errors.New("result holds a value that JSON cannot")
)

// encode writes v as JSON, keys sorted.
func encode(v any, limit int) ([]byte, error) {
	w := writer{limit: limit}
	if err := w.value(v, 0); err != nil {
		return nil, err
	}
	return w.out, nil
}

func (w *writer) value(v any, depth int) error {
	if depth > maxDepth {
		return errDepth
	}
	switch v := v.(type) {
	case nil:
		w.out = append(w.out, "null"...)
	case bool:
		w.out = strconv.AppendBool(w.out, v)
	case int:
		w.out = strconv.AppendInt(w.out, int64(v), 10)
	case string:
		w.out = appendString(w.out, v)
	case float64:
		return w.float(v)
	case *big.Int:
		if v.BitLen() > 4*maxDigits {
			return errNumber
		}
		w.out = v.Append(w.out, 10)
	case json.Number:
		return w.number(v)
	case []any:
		w.out = append(w.out, '[')
		for i, e := range v {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if err := w.value(e, depth+1); err != nil {
				return err
			}
		}
		w.out = append(w.out, ']')
	case map[string]any:
		w.out = append(w.out, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			w.out = append(appendString(w.out, k), ':')
			if err := w.value(v[k], depth+1); err != nil {
				return err
			}
		}
		w.out = append(w.out, '}')
	default:
		return errNotJSON
	}
	return w.room()
}

func (w *writer) number(n json.Number) error {
	if len(n) > maxDigits {
		return errNumber
	}
	d := decoder{s: string(n)}
	if _, err := d.value(0); err == nil && d.i == len(n) {
		w.out = append(w.out, n...)
		return nil
	}
	// Written in a way that jq knows and JSON does not, like ".5".
	f, ok := gojq.ToFloat64(n)
	if !ok {
		return errNotNumber
	}
	return w.float(f)
}

func (w *writer) float(f float64) error {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return errNotNumber
	}
	format := byte('f')
	if x := math.Abs(f); x != 0 && x < 1e-6 || x >= 1e21 {
		format = 'e'
	}
	w.out = strconv.AppendFloat(w.out, f, format, -1, 64)
	return nil
}

const lowerHex = "0123456789abcdef"

func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			out = append(append(out, s[start:i]...), `\ufffd`...)
			i++
			start = i
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		out = append(out, s[start:i]...)
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', lowerHex[c>>4], lowerHex[c&15])
		}
		i++
		start = i
	}
	return append(append(out, s[start:]...), '"')
}
