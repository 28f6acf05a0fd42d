package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func newKeeper(e Engine) *keeper {
	return &keeper{
		owner: types.NamespacedName{Namespace: "dr", Name: "all"}, engine: e, log: slog.New(slog.DiscardHandler),
		interval: time.Second, wake: func(context.Context) {},
	}
}

// plain is the edition of a Replication that uses no ConfigMaps.
func plain(t *testing.T, repl *v1alpha1.Replication) *edition {
	t.Helper()
	c := &compiler{book: newRulebook(nil, nil), shared: "dr"}
	e, err := c.edition(t.Context(), repl, nil)
	if err != nil || e.set == nil {
		t.Fatalf("rules: %v", err)
	}
	return e
}

// TestPausingCountsFromWhereTheRunStood, not from what the status said last.
func TestPausingCountsFromWhereTheRunStood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		k := newKeeper(s)
		at := func(seq uint64) pipeline.Position { return pipeline.Position{Epoch: "E", Seq: seq} }
		s.show("dr/all", Snapshot{Stage: StageFollowing, Position: at(50)})
		repl := &v1alpha1.Replication{Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}}}
		repl.Status.Position = &v1alpha1.Position{Epoch: "E", Sequence: 20}
		accept := func(want pipeline.Position) {
			t.Helper()
			k.accept(t.Context(), repl, plain(t, repl))
			synctest.Wait()
			runs, running := s.of("dr/all")
			if running != 1 || runs[len(runs)-1].from != want {
				t.Errorf("%d are running, the last from %v; want %v", running, runs[len(runs)-1].from, want)
			}
		}
		accept(at(20))
		repl.Spec.Paused = true
		accept(at(50))
		repl.Spec.Source.Site = "other"
		accept(pipeline.Position{})
		k.stop()
	})
}

// TestCopyingAgainKeepsItsPlace: after a restart old objects are gone over again, which
// makes nothing late.
func TestCopyingAgainKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		k := newKeeper(s)
		s.show("dr/all", Snapshot{
			Stage: StageCopying, Position: pipeline.Position{Epoch: "E", Seq: 3}, Behind: 1000, Lag: 720 * time.Hour, Heard: time.Now(),
		})
		repl := &v1alpha1.Replication{}
		k.accept(t.Context(), repl, plain(t, repl))
		synctest.Wait()
		if snap := k.look(time.Now()).snapshot; snap.Lag != 720*time.Hour {
			t.Errorf("the first copy is %s behind", snap.Lag)
		}
		now := metav1.Now()
		k.written = v1alpha1.ReplicationStatus{
			FirstCopyTime: &now, Lag: &v1alpha1.Lag{Events: 1, Seconds: 2}, Position: &v1alpha1.Position{Epoch: "E", Sequence: 9},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionCaughtUp, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonFollowing}},
		}
		next := nextStatus(k.written, k.look(time.Now()))
		if *next.Lag != *k.written.Lag || *next.Position != *k.written.Position {
			t.Errorf("lag %+v at %+v", next.Lag, next.Position)
		}
		if c := conditionOf(next, v1alpha1.ConditionCaughtUp); c.Status != metav1.ConditionTrue {
			t.Errorf("caught up: %+v", c)
		}
		k.stop()
	})
}

func TestParkedEventNamesTheObject(t *testing.T) {
	next := v1alpha1.ReplicationStatus{
		Counts:    v1alpha1.Counts{Parked: 2},
		LastError: &v1alpha1.LastError{Object: "configmaps shop/busy", Reason: "Transient", Message: "conflict"},
	}
	parked := &v1alpha1.LastError{Object: "apps/deployments shop/web", Reason: "Invalid", Message: "too many"}
	got := transitions(v1alpha1.ReplicationStatus{}, next, parked)
	if len(got) != 1 || got[0].note != "Parked apps/deployments shop/web: Invalid: too many (and 1 more)" {
		t.Errorf("events: %+v", got)
	}
	if got := transitions(v1alpha1.ReplicationStatus{}, next, nil); len(got) != 1 || strings.Contains(got[0].note, "shop/busy") {
		t.Errorf("events while it is not known: %+v", got)
	}
}

// stuckEngine cannot delete within any time.
type stuckEngine struct{ Engine }

func (stuckEngine) DeleteCopies(ctx context.Context, _ types.NamespacedName) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestDeletionIsTriedInBoundedSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reconciler{engine: stuckEngine{newStage()}}
		begin := time.Now()
		late, err := r.deleteCopies(t.Context(), newKeeper(r.engine))
		if took := time.Since(begin); !late || !errors.Is(err, context.DeadlineExceeded) || took > time.Minute {
			t.Errorf("after %s: late %v, %v", took, late, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if late, err := r.deleteCopies(ctx, newKeeper(r.engine)); late || err == nil {
			t.Errorf("shut down: late %v, %v", late, err)
		}
	})
}
