package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// UseRules replaces the rules of stage source, which change objects before they
// are published; nil is no rules. It may be called at any time, also while Run runs:
// what waits in the outbox is read again and goes through the new rules, every
// selected kind is listed anew, and what comes out differently is published. Only the
// batch that is being written at the moment still goes out by the former ones.
//
// A rule that fails on an object keeps it at home: nothing of it is published until
// the rule or the object has changed (onError: pass says otherwise). One that drops
// an object releases it: copies stay as they are, since a rule is no evidence of a deletion.
func (c *Collector) UseRules(set *transform.Set) {
	c.configuring.Lock()
	defer c.configuring.Unlock()
	next := *c.current.Load()
	next.redaction = set
	c.replace(&next)
}

// Errors of rules at the source, beside those of the engine.
var (
	errSeveral = errors.New("a rule of stage source made several objects of one: let rules of the destination do that")
	errRenamed = errors.New("a rule of stage source gave the object another name or namespace: let rules of the destination do that")
)

// redact runs the rules of stage source over a cleaned object. It returns what may be
// published, and what to do with it: Collect, Skip (release it) or Freeze (leave what
// was published as it is). On an error nothing may be published.
func (w *kindWatch) redact(ctx context.Context, set *transform.Set, ref pipeline.Ref, body []byte) ([]byte, Action, error) {
	if set == nil {
		return body, Collect, nil
	}
	object := transform.Object{Kind: w.kind.GroupResource, Body: body}
	result, err := set.Run(ctx, transform.Env{SourceSite: w.term.site}, object)
	switch {
	case err != nil:
		return nil, Freeze, err
	case result.Skipped:
		return nil, Freeze, nil
	case result.Dropped():
		return nil, Skip, nil
	case len(result.Objects) > 1:
		return nil, Freeze, pipeline.WithClass(pipeline.Invalid, errSeveral)
	}
	out := result.Objects[0]
	if to := transform.TargetOf(out); to.Namespace != ref.Namespace || to.Name != ref.Name {
		return nil, Freeze, pipeline.WithClass(pipeline.Invalid, errRenamed)
	}
	return out.Body, Collect, nil
}

// withheld notes an object that rules keep from being published. What heartbeats
// say of it names the rule and no more: the text of an error may be made by the rule of
// the very values that are not to leave.
func (t *term) withheld(ctx context.Context, ref pipeline.Ref, s *sighting, err error) {
	reason := "a rule of stage source fails"
	failure, ok := errors.AsType[*transform.Error](err)
	if ok {
		reason = fmt.Sprintf("%s (%s)", failure.Rule, failure.Reason)
	}
	r := refusal{reason: "not published: " + objectName(ref) + ": " + reason}
	if ok && failure.Reason == transform.TimedOut {
		// Of all failures this one may be the machine's.
		r.again = &sighting{presence: present, uid: s.uid, version: s.version, observed: s.observed, apiVersion: s.apiVersion, kind: s.kind}
	}
	if !t.outbox.refuse(ref, r) {
		return
	}
	t.log.ErrorContext(ctx, "rule keeps object from being published", telemetry.KeyKind, ref.GroupResource().String(),
		telemetry.KeyNamespace, ref.Namespace, telemetry.KeyName, ref.Name, telemetry.KeyVersion, s.version, telemetry.KeyError, err)
	t.beat()
}

// The delays after which an object is tried again whose rules took too long.
const (
	firstRetry = 30 * time.Second
	lastRetry  = time.Hour
)

// retry has objects read again that were refused for a reason that may have passed.
func (o *outbox) retry(ctx context.Context, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref, r := range o.refused {
		if r.again == nil || now.Before(r.due) {
			continue
		}
		l := o.lanes[ref]
		if l != nil && l.next != nil {
			continue // something newer comes anyway
		}
		again := *r.again
		o.enqueue(ctx, ref, l, &again)
		r.due = now.Add(lastRetry) // until it fails again, or not
		o.refused[ref] = r
	}
}

// stale says that a body was made by other rules than those in force: it has to be read
// again, and must not be published.
func (o *outbox) stale(s *sighting) bool {
	return s.presence == present && s.body != nil && o.rules != nil && s.redaction != o.rules()
}
