package control

import (
	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// decider is a Runner whose guard holds deletions back until somebody decides about them.
type decider interface {
	// Approve has the deletions made that are held back now; Discard has their copies kept.
	Approve()
	Discard()
}

// decisions are the values of the annotations that decide about deletions: as wished, and
// as acted on last.
type decisions struct {
	approve, discard    string
	approved, discarded string
}

// wish takes up the annotations of a Replication, and what its status says was acted on.
func (d *decisions) wish(r *v1alpha1.Replication) {
	d.approve, d.discard = r.Annotations[v1alpha1.AnnotationApproveDeletions], r.Annotations[v1alpha1.AnnotationDiscardDeletions]
	if s := r.Status.Deletions; s != nil && d.approved == "" && d.discarded == "" {
		d.approved, d.discarded = s.Approved, s.Discarded
	}
}

// act carries out what is wished and was not yet, once the run knows what is held: before it has
// gone over everything a decision would miss what it means.
func (d *decisions) act(run Runner) {
	by, ok := run.(decider)
	if !ok || run.Snapshot().Stage != StageFollowing {
		return
	}
	if d.discard != d.discarded {
		if d.discarded = d.discard; d.discard != "" {
			by.Discard()
		}
	}
	if d.approve != d.approved {
		if d.approved = d.approve; d.approve != "" {
			by.Approve()
		}
	}
}

// report is what a status says of deletions; nil while there is nothing to say.
func (d *decisions) report(held *apply.HeldDeletions) *v1alpha1.DeletionsStatus {
	if held == nil {
		return nil
	}
	out := v1alpha1.DeletionsStatus{
		Held: int64(held.Held), AfterReset: int64(held.AfterReset), Emptied: int64(held.Emptied), Scopes: held.Scopes,
		Approved: d.approved, Discarded: d.discarded,
		ApprovedThrough: placeOf(held.ApprovedThrough), DiscardedThrough: placeOf(held.DiscardedThrough),
	}
	if out.Held == 0 && out.Approved == "" && out.Discarded == "" && out.ApprovedThrough == nil && out.DiscardedThrough == nil {
		return nil
	}
	return &out
}

// placeOf is a position as a status tells it; nil if there is none.
func placeOf(p pipeline.Position) *v1alpha1.Position {
	if p.IsZero() {
		return nil
	}
	return &v1alpha1.Position{Epoch: p.Epoch, Sequence: int64(p.Seq)} //nolint:gosec // G115: the log's sequences are far below 2^63
}
