package main

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// masked stands for what is not shown.
const masked = "(masked)"

// mask keeps out of the output what Secrets hold, and values that rules were
// given from them.
type mask struct {
	off bool
	// values are texts that must not be shown, longest first.
	values []string
}

// minHidden is how long a text must be to be looked for within others: "1" is everywhere.
const minHidden = 3

// add has a text hidden wherever it appears, encoded as in Secrets too.
func (m *mask) add(value string) {
	if len(value) < minHidden {
		return
	}
	quoted, err := json.Marshal(value)
	if err == nil {
		m.values = append(m.values, string(quoted[1:len(quoted)-1]))
	}
	m.values = append(m.values, value, base64.StdEncoding.EncodeToString([]byte(value)))
	slices.SortFunc(m.values, func(a, b string) int { return len(b) - len(a) })
	m.values = slices.Compact(m.values)
}

// text hides the values within a text.
func (m *mask) text(s string) string {
	if m.off {
		return s
	}
	for _, v := range m.values {
		s = strings.ReplaceAll(s, v, masked)
	}
	return s
}

// openPaths are the parts of a Secret that are no secret.
var openPaths = []string{
	".apiVersion", ".kind", ".type", ".immutable", ".metadata.name", ".metadata.namespace", ".metadata.labels",
}

var secrets = pipeline.GroupResource{Resource: "secrets"}

// changes hides what must not be shown in changes of an object of the kind.
func (m *mask) changes(kind pipeline.GroupResource, changes []transform.Change) []transform.Change {
	if m.off {
		return changes
	}
	out := make([]transform.Change, len(changes))
	for i, c := range changes {
		open := kind != secrets || slices.ContainsFunc(openPaths, func(p string) bool {
			return c.Path == p || strings.HasPrefix(c.Path, p+".") || strings.HasPrefix(c.Path, p+"[")
		})
		hide := func(v json.RawMessage) json.RawMessage {
			text := m.text(string(v))
			switch {
			case v == nil:
				return nil
			case !open, !json.Valid([]byte(text)): // a number that is a secret
				return json.RawMessage(`"` + masked + `"`)
			default:
				return json.RawMessage(text)
			}
		}
		out[i] = transform.Change{Path: m.text(c.Path), Before: hide(c.Before), After: hide(c.After)}
	}
	return out
}
