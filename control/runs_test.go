package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// ended is a Replay that ended that many minutes after midnight.
func ended(name string, phase v1alpha1.ReplayPhase, minutes int) *v1alpha1.Replay {
	at := metav1.NewTime(midnight.Add(time.Duration(minutes) * time.Minute))
	begin := metav1.NewTime(at.Add(-30 * time.Second))
	return &v1alpha1.Replay{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: begin},
		Status: v1alpha1.ReplayStatus{
			Phase: phase, StartTime: &begin, CompletionTime: &at, Counts: v1alpha1.ReplayCounts{Created: 2, Total: 2},
			Position: &v1alpha1.Position{Epoch: "E", Sequence: int64(minutes)},
		},
	}
}

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestDecideRuns(t *testing.T) {
	at := func(minutes int) time.Time { return midnight.Add(time.Duration(minutes) * time.Minute) }
	hourly := v1alpha1.ReplicationSpec{Mode: v1alpha1.ModeScheduled, Schedule: "0 * * * *"}
	manual := v1alpha1.ReplicationSpec{Mode: v1alpha1.ModeManual}
	with := func(s v1alpha1.ReplicationSpec, change func(*v1alpha1.ReplicationSpec)) v1alpha1.ReplicationSpec {
		change(&s)
		return s
	}
	running := &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Name: "r-old"}, Status: v1alpha1.ReplayStatus{Phase: v1alpha1.ReplayRunning}}
	cases := map[string]struct {
		spec   v1alpha1.ReplicationSpec
		ask    string
		status v1alpha1.ReplicationStatus
		runs   []*v1alpha1.Replay
		now    int
		want   string
		reason string
	}{
		"Fresh":         {hourly, "", v1alpha1.ReplicationStatus{}, nil, 30, "Idle Idle, next 01:00, look 01:00", "what was before its creation is not missed"},
		"Due":           {hourly, "", v1alpha1.ReplicationStatus{}, nil, 60, "create r-29453820, Running Running, next 02:00, look 02:00", "the name follows from the moment"},
		"Overlapping":   {hourly, "", v1alpha1.ReplicationStatus{}, []*v1alpha1.Replay{running}, 60, "Running Running, next 02:00", "its end is an event"},
		"Suspended":     {with(hourly, func(s *v1alpha1.ReplicationSpec) { s.Suspend = true }), "", v1alpha1.ReplicationStatus{}, nil, 60, "Idle Suspended", "as a CronJob"},
		"SuspendedAsk":  {with(hourly, func(s *v1alpha1.ReplicationSpec) { s.Suspend = true }), "x", v1alpha1.ReplicationStatus{}, nil, 60, "create r-now-2d711642b7, Running Running, acknowledged x", "asking for it is not the schedule"},
		"Paused":        {with(hourly, func(s *v1alpha1.ReplicationSpec) { s.Paused = true }), "x", v1alpha1.ReplicationStatus{}, nil, 60, "Paused Paused", "nothing begins at all"},
		"ManualIdle":    {manual, "", v1alpha1.ReplicationStatus{}, nil, 60, "Idle Idle", "nobody asks"},
		"ManualAsked":   {manual, "x", v1alpha1.ReplicationStatus{}, nil, 60, "create r-now-2d711642b7, Running Running, acknowledged x", "a new value"},
		"ManualAgain":   {manual, "x", v1alpha1.ReplicationStatus{LastSyncNow: "x"}, nil, 60, "Idle Idle, acknowledged x", "a value counts once"},
		"AskedWhileOne": {manual, "y", v1alpha1.ReplicationStatus{LastSyncNow: "x"}, []*v1alpha1.Replay{running}, 60, "Running Running, acknowledged x", "it waits for the end of the other"},
		"AskedWhenDue":  {hourly, "x", v1alpha1.ReplicationStatus{}, nil, 60, "create r-now-2d711642b7, Running Running, next 02:00, acknowledged x", "one at a time"},
		"History": {
			manual, "",
			v1alpha1.ReplicationStatus{},
			[]*v1alpha1.Replay{
				ended("a", v1alpha1.ReplayComplete, 1), ended("b", v1alpha1.ReplayFailed, 2), ended("c", v1alpha1.ReplayComplete, 3),
				ended("d", v1alpha1.ReplayComplete, 4), ended("e", v1alpha1.ReplayFailed, 5), ended("f", v1alpha1.ReplayComplete, 6),
			},
			60, "Idle Idle, last f, position 6, remove b a", "three good ones and one bad one stay",
		},
		"Failed": {
			manual, "",
			v1alpha1.ReplicationStatus{},
			[]*v1alpha1.Replay{ended("a", v1alpha1.ReplayComplete, 1), ended("b", v1alpha1.ReplayFailed, 2)},
			60, "Idle Idle, last b", "the position is that of the last that was completed",
		},
		"Missed": {
			hourly, "",
			v1alpha1.ReplicationStatus{Runs: &v1alpha1.RunsStatus{Through: &metav1.Time{Time: at(60)}}},
			nil,
			5*60 + 10, "create r-29454060, Running Running, next 06:00, missed 3, look 06:00", "one is made up for",
		},
		"TooLate": {
			with(hourly, func(s *v1alpha1.ReplicationSpec) { n := int64(300); s.StartingDeadlineSeconds = &n }), "",
			v1alpha1.ReplicationStatus{Runs: &v1alpha1.RunsStatus{Through: &metav1.Time{Time: at(60)}}},
			nil,
			5*60 + 10, "Idle Idle, next 06:00, missed 4, look 06:00", "none is made up for",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			repl := &v1alpha1.Replication{ObjectMeta: metav1.ObjectMeta{Name: "r", CreationTimestamp: metav1.NewTime(at(0))}, Spec: c.spec, Status: c.status}
			if c.ask != "" {
				repl.Annotations = map[string]string{v1alpha1.AnnotationSyncNow: c.ask}
			}
			schedule, err := scheduleOf(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			got := decideRuns(repl, schedule, c.runs, at(c.now))
			if diff := cmp.Diff(c.want, inWords(got)); diff != "" {
				t.Errorf("%s (-want +got)\n%s", c.reason, diff)
			}
		})
	}
}

// inWords tells what is to be done in one line.
func inWords(t turn) string {
	var words []string
	if t.create != nil {
		words = append(words, "create "+t.create.Name)
	}
	words = append(words, string(t.next.Phase)+" "+reasonOf(t.next, v1alpha1.ConditionReady))
	if next := t.next.Runs.NextTime; next != nil {
		words = append(words, "next "+next.UTC().Format("15:04"))
	}
	if last := t.next.Runs.Last; last != nil {
		words = append(words, "last "+last.Replay)
	}
	if p := t.next.Position; p != nil && t.next.Runs.Last.Phase == v1alpha1.ReplayComplete {
		words = append(words, fmt.Sprint("position ", p.Sequence))
	}
	if n := t.next.Runs.Missed; n > 0 {
		words = append(words, fmt.Sprint("missed ", n))
	}
	if v := t.next.LastSyncNow; v != "" {
		words = append(words, "acknowledged "+v)
	}
	if len(t.remove) > 0 {
		var names []string
		for _, r := range t.remove {
			names = append(names, r.Name)
		}
		words = append(words, "remove "+strings.Join(names, " "))
	}
	if !t.look.IsZero() {
		words = append(words, "look "+t.look.UTC().Format("15:04"))
	}
	return strings.Join(words, ", ")
}

// TestManualRuns asks for runs: nothing reaches the destination in between.
func TestManualRuns(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	h.append(h.source(ns), h.settings(ns, "a", "1"), h.settings(ns, "b", "1"))
	spec := fmt.Sprintf("{source: {site: prod}, namespaces: {names: [%s]}, mode: Manual}", ns)
	h.make("Replication", "all", spec)
	h.becomes("all", "Idle +Idle")
	if got := h.values(ns); got != nil {
		t.Fatalf("nobody asked, and there is %v", got)
	}
	h.make("Replication", "all", spec, "dr-syncer.io/sync-now: one")
	h.eventually("the first run is made", func() error { return differ(map[string]string{"a": "1", "b": "1"}, h.values(ns)) })
	h.eventually("it is told", func() error {
		s := h.get("all").Status
		if s.LastSyncNow != "one" || s.Runs == nil || s.Runs.Last == nil || s.Runs.Last.Counts.Created != 3 || s.Position == nil || s.Phase != v1alpha1.PhaseIdle {
			return fmt.Errorf("%+v %+v", s, s.Runs)
		}
		return nil
	})
	h.append(h.settings(ns, "a", "2"), h.gone(h.settings(ns, "b", "")))
	<-time.After(2 * time.Second) // that nothing happens takes a while to see
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "1"}, h.values(ns)); diff != "" {
		t.Errorf("between two runs (-want +got)\n%s", diff)
	}
	h.make("Replication", "all", spec, "dr-syncer.io/sync-now: two")
	h.eventually("the second run is made", func() error { return differ(map[string]string{"a": "2"}, h.values(ns)) })
	h.eventually("events", func() error {
		return differ([]string{"RunCreated", "RunComplete", "RunCreated", "RunComplete"}, runEvents(h.events("all")))
	})
	owned := h.kubectl("get", "replays", "-n", h.namespace, "-l", v1alpha1.LabelRunOf+"=all", "-o", "jsonpath={.items[*].metadata.ownerReferences[0].name}")
	if owned != "all all" {
		t.Errorf("the Replays are owned by %q", owned)
	}
}

// runEvents leaves out what is not about runs, and that they come again.
func runEvents(all []string) []string {
	var out []string
	for _, e := range all {
		if again, ok := strings.CutSuffix(e, " again: 2"); ok {
			e = again
		}
		if strings.HasPrefix(e, "Run") {
			out = append(out, e)
		}
	}
	return out
}

// TestSyncNowOfAContinuousReplication has everything gone over again.
func TestSyncNowOfAContinuousReplication(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(4))
	r.becomes("a", calm)
	r.kubectl("annotate", "replication", "-n", r.namespace, "a", v1alpha1.AnnotationSyncNow+"=please")
	r.eventually("another run", func() error {
		if runs, running := r.stage.of(owner); len(runs) != 2 || running != 1 {
			return fmt.Errorf("%d runs were made, %d run", len(runs), running)
		}
		if v := r.get("a").Status.LastSyncNow; v != "please" {
			return fmt.Errorf("acknowledged: %q", v)
		}
		return nil
	})
	r.becomes("a", calm)
}

// TestSchedule waits for a schedule of every minute, once, end to end.
func TestSchedule(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	h.append(h.source(ns), h.settings(ns, "a", "1"))
	begun := time.Now()
	h.make("Replication", "all", fmt.Sprintf(`{source: {site: prod}, namespaces: {names: [%s]}, mode: Scheduled, schedule: "* * * * *", timeZone: Europe/Berlin}`, ns))
	got := h.becomes("all", "Idle +Idle")
	next := got.Status.Runs.NextTime
	if next == nil || next.Sub(begun) > time.Minute+time.Second || next.Second() != 0 {
		t.Fatalf("the next run is at %v, it is %v", next, begun)
	}
	deadline := time.After(100 * time.Second)
	for h.values(ns)["a"] != "1" {
		select {
		case <-deadline:
			t.Fatalf("no run was made: %+v", h.get("all").Status)
		case <-time.After(500 * time.Millisecond):
		}
		if time.Now().Before(next.Time) && h.values(ns) != nil {
			t.Fatalf("something reached the destination before %s", next)
		}
	}
	h.eventually("it is told", func() error {
		s := h.get("all").Status
		if s.Runs.Last == nil || s.Runs.Last.Counts.Created != 2 || !s.Runs.Through.Equal(next) || s.Runs.NextTime.Before(next) {
			return fmt.Errorf("%+v", s.Runs)
		}
		return nil
	})
	last := h.get("all").Status.Runs.Last
	rep := h.replay(last.Replay)
	if rep.Annotations[v1alpha1.AnnotationScheduledFor] != next.UTC().Format(time.RFC3339) {
		t.Errorf("the Replay says that it is for %q, want %s", rep.Annotations[v1alpha1.AnnotationScheduledFor], next)
	}
	// Before it a snapshot was made, of just that position.
	snapshots, err := h.log.Snapshots("prod").List(t.Context())
	if err != nil || len(snapshots) == 0 || int64(snapshots[0].Position.Seq) != rep.Status.Position.Sequence {
		t.Errorf("snapshots: %+v, %v", snapshots, err)
	}
}
