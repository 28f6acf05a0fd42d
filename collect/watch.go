package collect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// kindWatch hands what is seen of one kind to the outbox: selected, cleaned and
// digested, so that what is not news never leaves its goroutine.
type kindWatch struct {
	term    *term
	kind    kube.Kind
	rules   *kindRules
	cleaner *kindCleaner
}

// run watches until ctx ends.
func (w *kindWatch) run(ctx context.Context) {
	pause := newBackOff()
	for ctx.Err() == nil {
		w.watch(ctx)
		wait(ctx, pause.NextBackOff())
	}
}

// watch watches until ctx ends or a list cannot be judged: then a new one is needed.
func (w *kindWatch) watch(ctx context.Context) {
	ctx, again := context.WithCancel(ctx)
	defer again()
	h := &handler{kindWatch: w, ctx: ctx, again: again}
	w.term.source.Watch(ctx, w.kind, kube.WatchOptions{
		OnError:   func(err error) { w.onError(ctx, err) },
		OnConnect: func() { w.term.answers.Add(1) },
	}, h)
}

// handler is what one Watch calls.
type handler struct {
	*kindWatch
	// ctx is that of the Watch: the calls of a kube.Handler have none.
	ctx   context.Context
	again context.CancelFunc // ends the Watch
	buf   []byte             // of the cleaner, used again
}

var _ kube.Handler = (*handler)(nil)

func (w *kindWatch) ref(namespace, name string) pipeline.Ref {
	return pipeline.Ref{
		Site: w.term.site, Group: w.kind.Group, Resource: w.kind.Resource, Namespace: namespace, Name: name,
	}
}

func (w *kindWatch) sighting(p presence, uid, version string) *sighting {
	return &sighting{
		presence: p, uid: uid, version: version, observed: time.Now(),
		apiVersion: w.kind.APIVersion(), kind: w.kind.Kind,
	}
}

// Observe implements kube.Handler.
func (w *handler) Observe(o kube.Object) {
	w.term.noticeKind(w.kind.GroupResource)
	w.term.outbox.waitForRoom(w.ctx)
	var s *sighting
	if s, w.buf = w.sightingOf(w.ctx, o, w.buf); s == nil {
		return
	}
	if w.term.outbox.see(w.ctx, w.ref(o.Namespace, o.Name), s) == unchanged && s.presence == present {
		telemetry.Add(w.ctx, telemetry.MetricCollectUnchanged, 1,
			telemetry.String(telemetry.KeySite, w.term.site), telemetry.String(telemetry.KeyKind, w.kind.GroupResource.String()))
	}
}

// errNoIdentity is what objects of some aggregated API servers are told to be: without a UID
// nobody could say that they are gone.
var errNoIdentity = pipeline.WithClass(pipeline.Malformed, errors.New("it has no UID or no resource version"))

// sightingOf selects, cleans, redacts and digests an object; it returns nil for one that is frozen,
// cannot be read or must not be published. The sighting's body lies in buf, which is returned to be used again. Apart
// from buf it is safe for concurrent use.
func (w *kindWatch) sightingOf(ctx context.Context, o kube.Object, buf []byte) (*sighting, []byte) {
	v, err := look(o.Raw)
	if err == nil && (o.UID == "" || o.Version == "") {
		err = errNoIdentity
	}
	if err != nil {
		w.term.unreadable(ctx, w.ref(o.Namespace, o.Name), err)
		return nil, buf
	}
	switch w.rules.decide(v).Action {
	case Collect:
		s := w.sighting(present, o.UID, o.Version)
		buf = w.cleaner.clean(buf[:0], v)
		set, ref := w.term.rules().redaction, w.ref(o.Namespace, o.Name)
		body, action, err := w.redact(ctx, set, ref, buf)
		switch {
		case ctx.Err() != nil:
			return nil, buf
		case err != nil:
			w.term.withheld(ctx, ref, s, err)
			return nil, buf
		case action == Freeze:
			return nil, buf
		case action != Collect:
			return w.sighting(unwanted, o.UID, o.Version), buf
		}
		s.body, s.digest, s.redaction, s.manager = body, pipeline.DigestOf(body), set, strings.Clone(v.manager())
		return s, buf
	case Skip, Ignore:
		return w.sighting(unwanted, o.UID, o.Version), buf
	case Freeze:
	}
	return nil, buf
}

// Delete implements kube.Handler.
func (w *handler) Delete(o kube.Object) {
	w.term.noticeKind(w.kind.GroupResource)
	ref := w.ref(o.Namespace, o.Name)
	// An object that was ignored in its last state is gone without a word.
	if v, err := look(o.Raw); err == nil {
		if action := w.rules.decide(v).Action; action == Skip || action == Ignore {
			w.term.outbox.see(w.ctx, ref, w.sighting(unwanted, o.UID, o.Version))
			return
		}
	}
	s := w.sighting(gone, o.UID, o.Version)
	s.evidence = pipeline.EvidenceWatch
	w.term.outbox.lose(w.ctx, ref, s)
}

// Progress implements kube.Handler.
func (w *handler) Progress(version string) {
	w.term.outbox.onProgress(w.kind.GroupResource, func(p *progress) {
		if p.listed {
			p.seen = version
		}
	})
}

// Replace implements kube.Handler: the sweep.
func (w *handler) Replace(present []kube.Object, version string) {
	list := make(map[objectKey]listed, len(present))
	for _, o := range present {
		u, _ := packUID(o.UID)
		list[objectKey{o.Namespace, o.Name}] = listed{uid: u, version: number(o.Version)}
	}
	k := w.kind.GroupResource
	s := sweep{version: number(version), recorded: w.term.outbox.recorded(k), apart: storedApart(k), recordedSource: w.term.incarnation}
	var absent []absence
	absent, s.older = w.term.outbox.compare(k, list, s.version)
	s.source = s.recordedSource
	if len(absent) > 0 || s.older || s.version < s.recorded {
		// Something hangs on it: ask whether it still is the same source.
		var err error
		if s.source, err = w.term.source.ClusterUID(w.ctx); err != nil {
			if w.ctx.Err() == nil {
				w.onError(w.ctx, fmt.Errorf("ask the source for its identity: %w", err))
				w.again()
			}
			return
		}
	}
	verdict, reason := s.judge()
	switch verdict {
	case trusted:
		var err error
		if absent, err = w.confirm(absent); err != nil {
			if w.ctx.Err() == nil {
				w.onError(w.ctx, err)
				w.again()
			}
			return
		}
		w.sweepAway(absent, version)
	case reset:
		w.term.reset(w.ctx, k, reason)
		return
	case resetKind:
		w.term.log.WarnContext(w.ctx, "kind was reset, holding what is known of it", telemetry.KeyKind, k.String(), telemetry.KeyReason, reason)
		w.term.outbox.hold(k)
		w.again()
		return
	case undecided:
		if len(absent) > 0 {
			w.term.log.WarnContext(w.ctx, "absence from list proves nothing",
				telemetry.KeyKind, k.String(), telemetry.KeyReason, reason, telemetry.KeyCount, len(absent))
		}
	}
	w.onError(w.ctx, nil) // whatever kept the last list from being judged is over
	first := false
	w.term.outbox.onProgress(k, func(p *progress) {
		first = !p.listed
		p.seen, p.listed = version, true
	})
	if first {
		w.term.beat() // perhaps the last that was missing
	}
}

// sweepAway takes up that objects are gone, or not selected any more.
func (w *handler) sweepAway(absent []absence, version string) {
	reset, emptied := 0, 0
	for _, a := range absent {
		ref := w.ref(a.namespace, a.name)
		if w.rules.selector.Key(w.kind.GroupResource, a.namespace, a.name).Action != Collect {
			w.term.outbox.release(w.ctx, ref)
			continue
		}
		reset += count(a.evidence == pipeline.EvidenceReset)
		emptied += count(a.evidence == pipeline.EvidenceEmptied)
		s := w.sighting(gone, "", version)
		s.evidence = a.evidence
		w.term.outbox.lose(w.ctx, ref, s)
	}
	if reset > 0 {
		w.term.log.WarnContext(w.ctx, "source lacks objects since it was reset: their copies stay until somebody decides",
			telemetry.KeyKind, w.kind.GroupResource.String(), telemetry.KeyCount, reset)
	}
	if emptied > 0 {
		w.term.log.WarnContext(w.ctx, "source lists nothing any more of a kind or namespace: the copies stay until somebody decides",
			telemetry.KeyKind, w.kind.GroupResource.String(), telemetry.KeyCount, emptied)
	}
}

// onError notes a failure of the watch, nil for its end.
func (w *kindWatch) onError(ctx context.Context, err error) {
	k := w.kind.GroupResource
	text := ""
	if err != nil {
		text = err.Error()
		telemetry.Add(ctx, telemetry.MetricCollectErrors, 1,
			telemetry.String(telemetry.KeySite, w.term.site), telemetry.String(telemetry.KeyKind, k.String()))
	}
	former := ""
	w.term.outbox.onProgress(k, func(p *progress) { former, p.failing = p.failing, text })
	switch text {
	case former:
	case "":
		w.term.log.InfoContext(ctx, "kind is collected again", telemetry.KeyKind, k.String())
	default:
		w.term.log.WarnContext(ctx, "cannot collect kind", telemetry.KeyKind, k.String(), telemetry.KeyError, err)
	}
	if (text == "") != (former == "") {
		w.term.beat()
	}
}
