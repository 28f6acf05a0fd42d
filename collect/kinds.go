package collect

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// The kinds whose objects define kinds.
var definitions = []pipeline.GroupResource{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
	{Group: "apiregistration.k8s.io", Resource: "apiservices"},
}

// soonest is the time from a sign of new kinds to the next look; it doubles from
// there, since the API server serves a kind a while after its definition came.
const soonest = 100 * time.Millisecond

// watching is the set of watches that run.
type watching struct {
	term  *term
	wg    sync.WaitGroup
	kinds map[pipeline.GroupResource]*watched
	// Of the last look: the configuration, its selector, and what is served.
	rules    *rules
	selector *Selector
	served   []kube.Kind
}

type watched struct {
	kind kube.Kind
	stop context.CancelFunc
	done chan struct{}
	// rules are those it was started with.
	rules *rules
	// signal: watched only to learn of new kinds.
	signal bool
}

// watchKinds keeps one watch running for every kind that is served and selected, until ctx ends.
func (t *term) watchKinds(ctx context.Context) {
	w := &watching{term: t, kinds: map[pipeline.GroupResource]*watched{}}
	defer w.wg.Wait()
	delay := soonest
	for {
		delay = min(2*delay, time.Duration(t.rules().cfg.Discovery))
		if !w.look(ctx) {
			delay = max(delay, time.Second)
		}
		t.outbox.retry(ctx, time.Now())
		timer := time.NewTimer(pipeline.Jittered(delay))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-t.newKinds:
			timer.Stop()
			delay = soonest
			wait(ctx, soonest) // signs come in swarms
		case <-timer.C:
		}
	}
}

// look compares what is served with what is watched; it returns false if that could
// not be learned.
func (w *watching) look(ctx context.Context) bool {
	kinds, err := w.term.source.Kinds(ctx)
	if ctx.Err() != nil {
		return false
	}
	var partial *kube.PartialError
	if err != nil && !errors.As(err, &partial) {
		w.term.setProblems(ctx, map[string]string{"*": err.Error()})
		return false
	}
	problems := map[string]string{}
	if partial != nil {
		for gv, err := range partial.Failed {
			group, _, _ := strings.Cut(gv, "/")
			problems[group+"/*"] = err.Error()
		}
	}
	w.term.setProblems(ctx, problems)
	rules := w.term.rules()
	changed := w.rules != rules
	w.served = slices.Concat(kinds, unanswered(w.served, kinds, partial))
	if changed {
		w.rules, w.selector = rules, rules.selector.WithKinds(w.served)
		w.term.outbox.resize(int(rules.cfg.Outbox.MaxBytes))
	} else {
		w.selector.learn(w.served)
	}
	selector := w.selector
	served := map[pipeline.GroupResource]kube.Kind{}
	for _, k := range kinds {
		served[k.GroupResource] = k
	}
	for _, gr := range slices.Collect(maps.Keys(w.kinds)) {
		running := w.kinds[gr]
		k, ok := served[gr]
		signal := selector.Kind(gr).Action != Collect
		switch {
		case !ok && failedIn(partial, gr.Group) && signal == running.signal:
			// Its group did not answer: that says nothing.
		case !ok, running.rules != rules, signal != running.signal, !sameKind(k, running.kind):
			w.end(ctx, gr, !ok && !failedIn(partial, gr.Group))
		}
	}
	if changed {
		w.term.releaseUnselected(ctx, selector) // nothing more comes of them
	}
	for gr, k := range served {
		if w.kinds[gr] != nil {
			continue
		}
		if selector.Kind(gr).Action == Collect {
			w.begin(ctx, k, selector, rules.cleaner)
		} else if slices.Contains(definitions, gr) {
			w.beginSignal(ctx, k)
		}
	}
	return partial == nil
}

func sameKind(a, b kube.Kind) bool {
	return a.Version == b.Version && a.Kind == b.Kind && a.Namespaced == b.Namespaced && a.StatusSubresource == b.StatusSubresource
}

func (w *watching) begin(ctx context.Context, k kube.Kind, s *Selector, c *Cleaner) {
	h := &kindWatch{term: w.term, kind: k, rules: s.rulesOf(k), cleaner: c.rulesOf(k)}
	w.term.outbox.onProgress(k.GroupResource, func(p *progress) { p.watched, p.listed, p.failing = true, false, "" })
	w.term.handlers.set(k.GroupResource, h)
	w.term.log.DebugContext(ctx, "watching kind", telemetry.KeyKind, k.GroupResource.String())
	w.start(ctx, &watched{kind: k}, h.run)
}

// beginSignal watches a kind that is not collected for the signs of new kinds.
func (w *watching) beginSignal(ctx context.Context, k kube.Kind) {
	w.start(ctx, &watched{kind: k, signal: true}, func(ctx context.Context) {
		w.term.source.Watch(ctx, k, kube.WatchOptions{MetadataOnly: true}, signal{w.term, k.GroupResource})
	})
}

func (w *watching) start(ctx context.Context, running *watched, run func(context.Context)) {
	ctx, running.stop = context.WithCancel(ctx)
	running.done, running.rules = make(chan struct{}), w.rules
	w.kinds[running.kind.GroupResource] = running
	w.wg.Go(func() {
		defer close(running.done)
		run(ctx)
	})
}

// end stops a watch and waits for it, so that two never report of one kind.
func (w *watching) end(ctx context.Context, gr pipeline.GroupResource, vanished bool) {
	running := w.kinds[gr]
	running.stop()
	<-running.done
	delete(w.kinds, gr)
	w.term.handlers.set(gr, nil)
	w.term.outbox.onProgress(gr, func(p *progress) { p.watched, p.listed, p.failing = false, false, "" })
	if vanished {
		w.term.log.InfoContext(ctx, "kind is not served any more", telemetry.KeyKind, gr.String())
	}
}

// signal tells of definitions that come and go.
type signal struct {
	term *term
	kind pipeline.GroupResource
}

func (s signal) Observe(kube.Object)           { s.term.noticeKind(s.kind) }
func (s signal) Delete(kube.Object)            { s.term.noticeKind(s.kind) }
func (s signal) Replace([]kube.Object, string) {}
func (s signal) Progress(string)               {}

// noticeKind has a look at the kinds taken soon if an object of kind k defines some.
func (t *term) noticeKind(k pipeline.GroupResource) {
	if !slices.Contains(definitions, k) {
		return
	}
	select {
	case t.newKinds <- struct{}{}:
	default:
	}
}

// releaseUnselected releases what is known of kinds that the configuration does not select any
// more, waiting or written. The watches of those have ended; the rest is left to the watches.
func (t *term) releaseUnselected(ctx context.Context, s *Selector) {
	for _, ref := range t.outbox.known(func(gr pipeline.GroupResource) bool { return s.Kind(gr).Action != Collect }) {
		t.outbox.release(ctx, ref)
	}
}

// unanswered returns those of the former kinds that are not served now because their group
// did not answer.
func unanswered(former, now []kube.Kind, partial *kube.PartialError) []kube.Kind {
	var missing []kube.Kind
	for _, k := range former {
		same := func(o kube.Kind) bool { return o.GroupResource == k.GroupResource }
		if failedIn(partial, k.Group) && !slices.ContainsFunc(now, same) {
			missing = append(missing, k)
		}
	}
	return missing
}

// failedIn reports whether discovery failed for one of the versions of a group.
func failedIn(e *kube.PartialError, group string) bool {
	if e == nil {
		return false
	}
	for gv := range e.Failed {
		if g, _, _ := strings.Cut(gv, "/"); g == group {
			return true
		}
	}
	return false
}
