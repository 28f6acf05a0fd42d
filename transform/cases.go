package transform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/itchyny/gojq"
	"github.com/tidwall/gjson"

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

// TestResult is how one test case ended.
type TestResult struct {
	Name string
	// Line is where the case begins in its file.
	Line int
	// Want and Got are the outcome in words: "same", "dropped", "skipped", the
	// changes of each object, or the error.
	Want, Got string
	// Problem says what else is not as expected, or why the case could not be run.
	Problem string
}

// OK says whether the case passed.
func (r TestResult) OK() bool { return r.Problem == "" && r.Want == r.Got }

const separator = "---\n"

// RunTests runs the rule tests in a file: YAML documents, each with rules, an
// object and what is expected. read opens the files that cases name. The error
// is about the file as a whole.
func RunTests(ctx context.Context, file string, read func(name string) ([]byte, error)) ([]TestResult, error) {
	var results []TestResult
	line := 1
	for chunk := range strings.SplitSeq(file, "\n"+separator) {
		node, wrong := readYAML(chunk)
		if wrong != nil {
			return nil, fmt.Errorf("read tests: line %d: %s", line+max(wrong.line-1, 0), wrong.message)
		}
		if node != nil {
			doc, wrong := appendJSON(nil, node, 0)
			if wrong != nil {
				return nil, fmt.Errorf("read tests: line %d: %s", line+max(wrong.line-1, 0), wrong.message)
			}
			var c testCase
			dec := json.NewDecoder(bytes.NewReader(doc))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&c); err != nil {
				return nil, fmt.Errorf("read tests: the case at line %d: %w", line, err)
			}
			r := c.run(ctx, read)
			r.Name, r.Line = c.Name, line
			results = append(results, r)
		}
		line += strings.Count(chunk, "\n") + 2
	}
	return results, nil
}

// UpdateTests returns the file with what came out in place of what is wanted.
func UpdateTests(file string, results []TestResult) string {
	chunks := strings.Split(file, "\n"+separator)
	n := 0
	for i, chunk := range chunks {
		if node, _ := readYAML(chunk); node == nil {
			continue
		}
		at := strings.Index("\n"+chunk, "\nwant:")
		if at >= 0 {
			indented := strings.ReplaceAll(results[n].Got, "\n", "\n  ")
			chunks[i] = chunk[:at] + "want: |-\n  " + indented
			if i == len(chunks)-1 {
				chunks[i] += "\n"
			}
		}
		n++
	}
	return strings.Join(chunks, "\n"+separator)
}

func (c *testCase) run(ctx context.Context, read func(string) ([]byte, error)) TestResult {
	var r TestResult
	if c.Want != nil {
		r.Want = strings.TrimSuffix(*c.Want, "\n")
	}
	object, err := c.object(ctx, read)
	if err != nil {
		r.Problem = err.Error()
		return r
	}
	set, err := c.compile()
	if err != nil {
		r.Got = "problems:\n" + err.Error()
		return r
	}
	env := Env{
		SourceSite: c.Env.SourceSite, DestinationSite: c.Env.DestinationSite,
		ReplicationNamespace: c.Env.ReplicationNamespace, ReplicationName: c.Env.ReplicationName,
	}
	if len(c.Env.Protected) > 0 {
		env.Protected = func(namespace string) bool { return anyGlob(c.Env.Protected, namespace) }
	}
	result, err := set.Run(ctx, env, object)
	if r.Got, r.Problem = outcome(object, result, err); r.Problem != "" {
		return r
	}
	if c.Want == nil {
		r.Want = r.Got
	}
	r.Problem = c.compare(result, err)
	return r
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

// outcome says in words what became of an object.
func outcome(o Object, r Result, err error) (got, problem string) {
	var b strings.Builder
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "failure: %v\n", f)
	}
	switch {
	case err != nil:
		reason := Reason("Other")
		if e, ok := errors.AsType[*Error](err); ok {
			reason = e.Reason
		}
		fmt.Fprintf(&b, "error %s (%s): %v", reason, pipeline.ClassOf(err), err)
	case r.Skipped:
		b.WriteString("skipped")
	case r.Dropped():
		b.WriteString("dropped")
	}
	for i, out := range r.Objects {
		if len(r.Objects) > 1 {
			fmt.Fprintf(&b, "object %d:\n", i+1)
		}
		changes, err := Changes(o.Body, out.Body)
		if err != nil {
			return "", err.Error()
		}
		if len(changes) == 0 {
			b.WriteString("same\n")
		}
		for _, c := range changes {
			fmt.Fprintf(&b, "%s\n", c)
		}
	}
	return strings.TrimSuffix(b.String(), "\n"), ""
}

// compare holds the result against whole objects or exact bytes.
func (c *testCase) compare(r Result, err error) string {
	if (c.Result != "" || c.Objects != nil) && err != nil {
		return err.Error()
	}
	if c.Result != "" && (len(r.Objects) != 1 || string(r.Objects[0].Body) != c.Result) {
		return fmt.Sprintf("the result is not, byte for byte, %s", c.Result)
	}
	if c.Objects == nil {
		return ""
	}
	if len(r.Objects) != len(c.Objects) {
		return fmt.Sprintf("%d objects came out, not %d", len(r.Objects), len(c.Objects))
	}
	for i, want := range c.Objects {
		changes, err := Changes(want, r.Objects[i].Body)
		if err != nil {
			return err.Error()
		}
		if len(changes) > 0 {
			return fmt.Sprintf("object %d is not as expected: %s", i+1, changes[0])
		}
	}
	return ""
}
