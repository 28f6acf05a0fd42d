package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// watch opens a stream: of the initial state and what follows, or of what follows a version.
func (s *source) watch(parent context.Context, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if initial {
		s.mu.Lock()
		paged := s.paged
		s.mu.Unlock()
		if paged {
			return nil, errPaged
		}
	}
	if err := s.pause(parent); err != nil {
		return nil, err
	}
	r := s.client.rest.Get().AbsPath(s.kind.path(s.opts.Namespace, "")).
		MaxRetries(0).
		Param("watch", "true").
		Param("allowWatchBookmarks", "true").
		Param("resourceVersion", o.ResourceVersion)
	if initial {
		r = r.Param("sendInitialEvents", "true").Param("resourceVersionMatch", string(o.ResourceVersionMatch))
	}
	if o.TimeoutSeconds != nil {
		r = r.Param("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	if s.opts.LabelSelector != "" {
		r = r.Param("labelSelector", s.opts.LabelSelector)
	}
	accept := acceptJSON
	if s.opts.MetadataOnly {
		accept = acceptMeta
	}
	if !s.begin() {
		return nil, context.Canceled
	}
	ctx, cancel := context.WithCancel(parent)
	body, err := s.client.stream(ctx, r.SetHeader("Accept", accept))
	if err != nil {
		cancel()
		s.wg.Done()
		if initial && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) {
			s.setPaged(true)
			return nil, errPaged
		}
		if parent.Err() != nil {
			return nil, err
		}
		return nil, s.fail(s.describe("watch", err))
	}
	if !initial {
		s.healthy(false)
	}
	st := &stream{source: s, body: body, cancel: cancel, initial: initial, events: make(chan watch.Event), stop: make(chan struct{})}
	go st.run()
	return st, nil
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

// run reads events until the stream ends and judges the end.
func (st *stream) run() {
	defer st.source.wg.Done()
	defer func() { _ = st.body.Close() }()
	defer close(st.events)
	start := time.Now()
	err := st.read()
	st.cancel()
	select {
	case <-st.stop:
		return // ended by us
	default:
	}
	if st.initial || err != nil || time.Since(start) < steadyAfter {
		if err == nil {
			err = errors.New("the server closed the stream early")
		}
		_ = st.source.fail(st.source.describe("watch", err))
		return
	}
	st.source.healthy(true) // a stream's ordinary end
}

// read passes events on. It returns nil when the server ended the stream.
func (st *stream) read() error {
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
			return nil
		}
		if err != nil {
			return pipeline.WithClass(pipeline.Transient, fmt.Errorf("stream lost: %w", err))
		}
		if st.initial {
			silence.Reset(silenceLimit)
		}
		event, failure := decodeEvent(frame, st.source.kind)
		if t, ok := event.Object.(*thin); ok && t.initialEnd && st.initial {
			st.initial = false
			silence.Stop()
			st.source.healthy(true)
		}
		select {
		case st.events <- event:
		case <-st.stop:
			return nil
		}
		if failure != nil {
			return failure
		}
	}
}
