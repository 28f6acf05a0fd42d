package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReport(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		reason string
		events string
		want   counts
		says   []string
		silent []string
	}{
		"AllKinds": {
			reason: "leaves count, parents do not, and the end of it is the counts",
			events: `{"Action":"run","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA"}
{"Action":"run","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/one"}
{"Action":"output","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/one","Output":"quiet please\n"}
{"Action":"pass","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/one"}
{"Action":"run","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/two"}
{"Action":"output","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/two","Output":"this is why\n"}
{"Action":"fail","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA/two"}
{"Action":"fail","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestA"}
{"Action":"run","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestB"}
{"Action":"skip","Package":"github.com/dr-syncer/dr-syncer/kube","Test":"TestB"}
{"Action":"fail","Package":"github.com/dr-syncer/dr-syncer/kube","Elapsed":1.5}`,
			want:   counts{passed: 1, failed: 1, skipped: 1},
			says:   []string{"FAILED  kube", "this is why", "Failed:\n  kube TestA/two\n", "Skipped:\n  kube TestB\n"},
			silent: []string{"quiet please"},
		},
		"ParentFailsByItself": {
			reason: "a parent that fails after its subtests passed is a failure of its own",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			want: counts{passed: 1, failed: 1},
			says: []string{"Failed:\n  p TestA\n"},
		},
		"BuildFails": {
			reason: "what cannot be built is a failure, and the compiler's words are shown",
			events: `{"Action":"build-output","ImportPath":"p [p.test]","Output":"p.go:1: undefined: x\n"}
{"Action":"build-fail","ImportPath":"p [p.test]"}
{"Action":"start","Package":"p"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
			want: counts{failed: 1},
			says: []string{"p.go:1: undefined: x", "p (the package itself)"},
		},
		"PackageFailsOutsideTests": {
			reason: "a leak found after the last test must not pass",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"goleak: found unexpected goroutines\n"}
{"Action":"fail","Package":"p"}`,
			want: counts{passed: 1, failed: 1},
			says: []string{"goleak: found unexpected goroutines"},
		},
		"Crash": {
			reason: "a test that never ended has failed",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}
{"Action":"fail","Package":"p"}`,
			want: counts{failed: 1},
			says: []string{"panic: oh", "p TestA"},
		},
		"CutOff": {
			reason: "a package that never ended has failed",
			events: `{"Action":"start","Package":"p"}`,
			want:   counts{failed: 1},
			says:   []string{"p (did not end)"},
		},
		"NoTests": {
			reason: "packages without tests are not worth a line",
			events: `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p"}`,
			silent: []string{"ok", "no test files"},
		},
		"NotAnEvent": {
			reason: "what a tool writes between the events is passed on",
			events: "go: something\n",
			says:   []string{"go: something"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := newReport(&out, time.Now)
			if err := r.read(strings.NewReader(tc.events), nil); err != nil {
				t.Fatal(err)
			}
			got := r.finish()
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(counts{})); diff != "" {
				t.Errorf("%s: counts (-want +got):\n%s", tc.reason, diff)
			}
			if !strings.HasSuffix(out.String(), "\n"+tc.want.String()+"\n") {
				t.Errorf("%s: the counts are not alone on the last line:\n%s", tc.reason, out.String())
			}
			for _, s := range tc.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%s: %q is not said:\n%s", tc.reason, s, out.String())
				}
			}
			for _, s := range tc.silent {
				if strings.Contains(out.String(), s) {
					t.Errorf("%s: %q is said:\n%s", tc.reason, s, out.String())
				}
			}
		})
	}
}

func TestAliveSaysWhatRuns(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	now := time.Unix(0, 0)
	r := newReport(&out, func() time.Time { return now })
	r.line(`{"Action":"start","Package":"p"}`)
	now = now.Add(5 * time.Second)
	r.alive()
	if out.Len() != 0 {
		t.Errorf("said something too soon: %q", out.String())
	}
	now = now.Add(70 * time.Second)
	r.alive()
	if want := "...     1m15s: running p (1m15s)\n"; out.String() != want {
		t.Errorf("said %q, want %q", out.String(), want)
	}
}

func TestStepsAreSaidAtOnce(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := newReport(&out, func() time.Time { return time.Unix(0, 0) })
	r.steps = true
	for line := range strings.Lines(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: the cable is cut\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"        and more of it\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":2}`) {
		r.line(line)
	}
	want := "        0m00s  the cable is cut\npass    TestA  2.0s\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
}
