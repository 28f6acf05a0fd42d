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

// Health holds the named checks behind /healthz and /readyz. The zero value has
// none. Its methods are safe for concurrent use.
type Health struct {
	mu          sync.Mutex
	live, ready map[string]Check
	inform      []func() []string
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

// Live adds a check that says whether the process should be restarted. Adding
// one of the same name replaces it.
func (h *Health) Live(name string, c Check) { h.add(&h.live, name, c) }

// Ready adds a check that says whether the program does its work, or stands by
// for it. Adding one of the same name replaces it.
func (h *Health) Ready(name string, c Check) { h.add(&h.ready, name, c) }

func (h *Health) add(to *map[string]Check, name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *to == nil {
		*to = map[string]Check{}
	}
	(*to)[name] = c
}

func (h *Health) checks(of *map[string]Check) map[string]Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(*of)
}

// handler answers with one line per check, and 503 if one fails.
func (h *Health) handler(of *map[string]Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines, ok := runChecks(r.Context(), h.checks(of))
		if of == &h.ready {
			lines = append(h.informed(), lines...)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		// The client may have gone: there is nobody left to tell.
		_, _ = fmt.Fprintln(w, strings.Join(lines, "\n"))
	})
}

// runChecks runs all checks at once and returns their lines by name.
func runChecks(ctx context.Context, checks map[string]Check) (lines []string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, len(checks))
	for name, c := range checks {
		go func() {
			err := runCheck(ctx, c)
			if err != nil {
				answers <- answer{"[-] " + name + ": " + oneLine(err), err}
				return
			}
			answers <- answer{"[+] " + name, nil}
		}()
	}
	ok = true
	for range checks {
		a := <-answers
		lines = append(lines, a.line)
		ok = ok && a.err == nil
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
