package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transform"
)

const (
	transformRounds = 15
	transformRuns   = 2_000
	oneField        = ".spec.replicas = 0"
)

// benchTransform measures the engine of rules on a Deployment of 4 KiB: a hundred rules of which none matches,
// and a rewrite of one field beside gojq with a plain decode and encode.
func benchTransform(ctx context.Context, _ string) ([]Figure, error) {
	root, err := world.Root()
	if err != nil {
		return nil, err
	}
	body, err := os.ReadFile(filepath.Join(root, "transform", "testdata", "objects", "deployment.json"))
	if err != nil {
		return nil, err
	}
	object := transform.Object{Kind: world.Deployments.GroupResource, Body: bytes.TrimSpace(body)}
	none, decodes, err := matchNone(ctx, object)
	if err != nil {
		return nil, err
	}
	one, err := compileRules("rules:\n- {name: scale, match: {kinds: [apps/deployments]}, jq: " + oneField + "}\n")
	if err != nil {
		return nil, err
	}
	naive, err := plainGojq(ctx, object.Body)
	if err != nil {
		return nil, err
	}
	ours := func() error {
		r, err := one.Run(ctx, transform.Env{}, object)
		if err == nil && len(r.Applied) != 1 {
			err = errors.New("the rule did not run")
		}
		return err
	}
	var speeds, allocs, took, plain []float64
	for range transformRounds {
		t, n, err := measure(ours)
		if err != nil {
			return nil, err
		}
		pt, pn, err := measure(naive)
		if err != nil {
			return nil, err
		}
		speeds, allocs = append(speeds, pt/t), append(allocs, n/pn)
		took, plain = append(took, t), append(plain, pt)
	}
	yardstick := fmt.Sprintf("gojq with json.Unmarshal and json.Marshal: %.1f us; product %.1f us", median(plain), median(took))
	return []Figure{
		atMost("transform-no-match", none, 15, "us", fmt.Sprintf("100 rules over %d bytes", len(object.Body))),
		atMost("transform-no-match-decodes", decodes, 0, "decodes", "an object whose spec is no JSON passes as it is"),
		atLeast("transform-one-field-speed", median(speeds), 1, "ratio", yardstick),
		atMost("transform-one-field-allocations", median(allocs), 0.7, "ratio", yardstick),
	}, nil
}

func compileRules(text string) (*transform.Set, error) {
	return transform.Compile([]transform.Document{{ConfigMap: "bench/rules", Key: "rules.yaml", Text: text}}, transform.Options{})
}

// measure returns the microseconds and allocations of one run, on average.
func measure(run func() error) (us, allocs float64, err error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begun := time.Now()
	for range transformRuns {
		if err := run(); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	return float64(took.Nanoseconds()) / 1e3 / transformRuns, float64(after.Mallocs-before.Mallocs) / transformRuns, nil
}

// matchNone measures a hundred rules that match by everything there is, but none of them the object.
func matchNone(ctx context.Context, object transform.Object) (us, decodes float64, err error) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 100 {
		match := []string{
			"kinds: [apps/statefulsets]",
			fmt.Sprintf("kinds: [apps/deployments], namespaces: [team-%d]", i),
			fmt.Sprintf("kinds: [apps/*], names: [web-%d-*]", i),
			fmt.Sprintf("labels: {tier: backend-%d}", i),
			fmt.Sprintf("kinds: ['*/deployments'], annotations: {example.com/owner: 'team-%d-*'}", i),
		}[i%5]
		fmt.Fprintf(&b, "- {name: rule-%d, match: {%s}, jq: .spec.replicas = %d}\n", i, match, i)
	}
	set, err := compileRules(b.String())
	if err != nil {
		return 0, 0, err
	}
	pass := func(o transform.Object) error {
		r, err := set.Run(ctx, transform.Env{}, o)
		if err == nil && (len(r.Applied) > 0 || len(r.Objects) != 1 || !bytes.Equal(r.Objects[0].Body, o.Body)) {
			err = errors.New("a rule has run")
		}
		return err
	}
	var took []float64
	for range transformRounds {
		t, _, err := measure(func() error { return pass(object) })
		if err != nil {
			return 0, 0, err
		}
		took = append(took, t)
	}
	broken := transform.Object{Kind: object.Kind, Body: bytes.Replace(object.Body, []byte(`"replicas":`), []byte(`"replicas"!`), 1)}
	if bytes.Equal(broken.Body, object.Body) || json.Valid(broken.Body) {
		return 0, 0, errors.New("the object has no replicas to break")
	}
	if err := pass(broken); err != nil {
		decodes++
	}
	return median(took), decodes, nil
}

// plainGojq is what one would write with gojq alone.
func plainGojq(ctx context.Context, body []byte) (func() error, error) {
	query, err := gojq.Parse(oneField)
	if err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, err
	}
	return func() error {
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return err
		}
		out, ok := code.RunWithContext(ctx, v).Next()
		if err, failed := out.(error); !ok || failed {
			return errors.Join(errors.New("the program gives nothing"), err)
		}
		_, err := json.Marshal(out)
		return err
	}, nil
}
