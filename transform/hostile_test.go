package transform_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// hostile are programs that would fill the memory or run for ever.
var hostile = map[string]struct {
	jq string
	// text is how long the text is that the object holds.
	text int
	// fills: it is not time that ends it.
	fills bool
}{
	"TextDoubles":        {jq: `reduce range(100) as $i ("x"; . + .)`, fills: true},
	"TextRepeated":       {jq: `"x" * 1e9`, fills: true},
	"TextsInterpolated":  {jq: `last(foreach range(1e9) as $i (""; "\(.) and \($i)"))`, fills: true},
	"ListCollected":      {jq: `[range(1e18)]`, fills: true},
	"ListsCollected":     {jq: `[range(1e9) as $_ | [] | .[60000] = 2]`, fills: true},
	"PathUpdates":        {jq: `[range(1e9) as $i | .a.b.c[$i % 60000].d = $i]`, fills: true},
	"ObjectsNested":      {jq: `reduce range(1e9) as $i (.; {a: .})`, fills: true},
	"ObjectsMerged":      {jq: `reduce range(1e9) as $i ({}; . + {"\($i)": {$i}})`, fills: true},
	"Foreach":            {jq: `[foreach range(1e9) as $i ([]; . + [$i])]`, fills: true},
	"GroupBy":            {jq: `[range(30000)] | [range(100) as $i | group_by(. % (1000 + $i))]`},
	"CombinationsOfRows": {jq: `[[range(8)] as $row | [range(9) | $row] | combinations]`},
	"Recursion":          {jq: `def f: 1 + f; f`, fills: true},
	"RecursionForks":     {jq: `def f: (., .) | f; f`, fills: true},
	"Recurse":            {jq: `[recurse([., .])]`},
	"Repeat":             {jq: `[repeat("a text of some length" | ascii_upcase)]`, fills: true},
	"Until":              {jq: `[0] | until(false; [., 1])`, fills: true},
	"ToJSON":             {jq: `reduce range(40) as $i ([]; [., .]) | tojson`},
	"Implode":            {jq: `[range(1e9) | [range(1000; 3000)] | implode]`},
	"Explode":            {jq: `[range(1e9) as $i | .data.text | explode]`, text: 200_000, fills: true},
	"Base64":             {jq: `[range(1e9) as $i | .data.text | @base64]`, text: 200_000, fills: true},
	"PatternsMade":       {jq: `[range(1e9) | "\(.)(a|b){1,100}" as $p | "x" | test($p)]`, fills: true},
	"PatternGroups":      {jq: `[range(1e9) | "a" * 200 | [match("()()()()a"; "g")]]`},
	"Flatten":            {jq: `[range(1e9) | [[[range(1000)]]] | flatten]`},
	"Walk":               {jq: `walk([., .]) | until(false; walk([., .]))`, fills: true},
	"WithEntries":        {jq: `until(false; with_entries(.value |= [., .]))`, fills: true},
	"DeleteEverything":   {jq: `del(.[range(1e9) | tostring])`},
	"SlicesAssigned":     {jq: `until(false; .x[1:1] = [1, 2, 3])`},
	"BigNumbers":         {jq: `[range(1e9) | 1000000000000000000000 * 1000000000000000000000]`},
	"Indices":            {jq: `until(false; .x = (.data.text | indices("ab" * 10 + "b")))`, text: 300_000},
	"Endless":            {jq: `def f: f; f`},
	"EndlessUntil":       {jq: `until(false; .)`},
	"EndlessCaught":      {jq: `def f: try error("x") catch f; f`},
}

// The bound that docs/transforms.md states.
const (
	allowance   = 4 << 20
	perByte     = 64
	mostAllowed = 64 << 20
	// timesAllowed: besides what a program holds there is what it has dropped since the
	// last collection, and what the step makes that is one too many.
	timesAllowed = 6
)

// TestHostileRulesKeepTheirBounds runs programs that would fill the memory. What
// the heap really holds more meanwhile is looked at after every collection.
func TestHostileRulesKeepTheirBounds(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	for _, name := range sorted(hostile) {
		t.Run(name, func(t *testing.T) {
			h := hostile[name]
			o := transform.Object{Kind: pipeline.GroupResource{Resource: "configmaps"}, Body: fmt.Appendf(nil,
				`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"y"},"data":{"text":"%s","b":"c"}}`, strings.Repeat("ab", max(h.text, 20)/2))}
			limits := transform.Limits{}
			if h.fills {
				limits.Time = time.Minute
			}
			set, err := transform.Compile(nil, transform.Options{Rules: []transform.Rule{{Name: "hostile", JQ: h.jq}}, Limits: limits})
			if err != nil {
				t.Fatal(err)
			}
			allowed := int64(min(mostAllowed, allowance+perByte*len(o.Body)))
			peak := livePeak()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := transform.ThreadTime()
			_, err = set.Run(t.Context(), transform.Env{}, o)
			took := transform.ThreadTime() - start
			grown := peak()
			t.Logf("%s: %.1f MiB of %.1f more, %v: %v", name, float64(grown)/(1<<20), float64(allowed)/(1<<20), took, err)
			var e *transform.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want one of the limits", err)
			}
			if e.Reason != transform.TooMuch && e.Reason != transform.TimedOut {
				t.Errorf("error %v, want one of the limits", err)
			}
			if h.fills && e.Reason != transform.TooMuch {
				t.Errorf("%s after %v, want TooMuch", e.Reason, took)
			}
			if strings.HasPrefix(name, "Endless") && (e.Reason != transform.TimedOut || took < 100*time.Millisecond || took > 200*time.Millisecond) {
				t.Errorf("%s after %v of the processor's time, want TimedOut after 100ms", e.Reason, took)
			}
			if grown > timesAllowed*allowed {
				t.Errorf("the heap held %d bytes more, want at most %d times %d", grown, timesAllowed, allowed)
			}
		})
	}
}

// livePeak begins to look at what each collection has left, and returns a
// function that ends it and says how much more than now that was at most.
func livePeak() func() int64 {
	live := func() int64 {
		s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	runtime.GC()
	before := live()
	var peak atomic.Int64
	var ended atomic.Bool
	var look func(*[64]byte)
	look = func(*[64]byte) {
		peak.Store(max(peak.Load(), live()))
		if !ended.Load() {
			runtime.SetFinalizer(new([64]byte), look)
		}
	}
	runtime.SetFinalizer(new([64]byte), look)
	return func() int64 {
		ended.Store(true)
		return max(peak.Load(), live()) - before
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// TestNothingWaitsForAnEndlessRule runs good objects beside one that does not end.
func TestNothingWaitsForAnEndlessRule(t *testing.T) {
	set, err := transform.Compile(nil, transform.Options{Limits: transform.Limits{Time: time.Hour}, Rules: []transform.Rule{
		{Name: "endless", JQ: "def f: f; f", Match: transform.Match{Names: []string{"bad"}}},
		{Name: "good", JQ: ".data.x = ([range(100)] | length | tostring)"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	object := func(name string) transform.Object {
		return transform.Object{
			Kind: pipeline.GroupResource{Resource: "configmaps"},
			Body: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s","namespace":"y"}}`, name),
		}
	}
	endless, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := set.Run(endless, transform.Env{}, object("bad"))
		ended <- err
	}()
	for i := range 1000 {
		r, err := set.Run(t.Context(), transform.Env{}, object(fmt.Sprintf("good-%d", i)))
		if err != nil || len(r.Objects) != 1 || !strings.Contains(string(r.Objects[0].Body), `"x":"100"`) {
			t.Fatalf("object %d: %v, %v", i, r, err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the endless rule has ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

// TestGarbageIsNotHeld: what a program has dropped does not count, however much.
func TestGarbageIsNotHeld(t *testing.T) {
	set, err := transform.Compile(nil, transform.Options{Limits: transform.Limits{Time: time.Minute}, Rules: []transform.Rule{
		{Name: "a", JQ: `.data.x = last(range(40) as $i | [] | .[60000] = $i | length)`},
	}})
	if err != nil {
		t.Fatal(err)
	}
	before := allocated()
	if r := one(t, set, transform.Object{
		Kind: pipeline.GroupResource{Resource: "configmaps"}, Body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`),
	}); !strings.Contains(string(r.Body), `"x":60001`) {
		t.Errorf("result %s", r.Body)
	}
	if made := allocated() - before; made < 4*allowance {
		t.Errorf("only %d bytes were made: this shows nothing", made)
	}
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
