package transform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// KindOf guesses, from apiVersion and kind, the resource by which the API serves
// an object: it takes for granted that the plural is a regular one.
func KindOf(body []byte) pipeline.GroupResource {
	group, _, grouped := strings.Cut(gjson.GetBytes(body, "apiVersion").String(), "/")
	if !grouped {
		group = ""
	}
	return pipeline.GroupResource{Group: group, Resource: plural(strings.ToLower(gjson.GetBytes(body, "kind").String()))}
}

func plural(kind string) string {
	switch stem, y := strings.CutSuffix(kind, "y"); {
	case y && !strings.ContainsAny(stem[max(len(stem)-1, 0):], "aeiou"):
		return stem + "ies"
	case strings.HasSuffix(kind, "s") || strings.HasSuffix(kind, "x") || strings.HasSuffix(kind, "ch") || strings.HasSuffix(kind, "sh"):
		return kind + "es"
	default:
		return kind + "s"
	}
}

// ReadObjects reads objects as people keep them in files: YAML documents or JSON
// values one after another, Lists among them, which are taken apart. Numbers keep
// their digits and keys their order. Kinds are guessed with KindOf. Every
// object must have apiVersion, kind and a name.
func ReadObjects(text string) ([]Object, error) {
	var bodies [][]byte
	var err error
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		bodies, err = jsonDocuments(text)
	} else {
		bodies, err = yamlDocuments(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	var objects []Object
	for i, body := range bodies {
		members := [][]byte{body}
		if items := gjson.GetBytes(body, "items"); items.IsArray() && strings.HasSuffix(gjson.GetBytes(body, "kind").Str, "List") {
			members = nil
			for _, item := range items.Array() {
				members = append(members, []byte(item.Raw))
			}
		}
		for _, m := range members {
			for _, field := range []string{"apiVersion", "kind", "metadata.name"} {
				if v := gjson.GetBytes(m, field); v.Type != gjson.String || v.Str == "" {
					return nil, fmt.Errorf("read objects: document %d has no %s", i+1, field)
				}
			}
			objects = append(objects, Object{Kind: KindOf(m), Body: m})
		}
	}
	return objects, nil
}

func jsonDocuments(text string) ([][]byte, error) {
	var bodies [][]byte
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var body json.RawMessage
		switch err := d.Decode(&body); {
		case errors.Is(err, io.EOF):
			return bodies, nil
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", 1+strings.Count(text[:min(int(d.InputOffset()), len(text))], "\n"), err)
		}
		bodies = append(bodies, bytes.Clone(body))
	}
}

func yamlDocuments(text string) (bodies [][]byte, err error) {
	defer func() {
		if recover() != nil { // see readYAML
			bodies, err = nil, errors.New("not YAML")
		}
	}()
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return bodies, nil
		case err != nil:
			wrong := yamlProblem(text, err)
			return nil, fmt.Errorf("line %d: %w", wrong.line, wrong)
		}
		if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
			continue
		}
		body, wrong := appendJSON(nil, doc.Content[0], 0)
		if wrong != nil {
			return nil, fmt.Errorf("line %d: %w", wrong.line, wrong)
		}
		bodies = append(bodies, body)
	}
}
