package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/telemetry/telemetrytest"
)

const crds = "../charts/dr-syncer/crds/dr-syncer.io_replications.yaml"

// room is a namespace of the test's own in a real API server, with a controller
// over it whose engine the test plays.
type room struct {
	*testing.T
	cluster   *kubetest.Cluster
	namespace string
	stage     *stage
	stop      func()
}

var rooms atomic.Int64

// sharedRules is the namespace of DR-Syncer itself.
const sharedRules = "shared-rules"

func open(t *testing.T) *room {
	t.Helper()
	c := kubetest.Shared(t)
	text, err := os.ReadFile(crds)
	if err != nil {
		t.Fatalf("%v; run: make generate", err)
	}
	if err := c.Apply(string(text)); err != nil {
		t.Fatal(err)
	}
	r := &room{T: t, cluster: c, namespace: fmt.Sprintf("room-%d", rooms.Add(1)), stage: newStage()}
	r.eventually("the CRD is served", func() error {
		_, err := c.Kubectl("get", "replications", "-A")
		return err
	})
	// Replications of other tests would overlap with this one's.
	r.kubectl("delete", "replications", "--all", "-A", "--wait=false")
	r.kubectl("create", "namespace", r.namespace)
	r.begin()
	return r
}

// begin starts a controller; stop ends it.
func (r *room) begin() {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Run(ctx, Settings{
			Client: r.cluster.Client(), Engine: r.stage, Log: slog.New(slog.DiscardHandler), StatusInterval: 200 * time.Millisecond,
			Namespace: sharedRules,
		}, func() { close(ready) })
	}()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.Errorf("the controller ended with %v", err)
		}
	}
	r.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-done:
		r.Fatalf("the controller did not start: %v", err)
	}
}

func (r *room) kubectl(args ...string) string {
	r.Helper()
	out, err := r.cluster.Kubectl(args...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// put creates or changes a Replication and returns its owner name.
func (r *room) put(name, spec string) string {
	r.Helper()
	file := filepath.Join(r.TempDir(), name+".yaml")
	text := fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: Replication\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, r.namespace, spec)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	r.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
	return r.namespace + "/" + name
}

func (r *room) get(name string) v1alpha1.Replication {
	r.Helper()
	var repl v1alpha1.Replication
	if err := json.Unmarshal([]byte(r.kubectl("get", "replication", "-n", r.namespace, name, "-o", "json")), &repl); err != nil {
		r.Fatal(err)
	}
	return repl
}

// events returns the reasons of a Replication's Events, oldest first.
func (r *room) events(name string) []string {
	r.Helper()
	var list struct {
		Items []struct {
			Reason    string
			EventTime string
			Regarding struct{ Name string }
			Series    *struct{ Count int }
		}
	}
	out := r.kubectl("get", "events.events.k8s.io", "-n", r.namespace, "-o", "json", "--sort-by=.eventTime")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		r.Fatal(err)
	}
	var reasons []string
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			reasons = append(reasons, e.Reason)
			if e.Series != nil {
				reasons = append(reasons, fmt.Sprintf("%s again: %d", e.Reason, e.Series.Count))
			}
		}
	}
	return reasons
}

// eventually waits until look finds nothing wrong.
func (r *room) eventually(what string, look func() error) {
	r.Helper()
	deadline := time.After(time.Minute)
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			r.Fatalf("not in time: %s: %v", what, err)
		}
	}
}

// becomes waits for the words of a status; see brief.
func (r *room) becomes(name, want string) v1alpha1.Replication {
	r.Helper()
	var repl v1alpha1.Replication
	r.eventually(name+" becomes "+want, func() error {
		repl = r.get(name)
		if got := brief(repl.Status); !strings.HasPrefix(got, want) || repl.Status.ObservedGeneration != repl.Generation {
			return fmt.Errorf("it is %q of generation %d, at generation %d", got, repl.Status.ObservedGeneration, repl.Generation)
		}
		return nil
	})
	return repl
}

// quiet is a Snapshot of a run with n copies and nothing to do.
func quiet(n int64) Snapshot {
	return Snapshot{
		Stage: StageFollowing, Heard: time.Now().Add(time.Hour), Position: pipeline.Position{Epoch: "E", Seq: uint64(n)},
		Kinds: map[pipeline.GroupResource]v1alpha1.Counts{configmaps: {Synced: n}},
	}
}

const calm = "Replicating +Replicating +SourceHeard +Following -AllApplied"

func TestLifecycle(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}}`)
	r.becomes("a", "Pending -Starting")
	r.stage.show(owner, Snapshot{Err: pipeline.ErrNoHistory})
	r.becomes("a", "Pending -UnknownSite -UnknownSite")
	r.stage.show(owner, Snapshot{Stage: StageCopying, Heard: time.Now().Add(time.Hour)})
	r.becomes("a", "Copying -Copying +SourceHeard -Copying -AllApplied")
	r.stage.show(owner, quiet(3))
	got := r.becomes("a", calm)
	if got.Status.Counts.Synced != 3 || got.Status.Position == nil || got.Status.Position.Sequence != 3 || got.Status.FirstCopyTime == nil {
		t.Errorf("the status does not say what the run says: %+v", got.Status)
	}

	// What does not matter to the run leaves it alone; onDelete holds the Replication.
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, onDelete: DeleteCopies}`)
	r.eventually("the finalizer is set", func() error {
		if f := r.get("a").Finalizers; len(f) != 1 {
			return fmt.Errorf("finalizers: %v", f)
		}
		return nil
	})
	r.becomes("a", calm)
	if runs, _ := r.stage.of(owner); len(runs) != 1 {
		t.Errorf("%d runs were made, want 1: onDelete is no reason for another", len(runs))
	}
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}}`)
	r.eventually("the finalizer is taken away", func() error {
		if f := r.get("a").Finalizers; len(f) != 0 {
			return fmt.Errorf("finalizers: %v", f)
		}
		return nil
	})

	// More workers: another run, from where the former one was, and no new first copy.
	first := r.get("a").Status.FirstCopyTime
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop]}, workers: 2}`)
	r.eventually("another run", func() error {
		runs, running := r.stage.of(owner)
		if len(runs) != 2 || running != 1 || runs[1].spec.Workers != 2 {
			return fmt.Errorf("%d runs were made, %d run", len(runs), running)
		}
		return nil
	})
	got = r.becomes("a", calm)
	if !got.Status.FirstCopyTime.Equal(first) {
		t.Error("another number of workers made a new first copy")
	}
	runs, _ := r.stage.of(owner)
	if want := (pipeline.Position{Epoch: "E", Seq: 3}); runs[1].from != want {
		t.Errorf("the second run was told the position %v, want %v", runs[1].from, want)
	}

	// Other objects: a new first copy.
	r.stage.show(owner, Snapshot{Stage: StageCopying, Heard: time.Now().Add(time.Hour)})
	r.put("a", `{source: {site: prod}, namespaces: {names: [shop, store]}}`)
	got = r.becomes("a", "Copying -Copying")
	if got.Status.FirstCopyTime != nil || got.Status.Counts.Synced != 0 {
		t.Errorf("the status still speaks of the former selection: %+v", got.Status)
	}

	// Gone: nothing runs, its dead letters are dropped, its copies are not.
	r.kubectl("delete", "replication", "-n", r.namespace, "a")
	r.eventually("the run ends", func() error {
		if _, running := r.stage.of(owner); running != 0 || !r.stage.has(&r.stage.forgotten, owner) {
			return fmt.Errorf("%d run", running)
		}
		return nil
	})
	if r.stage.has(&r.stage.deleted, owner) {
		t.Error("deleting the Replication deleted its copies")
	}
}

func TestPaused(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(3))
	r.becomes("a", calm)
	r.put("a", `{source: {site: prod}, paused: true}`)
	r.stage.show(owner, Snapshot{Stage: StagePaused, Behind: 12, Heard: time.Now().Add(time.Hour)})
	got := r.becomes("a", "Paused -Paused +SourceHeard -Paused -AllApplied")
	if got.Status.Counts.Synced != 3 || got.Status.Lag.Events != 12 || got.Status.Position.Sequence != 3 {
		t.Errorf("a paused Replication's status is %+v", got.Status)
	}
	r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(15))
	if got := r.becomes("a", calm); got.Status.Counts.Synced != 15 {
		t.Errorf("after unpausing: %+v", got.Status)
	}
	r.eventually("events", func() error {
		return differ([]string{"FirstCopyComplete", "Paused", "Resumed"}, r.events("a"))
	})
}

func differ(want, got any) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return errors.New(diff)
	}
	return nil
}

func TestRefusals(t *testing.T) {
	r := open(t)
	bad := r.put("invalid", `{source: {site: bad}}`)
	got := r.becomes("invalid", "Failed -InvalidSpec")
	if m := messageOf(got.Status, v1alpha1.ConditionReady); m != "spec.source.site: choose another; spec.kinds: choose others" {
		t.Errorf("the condition says %q", m)
	}
	if runs, _ := r.stage.of(bad); len(runs) != 0 {
		t.Error("an invalid spec is carried out")
	}

	// An invalid one is in nobody's way. Of two valid ones the older is carried out.
	older := r.put("older", `{source: {site: prod}, namespaces: {names: [shop]}}`)
	r.stage.show(older, quiet(1))
	r.becomes("older", calm)
	<-time.After(1100 * time.Millisecond) // creation times have whole seconds
	later := r.put("later", `{source: {site: other}, namespaces: {names: ["s*"]}}`)
	r.stage.show(later, quiet(1))
	got = r.becomes("later", "Failed -Overlap")
	if m := messageOf(got.Status, v1alpha1.ConditionReady); !strings.Contains(m, `"`+older+`"`) {
		t.Errorf("the condition does not name the other: %q", m)
	}
	// The older one gives way: the later is carried out. It comes back: the later is refused.
	r.put("older", `{source: {site: prod}, namespaces: {names: [dock]}}`)
	r.becomes("later", calm)
	r.put("older", `{source: {site: prod}, namespaces: {names: [shop]}}`)
	r.becomes("later", "Failed -Overlap")
	if _, running := r.stage.of(later); running != 0 {
		t.Error("a refused Replication still runs")
	}
	r.kubectl("delete", "replication", "-n", r.namespace, "older")
	r.becomes("later", calm)
	r.eventually("events", func() error {
		return differ([]string{"Overlap", "FirstCopyComplete", "Overlap again: 2"}, dedupe(r.events("later")))
	})
}

// dedupe leaves of a repeated Event the count only if the API shows it as a series.
func dedupe(events []string) []string {
	var out []string
	overlaps := 0
	for _, e := range events {
		if e == "Overlap" {
			if overlaps++; overlaps > 1 {
				out = append(out, "Overlap again: 2")
				continue
			}
		}
		if strings.HasPrefix(e, "Overlap again") {
			continue
		}
		out = append(out, e)
	}
	if overlaps == 1 {
		out = append(out, "Overlap again: 2")
	}
	return out
}

func TestDeleteCopies(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}, onDelete: DeleteCopies}`)
	r.stage.show(owner, quiet(3))
	r.becomes("a", calm)
	r.stage.mu.Lock()
	r.stage.deleteErr = errors.New("secrets shop/key: forbidden")
	r.stage.mu.Unlock()
	r.kubectl("delete", "replication", "-n", r.namespace, "a", "--wait=false")
	r.eventually("the status says what keeps it", func() error {
		repl := r.get("a")
		if m := messageOf(repl.Status, v1alpha1.ConditionReady); repl.Status.Phase != v1alpha1.PhaseDeleting || !strings.Contains(m, "secrets shop/key: forbidden") {
			return fmt.Errorf("%s: %s", repl.Status.Phase, m)
		}
		return nil
	})
	if _, running := r.stage.of(owner); running != 0 {
		t.Error("the run goes on while its copies are being deleted")
	}
	r.stage.mu.Lock()
	r.stage.deleteErr = nil
	r.stage.mu.Unlock()
	r.eventually("it is let go", func() error {
		if out := r.kubectl("get", "replication", "-n", r.namespace, "-o", "name"); out != "" {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
	if !r.stage.has(&r.stage.deleted, owner) {
		t.Error("it was let go before its copies were deleted")
	}
	r.eventually("events", func() error { return differ([]string{"FirstCopyComplete", "CopiesDeleted"}, r.events("a")) })
}

func TestRunThatFailsIsRunAgain(t *testing.T) {
	r := open(t)
	meter := telemetrytest.Metrics(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(1))
	r.becomes("a", calm)
	runs, _ := r.stage.of(owner)
	runs[0].fail <- errors.New("boom")
	r.eventually("another run", func() error {
		if runs, running := r.stage.of(owner); len(runs) != 2 || running != 1 {
			return fmt.Errorf("%d runs were made, %d run", len(runs), running)
		}
		return nil
	})
	label := telemetry.String(telemetry.KeyReplication, owner)
	got := map[string]float64{
		"restarts": meter.Value(telemetry.MetricReplicationRestarts, label),
		"synced":   meter.Value(telemetry.MetricReplicationObjects, label, telemetry.String(telemetry.KeyState, "synced")),
	}
	if diff := cmp.Diff(map[string]float64{"restarts": 1, "synced": 1}, got); diff != "" {
		t.Errorf("metrics (-want +got)\n%s", diff)
	}
	r.becomes("a", calm)
}

// TestRestart ends the controller and starts another one over the same Replication.
func TestRestart(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(4))
	before := r.becomes("a", calm)
	r.stop()
	if _, running := r.stage.of(owner); running != 0 {
		t.Fatal("a run outlived its controller")
	}
	r.stage.letters = []string{owner, r.namespace + "/deleted"}
	// The new run goes over everything: nothing of that shows, and nothing is written.
	r.stage.show(owner, Snapshot{Stage: StageCopying, Heard: time.Now().Add(time.Hour), Position: pipeline.Position{Epoch: "E", Seq: 4}})
	r.begin()
	r.eventually("a run of the new controller", func() error {
		if runs, running := r.stage.of(owner); len(runs) != 2 || running != 1 {
			return fmt.Errorf("%d runs were made, %d run", len(runs), running)
		}
		return nil
	})
	r.eventually("what was deleted meanwhile is forgotten", func() error {
		if r.stage.has(&r.stage.forgotten, owner) || !r.stage.has(&r.stage.forgotten, r.namespace+"/deleted") {
			return errors.New("the wrong ones are")
		}
		return nil
	})
	r.stage.show(owner, quiet(4))
	<-time.After(time.Second) // that nothing happens takes a while to see
	after := r.get("a")
	if diff := cmp.Diff(before.Status, after.Status); diff != "" || before.ResourceVersion != after.ResourceVersion {
		t.Errorf("a restart over an unchanged state wrote the status (-before +after)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"FirstCopyComplete"}, r.events("a")); diff != "" {
		t.Errorf("events after the restart (-want +got)\n%s", diff)
	}
}

// TestStatusWrites counts writes while changes flow and while nothing does.
func TestStatusWrites(t *testing.T) {
	r := open(t)
	meter := telemetrytest.Metrics(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(0))
	r.becomes("a", calm)
	writes := func() float64 {
		return meter.Value(telemetry.MetricReplicationStatusWrites, telemetry.String(telemetry.KeyReplication, owner))
	}

	before, begin := writes(), time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := range int64(1000) {
		<-tick.C
		r.stage.show(owner, quiet(n+1))
	}
	r.eventually("all are counted", func() error {
		if n := r.get("a").Status.Counts.Synced; n != 1000 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	// One per interval of 200 ms, and one for the rest.
	if n, most := writes()-before, time.Since(begin).Seconds()/0.2+1; n < 1 || n > most {
		t.Errorf("%v status writes while 1,000 changes flowed, want 1 to %v", n, most)
	}

	// Idle: heartbeats move the position and nothing else.
	before = writes()
	version := r.get("a").ResourceVersion
	for n := range uint64(1000) {
		<-tick.C
		snap := quiet(1000)
		snap.Position.Seq += n
		r.stage.show(owner, snap)
	}
	if n := writes() - before; n != 0 || r.get("a").ResourceVersion != version {
		t.Errorf("%v status writes while nothing but heartbeats came", n)
	}
	if diff := cmp.Diff([]string{"FirstCopyComplete"}, r.events("a")); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
}

// TestStatusGoesOnAfterWritesOfNothing: a write in which the server finds nothing new leaves the resource's version as it
// is, and there is nothing to wait for before the next.
func TestStatusGoesOnAfterWritesOfNothing(t *testing.T) {
	r := open(t)
	meter := telemetrytest.Metrics(t)
	owner := r.put("a", `{source: {site: prod}}`)
	writes := func() float64 {
		return meter.Value(telemetry.MetricReplicationStatusWrites, telemetry.String(telemetry.KeyReplication, owner))
	}
	for n := range int64(5) {
		snap := quiet(n)
		for i := range 3 {
			// The server keeps no parts of a second: these three are one to it.
			snap.LastEvent = &v1alpha1.LastEvent{Object: "configmaps shop/web", Action: "Configured", Time: metav1.NewTime(noon.Add(time.Duration(i+1) * time.Millisecond))}
			before := writes()
			r.stage.show(owner, snap)
			r.eventually("it is written", func() error {
				if writes() == before {
					return errors.New("it is not")
				}
				return nil
			})
		}
	}
	r.stage.show(owner, quiet(7))
	r.eventually("all are counted", func() error {
		if n := r.get("a").Status.Counts.Synced; n != 7 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// TestStatusIsOurs sees to it that a status that somebody else wrote does not stay.
func TestStatusIsOurs(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(4))
	r.becomes("a", calm)
	r.kubectl("patch", "replication", "-n", r.namespace, "a", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Failed"}}`)
	r.stage.show(owner, quiet(5))
	if got := r.becomes("a", calm); got.Status.Counts.Synced != 5 {
		t.Errorf("synced %d, want 5", got.Status.Counts.Synced)
	}
}

func TestEventsOfParkedObjects(t *testing.T) {
	r := open(t)
	owner := r.put("a", `{source: {site: prod}}`)
	r.stage.show(owner, quiet(4))
	r.becomes("a", calm)
	snap := quiet(3)
	snap.Kinds[configmaps] = v1alpha1.Counts{Synced: 3, Parked: 1}
	snap.LastParked = &v1alpha1.LastError{Object: "configmaps shop/x", Reason: "Invalid", Message: "data: " + strings.Repeat("é", 1000), Time: metav1.Now()}
	r.stage.show(owner, snap)
	r.becomes("a", "Replicating +Replicating +SourceHeard +Following +ObjectsParked")
	r.stage.show(owner, quiet(4))
	r.becomes("a", calm)
	r.eventually("events", func() error {
		return differ([]string{"FirstCopyComplete", "ObjectParked", "ParkedHealed"}, r.events("a"))
	})
	note := r.kubectl("get", "events.events.k8s.io", "-n", r.namespace, "-o", `jsonpath={.items[?(@.reason=="ObjectParked")].note}`)
	if !strings.HasPrefix(note, "Parked configmaps shop/x: Invalid: data: é") {
		t.Errorf("the event says %q", note)
	}
}
