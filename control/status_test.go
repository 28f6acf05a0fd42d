package control

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

var (
	noon       = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	configmaps = pipeline.GroupResource{Resource: "configmaps"}
	apps       = pipeline.GroupResource{Group: "apps", Resource: "deployments"}
)

func at(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

// following is the snapshot of a run with nothing to do.
func following() *Snapshot {
	return &Snapshot{
		Stage: StageFollowing, Position: pipeline.Position{Epoch: "E", Seq: 9}, Heard: at(0),
		Kinds: map[pipeline.GroupResource]v1alpha1.Counts{configmaps: {Synced: 3}, apps: {Synced: 1}},
	}
}

// brief is a status in one line of words: phase, then the reasons of the
// conditions, true ones with a plus.
func brief(s v1alpha1.ReplicationStatus) string {
	text := string(s.Phase)
	for _, kind := range []string{
		v1alpha1.ConditionReady, v1alpha1.ConditionSourceAvailable, v1alpha1.ConditionCaughtUp, v1alpha1.ConditionDegraded,
	} {
		c := conditionOf(s, kind)
		sign := map[metav1.ConditionStatus]string{metav1.ConditionTrue: "+", metav1.ConditionFalse: "-", "": "?"}[c.Status]
		text += " " + sign + c.Reason
	}
	return text
}

// TestLife follows one status through what may happen to a Replication.
func TestLife(t *testing.T) {
	var status v1alpha1.ReplicationStatus
	boom := errors.New("connection refused")
	steps := []struct {
		reason string
		s      situation
		want   string
		counts v1alpha1.Counts
		lag    v1alpha1.Lag
		events []string
	}{
		{
			"before the run has looked",
			situation{snapshot: &Snapshot{}, now: at(0)},
			"Pending -Starting ? ? ?",
			v1alpha1.Counts{},
			v1alpha1.Lag{},
			nil,
		},
		{
			"an unknown site is said at once",
			situation{snapshot: &Snapshot{Err: fmt.Errorf("read: %w", pipeline.ErrNoHistory)}, stuck: at(1), now: at(1)},
			"Pending -UnknownSite -UnknownSite ? ?",
			v1alpha1.Counts{},
			v1alpha1.Lag{},
			[]string{"UnknownSite"},
		},
		{
			"still unknown: nothing happened",
			situation{snapshot: &Snapshot{Err: pipeline.ErrNoHistory}, stuck: at(1), now: at(100)},
			"Pending -UnknownSite -UnknownSite ? ?",
			v1alpha1.Counts{},
			v1alpha1.Lag{},
			nil,
		},
		{
			"the first copy shows its progress",
			situation{snapshot: &Snapshot{
				Stage: StageCopying, Heard: at(101), Behind: 7, Lag: 10 * time.Second,
				Kinds: map[pipeline.GroupResource]v1alpha1.Counts{configmaps: {Synced: 2, Pending: 7}},
			}, now: at(101)},
			"Copying -Copying +SourceHeard -Copying -AllApplied",
			v1alpha1.Counts{Synced: 2, Pending: 7},
			v1alpha1.Lag{Events: 7, Seconds: 10},
			[]string{"SourceBack"},
		},
		{
			"complete",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(0), Lag: 102 * time.Second, Kinds: following().Kinds}, now: at(102)},
			"Replicating +Replicating -SourceSilent -Behind -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{Seconds: 102},
			[]string{"FirstCopyComplete", "SourceLost"},
		},
		{
			"heard of again",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(110), Kinds: following().Kinds}, now: at(111)},
			"Replicating +Replicating +SourceHeard +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			[]string{"SourceBack"},
		},
		{
			"a short failure of the log is no condition",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(110), Err: boom, Kinds: following().Kinds}, stuck: at(112), now: at(115)},
			"Replicating +Replicating +SourceHeard +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			nil,
		},
		{
			"a long one is",
			situation{snapshot: &Snapshot{Err: boom}, stuck: at(112), now: at(130)},
			"Pending -RunFailing -LogUnavailable +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			[]string{"RunFailing", "SourceLost"},
		},
		{
			"after a restart the state from before stands until the run knows better",
			situation{snapshot: &Snapshot{}, now: at(140)},
			"Replicating +Replicating -LogUnavailable +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			nil,
		},
		{
			"going over everything again is no first copy",
			situation{snapshot: &Snapshot{
				Stage: StageCopying, Heard: at(141), Kinds: map[pipeline.GroupResource]v1alpha1.Counts{configmaps: {Synced: 1}},
			}, now: at(141)},
			"Replicating +Replicating +SourceHeard +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			[]string{"SourceBack"},
		},
		{
			"a short failure of an object is no condition",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(150), Behind: 1, Lag: 2 * time.Second, Kinds: map[pipeline.GroupResource]v1alpha1.Counts{apps: {Failed: 1}}}, failing: at(149), now: at(150)},
			"Replicating +Replicating +SourceHeard +Following -AllApplied",
			v1alpha1.Counts{Failed: 1},
			v1alpha1.Lag{Events: 1, Seconds: 2},
			nil,
		},
		{
			"a long one is, but who was caught up stays so for a minute",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(170), Behind: 1, Lag: 22 * time.Second, Kinds: map[pipeline.GroupResource]v1alpha1.Counts{apps: {Failed: 1}}}, failing: at(149), now: at(170)},
			"Replicating +Replicating +SourceHeard +Following +ObjectsFailing",
			v1alpha1.Counts{Failed: 1},
			v1alpha1.Lag{Events: 1, Seconds: 22},
			nil,
		},
		{
			"then is behind",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(208), Behind: 1, Lag: 60 * time.Second, Kinds: map[pipeline.GroupResource]v1alpha1.Counts{apps: {Failed: 1}}}, failing: at(149), now: at(208)},
			"Replicating +Replicating +SourceHeard -Behind +ObjectsFailing",
			v1alpha1.Counts{Failed: 1},
			v1alpha1.Lag{Events: 1, Seconds: 60},
			nil,
		},
		{
			"parked",
			situation{snapshot: &Snapshot{
				Stage: StageFollowing, Heard: at(210), Kinds: map[pipeline.GroupResource]v1alpha1.Counts{apps: {Parked: 1}},
				LastError: &v1alpha1.LastError{Object: "apps/deployments shop/web", Reason: "Invalid", Message: "spec.replicas: too many"},
			}, now: at(210)},
			"Replicating +Replicating +SourceHeard +Following +ObjectsParked",
			v1alpha1.Counts{Parked: 1},
			v1alpha1.Lag{},
			[]string{"ObjectParked"},
		},
		{
			"healed",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(220), Kinds: following().Kinds}, now: at(220)},
			"Replicating +Replicating +SourceHeard +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			[]string{"ParkedHealed"},
		},
		{
			"the source cannot collect a kind",
			situation{snapshot: &Snapshot{Stage: StageFollowing, Heard: at(230), Kinds: following().Kinds, Failing: map[string]string{"secrets": "forbidden"}}, now: at(230)},
			"Replicating +Replicating +SourcePartial +Following -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{},
			nil,
		},
		{
			"paused",
			situation{paused: true, snapshot: &Snapshot{Stage: StagePaused, Heard: at(240), Behind: 5, Lag: 1 * time.Second}, now: at(240)},
			"Paused -Paused +SourceHeard -Paused -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{Events: 5, Seconds: 1},
			[]string{"Paused"},
		},
		{
			"refused",
			situation{refused: &refusal{v1alpha1.ReasonInvalidSpec, "spec.kinds: no"}, now: at(250)},
			"Failed -InvalidSpec +SourceHeard -Paused -AllApplied",
			v1alpha1.Counts{Synced: 4},
			v1alpha1.Lag{Events: 5, Seconds: 1},
			[]string{"Resumed", "InvalidSpec"},
		},
		{
			"other objects are selected: a new first copy",
			situation{anew: true, snapshot: &Snapshot{Stage: StageCopying, Heard: at(260)}, now: at(260)},
			"Copying -Copying +SourceHeard -Copying -AllApplied",
			v1alpha1.Counts{},
			v1alpha1.Lag{},
			nil,
		},
		{
			"deleting",
			situation{deleting: true, now: at(270)},
			"Deleting -Deleting +SourceHeard -Copying -AllApplied",
			v1alpha1.Counts{},
			v1alpha1.Lag{},
			nil,
		},
	}
	for i, step := range steps {
		step.s.generation = int64(i)
		next := nextStatus(status, step.s)
		var events []string
		var parked *v1alpha1.LastError
		if step.s.snapshot != nil {
			parked = step.s.snapshot.LastParked
		}
		for _, tr := range transitions(status, next, parked) {
			events = append(events, tr.reason)
		}
		var gotLag v1alpha1.Lag
		if next.Lag != nil {
			gotLag = *next.Lag
		}
		type told struct {
			Brief  string
			Counts v1alpha1.Counts
			Lag    v1alpha1.Lag
			Events []string
		}
		want, got := told{step.want, step.counts, step.lag, step.events}, told{brief(next), next.Counts, gotLag, events}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", step.reason, diff)
		}
		if next.ObservedGeneration != int64(i) {
			t.Errorf("%s: observed generation %d, want %d", step.reason, next.ObservedGeneration, i)
		}
		if again := nextStatus(next, step.s); worthWriting(next, again, 0) && !step.s.anew {
			t.Errorf("%s: the same situation gives another status\n%s", step.reason, cmp.Diff(next, again))
		}
		status = next
	}
}

func TestOldestMoment(t *testing.T) {
	oldest := at(1).Add(time.Millisecond)
	first := nextStatus(v1alpha1.ReplicationStatus{}, situation{snapshot: following(), oldest: oldest, now: at(50)})
	if first.OldestMoment == nil || !first.OldestMoment.Time.Equal(at(1).Add(time.Second)) {
		t.Fatalf("the oldest moment is %v, want the whole second after %v", first.OldestMoment, oldest)
	}
	if unknown := nextStatus(first, situation{snapshot: following(), now: at(50)}); !unknown.OldestMoment.Equal(first.OldestMoment) {
		t.Errorf("while it is not known it is %v", unknown.OldestMoment)
	}
	same := nextStatus(first, situation{snapshot: following(), oldest: oldest, now: at(50)})
	later := nextStatus(first, situation{snapshot: following(), oldest: oldest.Add(time.Hour), now: at(50)})
	if worthWriting(first, same, 0) || !worthWriting(first, later, 0) {
		t.Errorf("it is written for nothing, or not when it moves: %v, %v", same.OldestMoment, later.OldestMoment)
	}
}

func TestFirstCopyTimeIsKept(t *testing.T) {
	first := nextStatus(v1alpha1.ReplicationStatus{}, situation{snapshot: following(), now: at(1)})
	later := nextStatus(first, situation{snapshot: following(), now: at(50)})
	if !later.FirstCopyTime.Time.Equal(at(1)) {
		t.Errorf("the time of the first copy is %v, want %v", later.FirstCopyTime, at(1))
	}
	for i, c := range later.Conditions {
		if want := first.Conditions[i].LastTransitionTime; c.Reason == first.Conditions[i].Reason && !c.LastTransitionTime.Equal(&want) {
			t.Errorf("condition %s changed its time without changing", c.Type)
		}
	}
}

func TestKindsAreSorted(t *testing.T) {
	s := nextStatus(v1alpha1.ReplicationStatus{}, situation{snapshot: &Snapshot{
		Stage: StageFollowing,
		Kinds: map[pipeline.GroupResource]v1alpha1.Counts{configmaps: {Synced: 3, Parked: 1}, apps: {Failed: 1}, {Resource: "secrets"}: {}},
	}, now: at(0)})
	want := []v1alpha1.KindCounts{{Kind: "apps/deployments", Counts: v1alpha1.Counts{Failed: 1}}, {Kind: "configmaps", Counts: v1alpha1.Counts{Synced: 3, Parked: 1}}}
	if diff := cmp.Diff(want, s.Kinds); diff != "" {
		t.Errorf("kinds (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(v1alpha1.Counts{Synced: 3, Failed: 1, Parked: 1}, s.Counts); diff != "" {
		t.Errorf("sum (-want +got)\n%s", diff)
	}
}

func TestWorthWriting(t *testing.T) {
	base := func() v1alpha1.ReplicationStatus {
		return nextStatus(v1alpha1.ReplicationStatus{}, situation{snapshot: following(), now: at(0)})
	}
	cases := map[string]struct {
		reason string
		change func(s *v1alpha1.ReplicationStatus)
		ago    time.Duration
		want   bool
	}{
		"Nothing":       {"no change", func(*v1alpha1.ReplicationStatus) {}, time.Hour, false},
		"Heartbeat":     {"a heartbeat moves the position only", func(s *v1alpha1.ReplicationStatus) { s.Position.Sequence++ }, time.Minute, false},
		"PositionInEnd": {"now and then the position is brought up to date", func(s *v1alpha1.ReplicationStatus) { s.Position.Sequence += 100 }, positionEvery, true},
		"Count":         {"a count", func(s *v1alpha1.ReplicationStatus) { s.Counts.Synced++ }, 0, true},
		"Phase":         {"the phase", func(s *v1alpha1.ReplicationStatus) { s.Phase = v1alpha1.PhasePaused }, 0, true},
		"Generation":    {"a spec was seen", func(s *v1alpha1.ReplicationStatus) { s.ObservedGeneration++ }, 0, true},
		"LagAppears":    {"a lag appears", func(s *v1alpha1.ReplicationStatus) { s.Lag = &v1alpha1.Lag{Events: 1, Seconds: 1} }, 0, true},
		"Passing":       {"a heartbeat is on its way", func(s *v1alpha1.ReplicationStatus) { s.Lag = &v1alpha1.Lag{Events: 1} }, 0, false},
		"LagGone":       {"a lag is not known any more", func(s *v1alpha1.ReplicationStatus) { s.Lag = nil }, 0, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			next := base()
			tc.change(&next)
			if got := worthWriting(base(), next, tc.ago); got != tc.want {
				t.Errorf("%s: got %v", tc.reason, got)
			}
		})
	}
	for _, tc := range []struct {
		a, b int64
		want bool
	}{{0, 0, false}, {0, 1, true}, {1, 0, true}, {100, 101, false}, {100, 111, true}, {5, 6, true}, {3600, 3700, false}} {
		if got := lagMoved(&v1alpha1.Lag{Seconds: tc.a}, &v1alpha1.Lag{Seconds: tc.b}); got != tc.want {
			t.Errorf("lag from %d to %d: got %v", tc.a, tc.b, got)
		}
	}
}

func TestHeldCondition(t *testing.T) {
	for name, c := range map[string]struct {
		deletions *v1alpha1.DeletionsStatus
		reason    string
		says      []string
	}{
		"None":    {nil, v1alpha1.ReasonNoneHeld, nil},
		"TooMany": {&v1alpha1.DeletionsStatus{Held: 5}, v1alpha1.ReasonTooMany, []string{"5 deletions", "too many"}},
		"Reset":   {&v1alpha1.DeletionsStatus{Held: 5, AfterReset: 5}, v1alpha1.ReasonSourceReset, []string{"restored"}},
		"Emptied": {&v1alpha1.DeletionsStatus{Held: 5, Emptied: 5}, v1alpha1.ReasonSourceEmptied, []string{"lists nothing any more"}},
		"All": {
			&v1alpha1.DeletionsStatus{Held: 5, AfterReset: 2, Emptied: 1}, v1alpha1.ReasonTooMany,
			[]string{"too many", "2 of them because they are too many", "2 of them because the source was restored", "1 of them because the source lists nothing"},
		},
		"BothButNotTooMany": {
			&v1alpha1.DeletionsStatus{Held: 3, AfterReset: 2, Emptied: 1}, v1alpha1.ReasonSourceReset,
			[]string{": 2 of them", "1 of them because the source lists nothing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := heldCondition(c.deletions)
			if got.Reason != c.reason {
				t.Errorf("reason %s, want %s", got.Reason, c.reason)
			}
			for _, want := range c.says {
				if !strings.Contains(got.Message, want) {
					t.Errorf("%q does not say %q", got.Message, want)
				}
			}
		})
	}
}
