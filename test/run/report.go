package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// counts are numbers of tests.
type counts struct{ passed, failed, skipped int }

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// testRun is what is known of one test.
type testRun struct {
	result string // pass, fail or skip; empty while it runs
	parent bool
	output strings.Builder
}

// packageRun is what is known of one package.
type packageRun struct {
	started time.Time
	tests   map[string]*testRun
	output  strings.Builder
}

// report turns the events of one `go test -json` into lines for people.
type report struct {
	out      io.Writer
	steps    bool // say what tests log at once
	now      func() time.Time
	started  time.Time
	spoke    time.Time
	running  map[string]*packageRun
	builds   map[string]*strings.Builder
	total    counts
	packages int
	failures []string
	skips    []string
}

func newReport(out io.Writer, now func() time.Time) *report {
	return &report{
		out: out, now: now, started: now(), spoke: now(),
		running: map[string]*packageRun{}, builds: map[string]*strings.Builder{},
	}
}

// read consumes events until they end. At each tick without news since the last
// one it says what is running.
func (r *report) read(events io.Reader, tick <-chan time.Time) error {
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() {
		defer close(lines)
		in := bufio.NewReader(events)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				if err == io.EOF {
					err = nil
				}
				ended <- err
				return
			}
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return <-ended
			}
			r.line(line)
		case <-tick:
			r.alive()
		}
	}
}

// line takes one line in; what is not an event (a tool that writes to stdout) is passed on.
func (r *report) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		r.say("%s", strings.TrimRight(line, "\n"))
		return
	}
	switch {
	case e.Action == "build-output":
		b := r.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			r.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
	case e.Package == "":
	case e.Test != "":
		r.test(r.pkg(e.Package), e)
	default:
		r.packageEvent(e)
	}
}

func (r *report) pkg(path string) *packageRun {
	p := r.running[path]
	if p == nil {
		p = &packageRun{started: r.now(), tests: map[string]*testRun{}}
		r.running[path] = p
	}
	return p
}

func (r *report) test(p *packageRun, e event) {
	t := p.tests[e.Test]
	if t == nil {
		t = &testRun{}
		p.tests[e.Test] = t
		for i, c := range e.Test {
			if parent := p.tests[e.Test[:i]]; c == '/' && parent != nil {
				parent.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
		if r.steps && logged.MatchString(e.Output) {
			r.say("        %s  %s", r.since(r.started), strings.TrimRight(logged.ReplaceAllString(e.Output, ""), "\n"))
		}
	case "pass", "fail", "skip":
		t.result = e.Action
		if r.steps {
			r.say("%-6s  %s  %.1fs", e.Action, e.Test, e.Elapsed)
		}
	}
}

// logged is the beginning of the first line that a test logs at once.
var logged = regexp.MustCompile(`^ +[a-z0-9_]+\.go:[0-9]+: `)

func (r *report) packageEvent(e event) {
	switch e.Action {
	case "output":
		r.pkg(e.Package).output.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.ended(e)
	default:
		r.pkg(e.Package)
	}
}

// ended counts a package's tests and says how it went.
func (r *report) ended(e event) {
	p := r.pkg(e.Package)
	delete(r.running, e.Package)
	name := short(e.Package)
	var c counts
	var failed []string
	for _, test := range slices.Sorted(maps.Keys(p.tests)) {
		t := p.tests[test]
		switch t.result {
		case "pass":
			if !t.parent {
				c.passed++
			}
		case "skip":
			if !t.parent {
				c.skipped++
				r.skips = append(r.skips, name+" "+test)
			}
		default: // failed, or never ended
			failed = append(failed, test)
			if !t.parent || !anyChildFailed(p, test) {
				c.failed++
				r.failures = append(r.failures, name+" "+test)
			}
		}
	}
	if e.Action == "fail" && len(failed) == 0 {
		c.failed++
		r.failures = append(r.failures, name+" (the package itself)")
	}
	r.total.passed += c.passed
	r.total.failed += c.failed
	r.total.skipped += c.skipped
	if len(p.tests) == 0 && e.Action != "fail" {
		return // no tests in it
	}
	r.packages++
	mark := "ok    "
	if e.Action == "fail" {
		mark = "FAILED"
	}
	cached := ""
	if strings.Contains(p.output.String(), "(cached)") {
		cached = ", cached"
	}
	r.say("%s  %-28s %4d tests  %7.1fs%s", mark, name, c.passed+c.failed+c.skipped, e.Elapsed, cached)
	if e.Action != "fail" {
		return
	}
	if b := r.builds[e.FailedBuild]; b != nil {
		r.say("%s", strings.TrimRight(b.String(), "\n"))
	}
	for _, test := range failed {
		r.say("%s", strings.TrimRight(p.tests[test].output.String(), "\n"))
	}
	if len(failed) == 0 || e.FailedBuild != "" {
		r.say("%s", strings.TrimRight(p.output.String(), "\n"))
	}
}

func anyChildFailed(p *packageRun, parent string) bool {
	for test, t := range p.tests {
		if strings.HasPrefix(test, parent+"/") && t.result != "pass" && t.result != "skip" {
			return true
		}
	}
	return false
}

// alive tells a person who waits that something goes on.
func (r *report) alive() {
	if r.now().Sub(r.spoke) < 10*time.Second {
		return
	}
	if len(r.running) == 0 {
		r.say("...     %s: building the tests", r.since(r.started))
		return
	}
	var names []string
	for _, path := range slices.SortedFunc(maps.Keys(r.running), func(a, b string) int {
		return cmp.Or(r.running[a].started.Compare(r.running[b].started), cmp.Compare(a, b))
	}) {
		names = append(names, fmt.Sprintf("%s (%s)", short(path), r.since(r.running[path].started)))
	}
	r.say("...     %s: running %s", r.since(r.started), strings.Join(names, ", "))
}

// finish says the end of it, with the counts alone on the last line.
func (r *report) finish() counts {
	for path, p := range r.running { // the go command went away before they ended
		delete(r.running, path)
		r.total.failed++
		r.failures = append(r.failures, short(path)+" (did not end)")
		r.say("FAILED  %s did not end\n%s", short(path), strings.TrimRight(p.output.String(), "\n"))
	}
	r.list("Skipped", r.skips)
	r.list("Failed", r.failures)
	r.say("\n%d packages in %s\n%s", r.packages, r.since(r.started), r.total)
	return r.total
}

func (r *report) list(title string, tests []string) {
	if len(tests) > 0 {
		r.say("\n%s:\n  %s", title, strings.Join(tests, "\n  "))
	}
}

func (r *report) say(format string, args ...any) {
	r.spoke = r.now()
	_, _ = fmt.Fprintf(r.out, format+"\n", args...) // the exit code tells what a broken stdout cannot
}

func (r *report) since(t time.Time) string {
	d := r.now().Sub(t).Round(time.Second)
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}

const module = "github.com/dr-syncer/dr-syncer"

// short is the package's path inside the module.
func short(path string) string {
	path, _, _ = strings.Cut(path, " ") // "path [path.test]"
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}
