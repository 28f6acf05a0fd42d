package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

const (
	// steadyAfter is how long a resumed stream must last to count as healthy.
	steadyAfter = 5 * time.Second
	// silenceLimit is how long a server may be silent before the end of the initial
	// state. One that does not know what sendInitialEvents means never ends it.
	silenceLimit = 30 * time.Second
)

// watch opens a stream: of the initial state and what follows, or of what follows a
// version.
func (s *source) watch(parent context.Context, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if initial && s.isPaged() {
		return nil, errPaged
	}
	if !s.begin() {
		return nil, context.Canceled
	}
	st, err := s.open(parent, o, initial)
	if err == nil {
		go st.run()
		return st, nil
	}
	s.wg.Done()
	switch {
	case parent.Err() != nil:
		return nil, err
	case initial && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)):
		s.setPaged(true)
		return nil, errPaged
	}
	err = s.fail(s.describe("watch", err))
	if pipeline.ClassOf(err) == pipeline.Transient && !IsExpired(err) {
		return nil, tryAgain()
	}
	return nil, err
}

// open makes the request, after the backoff.
func (s *source) open(parent context.Context, o metav1.ListOptions, initial bool) (*stream, error) {
	if err := s.pause(parent); err != nil {
		return nil, err
	}
	r := s.request(acceptMeta).Param("watch", "true").Param("allowWatchBookmarks", "true")
	if initial {
		// Always the present state, by a consistent read: after a restore of the server the
		// last version seen may lie in its future.
		r = r.Param("sendInitialEvents", "true").
			Param("resourceVersion", "").
			Param("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan))
	} else {
		if err := s.checkResume(parent, o.ResourceVersion); err != nil {
			return nil, err
		}
		r = r.Param("resourceVersion", o.ResourceVersion)
	}
	if o.TimeoutSeconds != nil {
		r = r.Param("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	ctx, cancel := context.WithCancel(parent)
	body, err := s.client.stream(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	s.connected()
	if !initial {
		s.healthy(false)
	}
	return &stream{
		source: s, parent: parent, body: body, cancel: cancel, initial: initial,
		events: make(chan watch.Event), stop: make(chan struct{}),
	}, nil
}

// checkResume finds out whether the server still knows the version that a watch is to
// go on from. One that was restored from an older state does not, yet would
// silently wait until it counts that far again, and what happens until
// then would be missed.
func (s *source) checkResume(ctx context.Context, version string) error {
	s.mu.Lock()
	listed := s.listed
	s.listed = ""
	s.mu.Unlock()
	if version == listed {
		return nil // just read
	}
	body, err := s.client.do(ctx, s.request(acceptMetaList).SetHeader("Accept", acceptMetaList).Param("limit", "1"))
	if err != nil {
		return err
	}
	now := gjson.GetBytes(body, "metadata.resourceVersion").Str
	if order, err := CompareVersions(now, version); err == nil && order < 0 {
		return classify(apierrors.NewResourceExpired(fmt.Sprintf("the server is at version %s, before %s that it was at: it was restored from an older state", now, version)))
	}
	return nil
}

// CompareVersions orders two resource versions of one kind: negative when a is
// older. It fails for versions of servers that do not count (old aggregated ones).
func CompareVersions(a, b string) (int, error) {
	order, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return 0, fmt.Errorf("compare versions %q and %q: %w", a, b, err)
	}
	return order, nil
}

// tryAgain is the error that has a Reflector go on from where it was. After most
// others it would read the whole state again. The source has already reported what happened
// and does the waiting.
func tryAgain() *apierrors.StatusError { return apierrors.NewTooManyRequests("try again", 0) }

// isPaged reports whether the next attempt lists instead of streaming the initial state.
func (s *source) isPaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paged
}

// setPaged says whether the next attempt lists instead of streaming the initial state.
func (s *source) setPaged(paged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paged = paged
}

// errPaged sends the Reflector to list.
var errPaged = errors.New("the server does not stream initial state")

// stream is one watch request under way. It implements watch.Interface.
type stream struct {
	source  *source
	parent  context.Context // of the Watch
	body    io.ReadCloser
	cancel  context.CancelFunc
	initial bool // the initial state has not ended
	events  chan watch.Event
	stop    chan struct{}
	once    sync.Once
}

func (st *stream) ResultChan() <-chan watch.Event { return st.events }

// Stop ends the stream. Stopping again does nothing.
func (st *stream) Stop() {
	st.once.Do(func() {
		close(st.stop)
		st.cancel()
	})
}

func (st *stream) stopped() bool {
	select {
	case <-st.stop:
		return true
	default:
		return false
	}
}

// run reads events until the stream ends and judges the end. A failure is reported before
// the Reflector learns of it, lest its next stream be healthy sooner.
func (st *stream) run() {
	defer st.source.wg.Done()
	defer func() { _ = st.body.Close() }()
	defer close(st.events)
	defer st.cancel()
	start := time.Now()
	last, failure := st.read()
	switch {
	case st.parent.Err() != nil || st.stopped():
		return // ended by us
	case failure == nil && !st.initial && time.Since(start) >= steadyAfter:
		st.source.healthy(true) // a stream's ordinary end
		return
	case failure == nil:
		failure = errors.New("the server closed the stream early")
	}
	_ = st.source.fail(st.source.describe("watch", failure))
	if last.Object == nil {
		status := tryAgain().Status()
		last = watch.Event{Type: watch.Error, Object: &status}
	}
	st.send(last)
}

// send passes an event to the Reflector. It returns false when that has stopped the stream.
func (st *stream) send(e watch.Event) bool {
	select {
	case st.events <- e:
		return true
	case <-st.stop:
		return false
	}
}

// read passes events on until the stream ends. It returns no error when the server or the
// Reflector ended it, and the event that tells of the error if there is one.
func (st *stream) read() (watch.Event, error) {
	silence := time.AfterFunc(silenceLimit, func() {
		st.source.setPaged(true)
		st.cancel()
	})
	defer silence.Stop()
	if !st.initial {
		silence.Stop()
	}
	frames := newFrameReader(st.body)
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			return watch.Event{}, nil
		}
		if err != nil {
			return watch.Event{}, pipeline.WithClass(pipeline.Transient, fmt.Errorf("stream lost: %w", err))
		}
		if st.initial {
			silence.Reset(silenceLimit)
		}
		event, err := decodeEvent(frame, st.source.kind)
		if err != nil {
			return event, err
		}
		if t, ok := event.Object.(*thin); ok && t.initialEnd && st.initial {
			st.initial = false
			silence.Stop()
			st.source.healthy(true)
		}
		if !st.send(event) {
			return watch.Event{}, nil
		}
	}
}
