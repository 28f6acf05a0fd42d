package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// checkTimeout bounds one check, so that a probe always gets its answer.
const checkTimeout = 3 * time.Second

// Check reports what is wrong, nil if nothing is. It must honor ctx and be safe
// for concurrent use. Its error is shown at the side port: no secrets.
type Check func(ctx context.Context) error

// Health holds the named checks behind /readyz. /healthz has none: a process that
// answers is alive, and one that cannot go on ends by itself. The zero value has
// no checks. Its methods are safe for concurrent use.
type Health struct {
	mu     sync.Mutex
	ready  map[string]Check
	inform []func() []string
}

// Inform has readiness say lines for people, whatever the checks find. say must be
// quick and safe for concurrent use. Its lines are shown at the side port: no secrets.
func (h *Health) Inform(say func() []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inform = append(h.inform, say)
}

// informed returns the lines of Inform.
func (h *Health) informed() []string {
	h.mu.Lock()
	says := slices.Clone(h.inform)
	h.mu.Unlock()
	var lines []string
	for _, say := range says {
		for _, line := range say() {
			lines = append(lines, "[i] "+strings.Join(strings.Fields(line), " "))
		}
	}
	return lines
}

// Ready adds a check that says whether the program does its work, or stands by
// for it. Adding one of the same name replaces it.
func (h *Health) Ready(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ready == nil {
		h.ready = map[string]Check{}
	}
	h.ready[name] = c
}

// checks returns what Ready has added.
func (h *Health) checks() map[string]Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.ready)
}

// alive answers for /healthz.
func alive(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") }

// readiness answers for /readyz: one line per check, and 503 if one fails.
func (h *Health) readiness(w http.ResponseWriter, r *http.Request) {
	lines, ok := runChecks(r.Context(), h.checks())
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, append(h.informed(), lines...)...)
}

func answer(w http.ResponseWriter, code int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// The client may have gone: there is nobody left to tell.
	_, _ = fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// runChecks runs all checks at once and returns their lines by name.
func runChecks(ctx context.Context, checks map[string]Check) (lines []string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type finding struct {
		line string
		err  error
	}
	found := make(chan finding, len(checks))
	for name, c := range checks {
		go func() {
			err := runCheck(ctx, c)
			if err != nil {
				found <- finding{"[-] " + name + ": " + oneLine(err), err}
				return
			}
			found <- finding{"[+] " + name, nil}
		}()
	}
	ok = true
	for range checks {
		f := <-found
		lines = append(lines, f.line)
		ok = ok && f.err == nil
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[4:], b[4:]) })
	if ok {
		lines = append(lines, "ok")
	}
	return lines, ok
}

func runCheck(ctx context.Context, c Check) error {
	err := c(ctx)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fmt.Errorf("no answer within %s", checkTimeout)
	}
	return err
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
