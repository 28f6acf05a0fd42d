package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Handler receives what a Watch sees, one call at a time and in the server's
// order. A slow Handler holds up its watch, nothing else.
type Handler interface {
	// Observe tells that the object exists with this body: initial state, added or
	// changed. Raw is the handler's to keep. The same state may be observed again.
	Observe(o Object)
	// Delete tells of a DELETED event. Raw is the last state, Version the deletion's. With
	// a label selector it may also mean that the object no longer matches.
	Delete(o Object)
	// Replace tells that a complete list ended: exactly these objects exist at this version of
	// the list. Their Raw is nil; each was Observed before.
	Replace(present []Object, version string)
	// Progress tells that everything up to version was seen.
	Progress(version string)
}

// WatchOptions narrow a watch.
type WatchOptions struct {
	LabelSelector string
	// Namespace, if set, is the only one watched.
	Namespace string
	// MetadataOnly has the server send metadata only: Raw is a PartialObjectMetadata.
	MetadataOnly bool
	// OnError is told each failure (not served, not permitted, lost, expired, unreadable),
	// classified, and nil when the watch is healthy again. It must return quickly.
	OnError func(error)
	// OnConnect is told of each stream and each page of a list that the server grants, before anything
	// of it is handed over: who answers may be another than before. It must return quickly.
	OnConnect func()
}

// Watch tells h of all objects of the kind and of every change, until ctx ends. It streams
// the initial state (a consistent read, by pages from servers that cannot stream),
// then follows; it reconnects with backoff from where it was, and starts over with a
// new Replace when the server no longer knows that place. A failure is never taken for an
// absence: Replace comes after a complete list and Delete from the server's word only. When Watch
// returns, no more calls are made.
func (c *Client) Watch(ctx context.Context, k Kind, opts WatchOptions, h Handler) {
	s := &source{client: c, kind: k, opts: opts, handler: h, delay: newBackOff()}
	constant := &wait.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 1} // the source does the waiting
	logger := logr.Discard()
	reflector := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch},
		nil,
		sink{s},
		cache.ReflectorOptions{Name: "kube", TypeDescription: k.GroupResource.String(), Logger: &logger, Backoff: constant},
	)
	reflector.RunWithContext(klog.NewContext(ctx, logger))
	s.close()
}

// sink hands what a Reflector stores to the handler and stores nothing. The Reflector
// collects the initial state in a store of its own, which passes every object
// through the Transformer: there the body goes to the handler and only identities pile up.
type sink struct{ s *source }

var (
	_ cache.TransformingStore      = sink{}
	_ cache.ResourceVersionUpdater = sink{}
)

func (k sink) Add(obj any) error    { return k.observe(obj) }
func (k sink) Update(obj any) error { return k.observe(obj) }

func (k sink) Delete(obj any) error {
	t, ok := obj.(*thin)
	if !ok {
		return errUnexpected
	}
	k.s.handler.Delete(t.Object)
	return nil
}

func (k sink) Replace(items []any, version string) error {
	present := make([]Object, 0, len(items))
	for _, item := range items {
		t, ok := item.(*thin)
		if !ok {
			return errUnexpected
		}
		present = append(present, t.Object)
	}
	k.s.handler.Replace(present, version)
	return nil
}

func (sink) Resync() error { return nil }

func (k sink) UpdateResourceVersion(version string) {
	if version != "" { // not every API server gives its objects one
		k.s.handler.Progress(version)
	}
}

func (k sink) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if err := k.observe(obj); err != nil {
			return nil, err
		}
		t, _ := obj.(*thin)
		t.Raw = nil
		return t, nil
	}
}

func (k sink) observe(obj any) error {
	t, ok := obj.(*thin)
	if !ok {
		return errUnexpected
	}
	k.s.handler.Observe(t.Object)
	return nil
}

var errUnexpected = errors.New("the reflector passes an object that is not of this package")

// source opens streams and lists for one Reflector, waits between failures, and
// reports health.
type source struct {
	client  *Client
	kind    Kind
	opts    WatchOptions
	handler Handler

	wg sync.WaitGroup // streams and lists under way

	mu      sync.Mutex
	closed  bool
	delay   *backoff.ExponentialBackOff
	failing bool   // the next attempt waits
	err     error  // of the last attempt
	paged   bool   // the server does not stream initial state: list
	listed  string // version of the list just read, until a watch goes on from it
}

// begin counts a stream or list, unless the watch has ended: the Reflector does not
// wait for a list when its context ends.
func (s *source) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// close waits until no stream and no list is under way and lets none begin.
func (s *source) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
}

// fail records and reports a failure.
func (s *source) fail(err error) error {
	s.mu.Lock()
	s.failing, s.err = true, err
	s.mu.Unlock()
	if s.opts.OnError != nil {
		s.opts.OnError(err)
	}
	return err
}

// healthy reports that the watch works. steady also ends the backoff: opening a
// stream alone is no reason to, since it may break at once.
func (s *source) healthy(steady bool) {
	s.mu.Lock()
	was := s.err
	s.err = nil
	if steady {
		s.failing = false
		s.delay.Reset()
	}
	s.mu.Unlock()
	if was != nil && s.opts.OnError != nil {
		s.opts.OnError(nil)
	}
}

// connected reports that a server answers.
func (s *source) connected() {
	if s.opts.OnConnect != nil {
		s.opts.OnConnect()
	}
}

// pause waits out the backoff if the last attempt failed.
func (s *source) pause(ctx context.Context) error {
	s.mu.Lock()
	var d time.Duration
	if s.failing {
		d = s.delay.NextBackOff()
	}
	s.mu.Unlock()
	if d == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request prepares a GET of the watched collection; partial is the form to ask for when
// metadata is enough.
func (s *source) request(partial string) *rest.Request {
	accept := acceptJSON
	if s.opts.MetadataOnly {
		accept = partial
	}
	r := s.client.rest.Get().AbsPath(s.kind.path(s.opts.Namespace, "")).MaxRetries(0).SetHeader("Accept", accept)
	if s.opts.LabelSelector != "" {
		r = r.Param("labelSelector", s.opts.LabelSelector)
	}
	return r
}

// describe wraps err with what was being done.
func (s *source) describe(verb string, err error) error {
	return fmt.Errorf("%s %s: %w", verb, s.kind.GroupResource, err)
}
