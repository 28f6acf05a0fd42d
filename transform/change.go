package transform

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Change is one difference between two objects.
type Change struct {
	// Path is where, as jq writes it: .spec.ports[0].nodePort.
	Path string
	// Before and After are JSON, nil where there was or is nothing.
	Before, After json.RawMessage
}

// String is one line: "+ path: value", "- path: value" or "~ path: old -> new".
func (c Change) String() string {
	switch {
	case c.Before == nil:
		return fmt.Sprintf("+ %s: %s", c.Path, c.After)
	case c.After == nil:
		return fmt.Sprintf("- %s: %s", c.Path, c.Before)
	default:
		return fmt.Sprintf("~ %s: %s -> %s", c.Path, c.Before, c.After)
	}
}

// Changes are the differences between two JSON documents, in the order of their
// paths: what is equal, whatever its order or spacing, is not among them.
func Changes(before, after []byte) ([]Change, error) {
	b, err := decode(before)
	if err != nil {
		return nil, fmt.Errorf("read object before: %w", err)
	}
	a, err := decode(after)
	if err != nil {
		return nil, fmt.Errorf("read object after: %w", err)
	}
	d := differ{}
	d.compare("", b, a)
	return d.changes, d.err
}

type differ struct {
	changes []Change
	err     error
}

// nothing stands for a value that is not there.
type nothing struct{}

func (d *differ) compare(path string, before, after any) {
	if identical(before, after) {
		return
	}
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			d.objects(path, b, a)
			return
		}
	case []any:
		if a, ok := after.([]any); ok {
			for i := range max(len(a), len(b)) {
				d.compare(path+"["+strconv.Itoa(i)+"]", element(b, i), element(a, i))
			}
			return
		}
	}
	c := Change{Path: path}
	if path == "" {
		c.Path = "."
	}
	c.Before, c.After = d.text(before), d.text(after)
	d.changes = append(d.changes, c)
}

func (d *differ) objects(path string, before, after map[string]any) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		var b, a any = nothing{}, nothing{}
		if v, ok := before[k]; ok {
			b = v
		}
		if v, ok := after[k]; ok {
			a = v
		}
		d.compare(path+member(k), b, a)
	}
}

func element(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nothing{}
}

// text is v as JSON, nil for nothing.
func (d *differ) text(v any) json.RawMessage {
	if v == (nothing{}) {
		return nil
	}
	out, err := encode(v, 64<<20)
	if err != nil && d.err == nil {
		d.err = err
	}
	return out
}

// member is a key as jq writes it in a path.
func member(key string) string {
	for i := range len(key) {
		if !isLetter(key[i]) && (i == 0 || !isDigit(key[i])) {
			return "[" + string(appendString(nil, key)) + "]"
		}
	}
	if key == "" {
		return `[""]`
	}
	return "." + key
}
