package transform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// testCase is one test of rules, written as a YAML document.
type testCase struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	// The rules: a document, a program for every object, or built-in ones.
	Rules   string   `json:"rules"`
	JQ      string   `json:"jq"`
	Standby *Standby `json:"standby"`
	Mapping *Mapping `json:"mapping"`
	Wake    bool     `json:"wake"`
	// Modules are keys that end in .jq, with their text.
	Modules map[string]string `json:"modules"`
	Stage   Stage             `json:"stage"`
	// Lookup resolves references: "secret NAME, key KEY".
	Lookup caseLookup `json:"lookup"`
	Env    caseEnv    `json:"env"`
	Limits caseLimits `json:"limits"`
	// The object: in place, as JSON text, or in a file; Patch changes it first.
	Input  json.RawMessage `json:"input"`
	JSON   string          `json:"json"`
	Object string          `json:"object"`
	Patch  string          `json:"patch"`
	// Kind is "group/resource", when the plural of the kind is not regular.
	Kind string `json:"kind"`
	// What is expected: the outcome in words, the objects, or the exact bytes.
	Objects []json.RawMessage `json:"objects"`
	Result  string            `json:"result"`
	Want    *string           `json:"want"`
}

type caseEnv struct {
	SourceSite           string   `json:"sourceSite"`
	DestinationSite      string   `json:"destinationSite"`
	ReplicationNamespace string   `json:"replicationNamespace"`
	ReplicationName      string   `json:"replicationName"`
	Protected            []string `json:"protected"`
}

type caseLimits struct {
	Milliseconds, Outputs, Bytes int
	Memory                       int64
}

type caseLookup map[string]string

// Lookup finds a reference by its text.
func (l caseLookup) Lookup(r Reference) (string, error) {
	if v, ok := l[r.String()]; ok {
		return v, nil
	}
	return "", errors.New("not found")
}

func (c *testCase) object(ctx context.Context, read func(string) ([]byte, error)) (Object, error) {
	body := []byte(c.Input)
	if c.JSON != "" {
		body = []byte(c.JSON)
	}
	if c.Object != "" {
		var err error
		if body, err = read(c.Object); err != nil {
			return Object{}, fmt.Errorf("read object: %w", err)
		}
		node, wrong := readYAML(string(body))
		if wrong != nil || node == nil {
			return Object{}, fmt.Errorf("read object %s: it is not one YAML document", c.Object)
		}
		if body, wrong = appendJSON(nil, node, 0); wrong != nil {
			return Object{}, fmt.Errorf("read object %s: line %d: %s", c.Object, wrong.line, wrong.message)
		}
	}
	if c.Patch != "" {
		v, err := decode(body)
		if err != nil {
			return Object{}, fmt.Errorf("read object: %w", err)
		}
		query, err := gojq.Parse(c.Patch)
		if err != nil {
			return Object{}, fmt.Errorf("parse patch: %w", err)
		}
		out, _ := query.RunWithContext(ctx, v).Next()
		if err, failed := out.(error); failed {
			return Object{}, fmt.Errorf("patch object: %w", err)
		}
		if body, err = splice(body, v, out, maxDocument); err != nil {
			return Object{}, fmt.Errorf("patch object: %w", err)
		}
	}
	return Object{Kind: c.kind(body), Body: body}, nil
}

// kind guesses the resource that the API serves an object by.
func (c *testCase) kind(body []byte) pipeline.GroupResource {
	if group, resource, ok := strings.Cut(c.Kind, "/"); ok {
		return pipeline.GroupResource{Group: group, Resource: resource}
	} else if c.Kind != "" {
		return pipeline.GroupResource{Resource: c.Kind}
	}
	return KindOf(body)
}

func (c *testCase) compile() (*Set, error) {
	o := Options{Stage: c.Stage, Limits: Limits{
		Time: time.Duration(c.Limits.Milliseconds) * time.Millisecond, Outputs: c.Limits.Outputs, Bytes: c.Limits.Bytes, Memory: c.Limits.Memory,
	}}
	if len(c.Lookup) > 0 {
		o.Lookup = c.Lookup
	}
	if c.Mapping != nil {
		o.Rules = append(o.Rules, c.Mapping.Rules()...)
	}
	if c.Standby != nil {
		o.Rules = append(o.Rules, c.Standby.Rules()...)
	}
	if c.Wake {
		o.Rules = append(o.Rules, WakeRules()...)
	}
	if c.JQ != "" {
		o.Rules = append(o.Rules, Rule{Name: "jq", JQ: c.JQ})
	}
	docs := []Document{{ConfigMap: "test/rules", Key: "rules.yaml", Text: c.Rules}}
	for _, key := range sortedKeys(c.Modules) {
		docs = append(docs, Document{ConfigMap: "test/rules", Key: key, Text: c.Modules[key]})
	}
	return Compile(docs, o)
}
