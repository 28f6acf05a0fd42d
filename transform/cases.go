package transform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

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
		chunks[i] = withWant(chunk, results[n].Got)
		n++
	}
	return strings.TrimSuffix(strings.Join(chunks, "\n"+separator), "\n") + "\n"
}

// withWant replaces the member "want" of a case.
func withWant(chunk, got string) string {
	lines := strings.Split(strings.TrimSuffix(chunk, "\n"), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "want:") })
	if at < 0 {
		return chunk
	}
	end := at + 1
	for end < len(lines) && (lines[end] == "" || lines[end][0] == ' ') {
		end++
	}
	want := append([]string{"want: |-"}, strings.Split(got, "\n")...)
	for i := range want[1:] {
		want[i+1] = "  " + want[i+1]
	}
	return strings.Join(slices.Replace(lines, at, end, want...), "\n")
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
