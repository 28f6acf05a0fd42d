package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/tidwall/gjson"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// establishedTimeout is how long an attempt waits for the server before it leaves the rest
// to a retry.
const establishedTimeout = 10 * time.Second

// write applies, and handles what the server says to it.
func (a *Applier) write(ctx context.Context, t target, to binding) (pipeline.Result, error) {
	created, err := a.send(ctx, t, to)
	switch {
	case err == nil && created:
		return pipeline.ResultCreated, nil
	case err == nil:
		return pipeline.ResultConfigured, nil
	case kube.IsConflict(err) && to != binding{}:
		if err := a.refresh(ctx, t); err != nil {
			return "", err
		}
		return "", errAgain
	case pipeline.ClassOf(err) == pipeline.Immutable && to.uid != "":
		return a.replace(ctx, t, to.uid, err)
	}
	return "", fmt.Errorf("apply %s: %w", t.record.Ref, err)
}

// send makes the one request of a write and records its outcome.
func (a *Applier) send(ctx context.Context, t target, to binding) (created bool, err error) {
	if !t.shelf.begin(t.key) {
		return false, errors.New("another Replication is writing this object")
	}
	origin := t.origin()
	kind := t.shelf.kind
	// The body is of the version that the source prefers, which may not be the destination's.
	if v := gjson.GetBytes(t.desired.body, "apiVersion").Str; v != "" {
		kind.Version = v[strings.LastIndexByte(v, '/')+1:]
	}
	m, created, err := a.client.Apply(ctx, kind, t.key.namespace, t.key.name, t.desired.marked(origin, to))
	if err != nil {
		t.shelf.abort(t.key)
		return false, err
	}
	t.shelf.wrote(t.key, m, origin, t.desired.digest, a.policy.mark)
	if t.record.Ref.GroupResource() == crds {
		return created, a.awaitEstablished(ctx, t)
	}
	return created, nil
}

// replace does what the policy says about a field that cannot change.
func (a *Applier) replace(ctx context.Context, t target, uid string, cause error) (pipeline.Result, error) {
	switch immutableAction(a.immutable, t.record.Ref.GroupResource()) {
	case v1alpha1.ImmutableSkip:
		a.log.Debug("left as it is because a field cannot change",
			telemetry.KeyKind, t.record.Ref.GroupResource().String(), telemetry.KeyNamespace, t.key.namespace, telemetry.KeyName, t.key.name)
		return pipeline.ResultSkipped, nil
	case v1alpha1.ImmutablePark:
		return "", fmt.Errorf("apply %s: %w", t.record.Ref, cause)
	case v1alpha1.ImmutableRecreate:
	}
	if res, err := a.remove(ctx, t, uid); err != nil {
		return res, err
	}
	if err := a.departed(ctx, t, uid); err != nil {
		return "", err
	}
	if _, err := a.send(ctx, t, binding{fresh: true}); err != nil {
		return "", fmt.Errorf("recreate %s: %w", t.record.Ref, err)
	}
	return pipeline.ResultRecreated, nil
}

// immutableAction is what the policy says of a kind.
func immutableAction(p v1alpha1.ImmutablePolicy, k pipeline.GroupResource) v1alpha1.ImmutableAction {
	if act, ok := p.Kinds[k.String()]; ok {
		return act
	}
	switch {
	case k == claims || k == volumes || k == crds || isNamespace(k):
		return v1alpha1.ImmutablePark
	case p.Default == "":
		return v1alpha1.ImmutableRecreate
	}
	return p.Default
}

// remove deletes the copy that has the UID.
func (a *Applier) remove(ctx context.Context, t target, uid string) (pipeline.Result, error) {
	gr := t.record.Ref.GroupResource()
	if isNamespace(gr) || gr == crds {
		others, err := a.inventory.outsiders(ctx, gr, t.key.name, a.policy.mark)
		if err != nil {
			return "", fmt.Errorf("delete %s: %w", t.record.Ref, err)
		}
		switch names := strings.Join(others.named(), ", "); {
		case len(others.strangers) > 0:
			return "", pipeline.WithClass(pipeline.Foreign,
				fmt.Errorf("delete %s: that would delete objects that are not copies of this Replication (%s): move or delete them", t.record.Ref, names))
		case len(others.copies) > 0: // their Replications will delete them, or take the namespace over
			return "", pipeline.WithClass(pipeline.Dependency,
				fmt.Errorf("delete %s: other Replications still have copies there (%s)", t.record.Ref, names))
		}
	}
	t.shelf.ending(t.key, uid)
	err := a.client.Delete(ctx, t.shelf.kind, t.key.namespace, t.key.name, uid)
	if err == nil {
		t.shelf.deleted(t.key, uid)
		if gr == crds {
			a.client.ForgetKinds()
		}
		return pipeline.ResultDeleted, nil
	}
	t.shelf.spared(t.key, uid)
	if kube.IsConflict(err) {
		if err := a.refresh(ctx, t); err != nil {
			return "", err
		}
		return "", errAgain
	}
	return "", fmt.Errorf("delete %s: %w", t.record.Ref, err)
}

// refresh reads the copy, since it is not what the inventory says.
func (a *Applier) refresh(ctx context.Context, t target) error {
	o, err := a.client.Get(ctx, t.shelf.kind, t.key.namespace, t.key.name)
	switch {
	case err == nil:
		t.shelf.refresh(t.key, &o)
	case kube.IsNotFound(err):
		t.shelf.refresh(t.key, nil)
	default:
		return fmt.Errorf("apply %s: %w", t.record.Ref, err)
	}
	return nil
}

// departed asks whether an object that is being deleted is gone. If not, it is an
// error of class Dependency: a retry will find it gone, or its end is told as drift.
func (a *Applier) departed(ctx context.Context, t target, uid string) error {
	if err := a.refresh(ctx, t); err != nil {
		return err
	}
	if t.shelf.lingers(t.key, uid) {
		return pipeline.WithClass(pipeline.Dependency,
			fmt.Errorf("apply %s: the former copy is still being deleted", t.record.Ref))
	}
	return nil
}

// awaitEstablished waits until the server serves a definition's kind, so that its objects can
// follow at once.
func (a *Applier) awaitEstablished(ctx context.Context, t target) error {
	defer a.client.ForgetKinds()
	ctx, cancel := context.WithTimeout(ctx, establishedTimeout)
	defer cancel()
	errPending := pipeline.WithClass(pipeline.Dependency, errors.New("the definition is not established yet"))
	delay := backoff.NewExponentialBackOff(backoff.WithInitialInterval(20*time.Millisecond), backoff.WithMaxInterval(time.Second))
	return backoff.Retry(func() error {
		o, err := a.client.Get(ctx, t.shelf.kind, t.key.namespace, t.key.name)
		if err != nil {
			return backoff.Permanent(err)
		}
		if gjson.GetBytes(o.Raw, `status.conditions.#(type=="Established").status`).Str != "True" {
			return errPending
		}
		return nil
	}, backoff.WithContext(delay, ctx))
}
