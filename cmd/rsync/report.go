package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Phases of a mover.
const (
	phaseStarting = "Starting"
	phaseServing  = "Serving"
	phaseFinished = "Finished"
	// Between them the destination shows the pass that runs.
)

// status is what a mover tells of itself: a line of JSON.
type status struct {
	Session  string `json:"session"`
	Claim    string `json:"claim"`
	Epoch    uint64 `json:"epoch"`
	Role     string `json:"role"`
	Phase    string `json:"phase"`
	Attempts int    `json:"attempts,omitempty"`
	// Carrier is the way that the data goes.
	Carrier  string         `json:"carrier,omitempty"`
	Progress rsync.Progress `json:"progress"`
	// Sent and Received are bytes on the wire, over all attempts; Rate is of both, per
	// second, over the last seconds.
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
	Rate     int64 `json:"rate"`
	// CannotKeep is what this process may not keep of files, for want of privileges.
	CannotKeep []string `json:"cannotKeep,omitempty"`
	// Verdict and Reports are there at the end.
	Verdict *rsync.Verdict `json:"verdict,omitempty"`
	Reports []rsync.Report `json:"reports,omitempty"`
	Updated time.Time      `json:"updated"`
}

const (
	statusEvery = time.Second
	linesEvery  = 5 // of statusEvery: the least time between two lines
	// maxTermination is what a kubelet takes of a termination message.
	maxTermination = 4096
)

// reporter keeps the status and tells it. All methods are safe for concurrent use.
type reporter struct {
	file, termination string
	lines             io.Writer

	mu       sync.Mutex
	status   status
	streams  map[*stream.Stream]struct{}
	ended    [2]int64 // sent and received by streams that are over
	lastWire int64
}

func newReporter(file, termination string, lines io.Writer, e stream.End, cannotKeep []string) *reporter {
	return &reporter{
		file: file, termination: termination, lines: lines, streams: map[*stream.Stream]struct{}{},
		status: status{
			Session: e.Session.ID, Claim: e.Session.Claim, Epoch: e.Session.Epoch, Role: e.Role.String(), Phase: phaseStarting, CannotKeep: cannotKeep,
		},
	}
}

// set changes the status.
func (r *reporter) set(change func(*status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

func (r *reporter) pass(p rsync.Pass) {
	r.set(func(s *status) { s.Phase, s.Progress = string(p), rsync.Progress{} })
}

func (r *reporter) progress(p rsync.Progress) { r.set(func(s *status) { s.Progress = p }) }

// watch counts a stream until forget is called.
func (r *reporter) watch(s *stream.Stream) (forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[s] = struct{}{}
	r.status.Carrier = s.Carrier()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.streams, s)
		sent, received := s.Wire()
		r.ended[0], r.ended[1] = r.ended[0]+sent, r.ended[1]+received
	})
}

// now is the status of this moment.
func (r *reporter) now() status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Sent, s.Received = r.ended[0], r.ended[1]
	for stream := range r.streams {
		sent, received := stream.Wire()
		s.Sent, s.Received = s.Sent+sent, s.Received+received
	}
	s.Updated = time.Now().UTC().Truncate(time.Millisecond)
	return s
}

// run tells the status until ctx ends: the file each second, a line less often.
func (r *reporter) run(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	rate := int64(0)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := r.now()
		wire := s.Sent + s.Received
		r.mu.Lock()
		const smoothing = 3
		rate += (wire - r.lastWire - rate) / smoothing
		r.lastWire, r.status.Rate = wire, rate
		r.mu.Unlock()
		s.Rate = rate
		r.tell(s, n%linesEvery == 0)
	}
}

// tell writes the status. What cannot be written is not worth failing a copy for:
// the next one may be.
func (r *reporter) tell(s status, line bool) {
	text, err := json.Marshal(s)
	if err != nil {
		return
	}
	text = append(text, '\n')
	if line {
		_, _ = r.lines.Write(text)
	}
	if r.file != "" {
		_ = replace(r.file, text)
	}
}

// replace writes a file so that a reader sees the old or the new one.
func replace(path string, text []byte) error {
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".next")
	if err := os.WriteFile(next, text, 0o644); err != nil { //nolint:gosec // G306: it is for others to read
		return err
	}
	return os.Rename(next, path)
}

// finish tells the end.
func (r *reporter) finish(v rsync.Verdict, reports []rsync.Report) {
	r.set(func(s *status) { s.Phase, s.Verdict, s.Reports, s.Rate = phaseFinished, &v, reports, 0 })
	s := r.now()
	r.tell(s, true)
	if r.termination == "" {
		return
	}
	if _, err := os.Stat(r.termination); err != nil {
		return // nobody asks
	}
	for _, shorter := range []func(){func() {}, func() {
		s.Reports = append([]rsync.Report(nil), s.Reports...)
		for i := range s.Reports {
			s.Reports[i].Problems, s.Reports[i].Differences = nil, nil
		}
	}, func() { s.Reports = nil }} {
		shorter()
		if text, err := json.Marshal(s); err == nil && len(text) <= maxTermination {
			_ = os.WriteFile(r.termination, text, 0o600) // it was told otherwise, too
			return
		}
	}
}

// fail tells that it ended before it began, and returns the error.
func (r *reporter) fail(c rsync.Class, err error) error {
	if errors.Is(err, context.Canceled) {
		c = rsync.Canceled
	}
	r.finish(rsync.Verdict{Class: c, Reason: err.Error()}, nil)
	return fmt.Errorf("start the %s: %w", r.now().Role, err)
}
