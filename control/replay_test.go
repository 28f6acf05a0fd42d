package control

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

// TestReplayThroughTime replays moments of one history into the same namespace, forth and back.
func TestReplayThroughTime(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	first := h.append(h.source(ns), h.settings(ns, "a", "1"), h.settings(ns, "b", "1"))
	h.append(h.settings(ns, "a", "2"))
	second := h.append(h.settings(ns, "c", "2"), h.gone(h.settings(ns, "b", "")))
	template := fmt.Sprintf("source: {site: prod}, namespaces: {names: [%s]}", ns)
	upTo := func(p pipeline.Position) string {
		return fmt.Sprintf("upTo: {position: {epoch: %s, sequence: %d}}", p.Epoch, p.Seq)
	}

	// A dry run first: it says what will be, and nothing is.
	h.make("Replay", "rehearsal", fmt.Sprintf("{template: {%s}, mode: DryRun, %s}", template, upTo(first)))
	rep := h.ends("rehearsal", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(v1alpha1.ReplayCounts{Total: 3, Created: 3}, rep.Status.Counts); diff != "" {
		t.Errorf("counts of the dry run (-want +got)\n%s", diff)
	}
	if got := h.values(ns); got != nil {
		t.Fatalf("a dry run wrote %v", got)
	}

	h.make("Replay", "one", fmt.Sprintf("{template: {%s}, prune: true}", template))
	rep = h.ends("one", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "2", "c": "2"}, h.values(ns)); diff != "" {
		t.Errorf("as of now (-want +got)\n%s", diff)
	}
	if rep.Status.Position == nil || uint64(rep.Status.Position.Sequence) != second.Seq || rep.Status.CompletionTime == nil {
		t.Errorf("status: %+v", rep.Status)
	}
	if diff := cmp.Diff(v1alpha1.ReplayCounts{Total: 3, Created: 3}, rep.Status.Counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}

	// Other Replays do not touch these copies: they are not theirs. What is free they take.
	h.make("Replay", "stranger", fmt.Sprintf("{template: {%s}, prune: true, %s}", template, upTo(first)))
	rep = h.ends("stranger", v1alpha1.ReplayFailed)
	if diff := cmp.Diff(map[string]string{"a": "2", "b": "1", "c": "2"}, h.values(ns)); diff != "" {
		t.Errorf("after a Replay of another name (-want +got)\n%s", diff)
	}
	if !strings.Contains(rep.Status.LastError.Message, "Replay_one") {
		t.Errorf("the failure does not name the owner: %+v", rep.Status.LastError)
	}

	// In the name of one Replication that is paused, back and forth.
	h.make("Replication", "all", fmt.Sprintf("{%s, namespaceMapping: {suffix: -back}, paused: true}", template))
	back := ns + "-back"
	h.make("Replay", "new", "{replication: {name: all}, prune: true}")
	h.ends("new", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "2", "c": "2"}, h.values(back)); diff != "" {
		t.Errorf("as of now (-want +got)\n%s", diff)
	}
	h.make("Replay", "preview", "{replication: {name: all}, prune: true, mode: DryRun, "+upTo(first)+"}")
	rep = h.ends("preview", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(v1alpha1.ReplayCounts{Total: 4, Created: 1, Changed: 1, Unchanged: 1, Deleted: 1}, rep.Status.Counts); diff != "" {
		t.Errorf("counts of the dry run (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{`-data.value: "2"`, `+data.value: "1"`}, h.results(rep)["configmaps "+ns+"/a"].Diff); diff != "" {
		t.Errorf("the diff (-want +got)\n%s", diff)
	}
	h.make("Replay", "old", "{replication: {name: all}, prune: true, "+upTo(first)+"}")
	rep = h.ends("old", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "1"}, h.values(back)); diff != "" {
		t.Errorf("back in time (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(v1alpha1.ReplayCounts{Total: 4, Created: 1, Changed: 1, Unchanged: 1, Deleted: 1}, rep.Status.Counts); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
	h.make("Replay", "again", "{replication: {name: all}, "+upTo(second)+"}")
	rep = h.ends("again", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "2", "b": "1", "c": "2"}, h.values(back)); diff != "" {
		t.Errorf("forth, without pruning (-want +got)\n%s", diff)
	}

	// Unpausing brings them back to now, wherever a Replay left them.
	h.make("Replication", "all", fmt.Sprintf("{%s, namespaceMapping: {suffix: -back}}", template))
	h.eventually("back to now", func() error { return differ(map[string]string{"a": "2", "c": "2"}, h.values(back)) })
	h.make("Replay", "waits", "{replication: {name: all}, prune: true, "+upTo(first)+"}")
	h.eventually("it waits", func() error {
		s := h.replay("waits").Status
		if s.Phase != v1alpha1.ReplayPending || len(s.Conditions) == 0 || s.Conditions[0].Reason != v1alpha1.ReasonWaiting {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if diff := cmp.Diff([]string{"Started", "Completed"}, h.events("old")); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
}

func TestReplayOfMomentsThatAreNot(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	last := h.append(h.source(ns), h.settings(ns, "a", "1"))
	for name, c := range map[string]struct{ upTo, want string }{
		"future":   {fmt.Sprintf("{position: {epoch: %s, sequence: %d}}", last.Epoch, last.Seq+1), "has not come yet"},
		"snapshot": {"{snapshot: none}", "there is no such snapshot"},
		"ancient":  {"{time: '1999-01-01T00:00:00Z'}", "reaches back to"},
	} {
		h.make("Replay", name, fmt.Sprintf("{template: {source: {site: prod}}, upTo: %s}", c.upTo))
		rep := h.ends(name, v1alpha1.ReplayFailed)
		if m := rep.Status.Conditions[0].Message; !strings.Contains(m, c.want) {
			t.Errorf("%s: the condition says %q, want %q", name, m, c.want)
		}
	}
	h.make("Replay", "unknown", "{template: {source: {site: nowhere}}}")
	h.eventually("an unknown site is waited for", func() error {
		if s := h.replay("unknown").Status; s.Phase != v1alpha1.ReplayPending || s.Conditions[0].Reason != v1alpha1.ReasonUnknownSite {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	m, err := h.engine.Past("prod").Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.append(h.settings(ns, "a", "2"))
	h.make("Replay", "frozen", fmt.Sprintf("{template: {source: {site: prod}}, upTo: {snapshot: %s}, ttlSecondsAfterFinished: 10}", m.Name))
	rep := h.ends("frozen", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "1"}, h.values(ns)); diff != "" {
		t.Errorf("as of the snapshot (-want +got)\n%s", diff)
	}
	h.eventually("it is deleted after its time, and its results with it", func() error {
		if out := h.kubectl("get", "replay", "-n", h.namespace, "frozen", "--ignore-not-found", "-o", "name"); out != "" {
			return fmt.Errorf("%s", out)
		}
		if n := len(h.results(rep)); n != 0 {
			return fmt.Errorf("%d results are left", n)
		}
		return nil
	})
}

// TestReplayBesideAContinuousReplication replays the past into scratch namespaces: the
// Replication notices nothing.
func TestReplayBesideAContinuousReplication(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	past := h.append(h.source(ns), h.settings(ns, "a", "1"), h.settings(ns, "b", "1"))
	h.append(h.settings(ns, "a", "2"), h.gone(h.settings(ns, "b", "")))
	h.make("Replication", "all", fmt.Sprintf("{source: {site: prod}, namespaces: {names: [%s]}}", ns))
	h.eventually("it follows", func() error { return differ(map[string]string{"a": "2"}, h.values(ns)) })
	versions := func() string {
		return h.kubectl("get", "namespace", ns, "-o", "jsonpath={.metadata.resourceVersion}") +
			h.kubectl("get", "configmap", "-n", ns, "-o", "jsonpath={.items[*].metadata.resourceVersion}")
	}
	before := versions()
	for i, change := range []string{"a", "b", "c"} {
		name := "scratch-" + change
		h.make("Replay", name, fmt.Sprintf("{template: {source: {site: prod}, namespaces: {names: [%s]}, namespaceMapping: {suffix: -%s}}, prune: true, upTo: {position: {epoch: %s, sequence: %d}}}",
			ns, change, past.Epoch, past.Seq))
		h.ends(name, v1alpha1.ReplayComplete)
		if diff := cmp.Diff(map[string]string{"a": "1", "b": "1"}, h.values(ns+"-"+change)); diff != "" {
			t.Errorf("scratch namespace %d (-want +got)\n%s", i, diff)
		}
	}
	if after := versions(); after != before {
		t.Errorf("the Replication's copies were written: versions %s, then %s", before, after)
	}
	repl := h.get("all")
	if repl.Status.Counts.Synced != 2 || repl.Status.Counts.Parked != 0 || repl.Status.Phase != v1alpha1.PhaseReplicating {
		t.Errorf("its status: %+v", repl.Status)
	}
	h.append(h.settings(ns, "a", "3"))
	h.eventually("it goes on", func() error { return differ(map[string]string{"a": "3"}, h.values(ns)) })
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "1"}, h.values(ns+"-a")); diff != "" {
		t.Errorf("the scratch namespace does not stand still (-want +got)\n%s", diff)
	}
}

// TestReplayIsResumed ends the process again and again while a Replay is under way.
func TestReplayIsResumed(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	h.append(h.shop(ns, 300)...)
	h.make("Replay", "long", fmt.Sprintf("{template: {source: {site: prod}, namespaces: {names: [%s]}, workers: 1}, prune: true}", ns))
	var position *v1alpha1.Position
	for range 4 {
		h.eventually("it has begun", func() error {
			if s := h.replay("long").Status; s.Position == nil {
				return fmt.Errorf("%+v", s)
			} else if position == nil {
				position = s.Position
			}
			return nil
		})
		<-time.After(150 * time.Millisecond)
		h.stop()
		h.append(h.settings(ns, "later", "2")) // after the moment
		h.begin()
	}
	rep := h.ends("long", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(position, rep.Status.Position); diff != "" {
		t.Errorf("the moment has moved (-want +got)\n%s", diff)
	}
	got := h.values(ns)
	if len(got) != 300 || slices.Contains([]string{got["later"]}, "2") {
		t.Errorf("%d objects are there, want 300", len(got))
	}
	n := rep.Status.Counts
	if n.Total != 301 || n.Created+n.Unchanged != 301 || n.Failed != 0 {
		t.Errorf("counts: %+v", n)
	}
	if listed := len(h.results(rep)); listed != 301 {
		t.Errorf("%d results are listed, want 301", listed)
	}
}

// TestReplayGuard holds back the deletions of a Replay that are too many.
func TestReplayGuard(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	events := []pipeline.Event{h.source(ns), h.object("secrets", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: "+ns+"}, data: {k: dg==}}")}
	for i := range 20 {
		events = append(events, h.settings(ns, fmt.Sprintf("c%d", i), "1"))
	}
	h.append(events...)
	h.make("Replication", "all", fmt.Sprintf("{source: {site: prod}, namespaces: {names: [%s]}, mode: Manual}", ns), "dr-syncer.io/sync-now: first")
	h.eventually("all are there", func() error { return differ(20, len(h.values(ns))) })
	h.ends("all-now-"+short("first"), v1alpha1.ReplayComplete)
	for i := range 15 {
		h.append(h.gone(events[i+2]))
	}
	h.append(h.gone(events[1]), h.settings(ns, "fresh", "1"))
	h.make("Replay", "pruning", "{replication: {name: all}, prune: true}")
	rep := h.ends("pruning", v1alpha1.ReplayComplete)
	if n := rep.Status.Counts; n.Held != 16 || n.Deleted != 0 || n.Created != 1 || rep.Status.Deletions.Held != 16 {
		t.Errorf("counts: %+v, deletions: %+v", n, rep.Status.Deletions)
	}
	if got := len(h.values(ns)); got != 21 {
		t.Errorf("%d objects are there, want all 21", got)
	}
	if diff := cmp.Diff([]string{"Started", "Completed", "DeletionsHeld"}, h.events("pruning")); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
	h.kubectl("annotate", "replay", "-n", h.namespace, "pruning", v1alpha1.AnnotationApproveDeletions+"=yes")
	h.eventually("they are deleted", func() error { return differ(6, len(h.values(ns))) })
	h.eventually("it says so", func() error {
		rep = h.ends("pruning", v1alpha1.ReplayComplete)
		if rep.Status.Counts.Deleted != 16 || rep.Status.Counts.Held != 0 || rep.Status.Deletions.Approved != "yes" {
			return fmt.Errorf("%+v %+v", rep.Status.Counts, rep.Status.Deletions)
		}
		return nil
	})

	// Discarded: the copies stay.
	for i := range 5 {
		h.append(h.gone(events[i+2+15]))
	}
	h.make("Replay", "keeping", "{replication: {name: all}, prune: true, deletionGuard: {minCount: 0, maxPercent: 10}}")
	rep = h.ends("keeping", v1alpha1.ReplayComplete)
	if rep.Status.Counts.Held != 5 {
		t.Errorf("counts: %+v", rep.Status.Counts)
	}
	h.kubectl("annotate", "replay", "-n", h.namespace, "keeping", v1alpha1.AnnotationDiscardDeletions+"=no")
	h.eventually("nothing is held any more", func() error {
		if d := h.replay("keeping").Status.Deletions; d.Held != 0 || d.Discarded != "no" {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	if got := len(h.values(ns)); got != 6 {
		t.Errorf("%d objects are there, want 6", got)
	}
}

// TestDiscardedDeletionsStayDiscarded has runs of a Replication offer a deletion again only if the source says something new.
func TestDiscardedDeletionsStayDiscarded(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	events := h.shop(ns, 6)
	h.append(events...)
	h.make("Replication", "all", fmt.Sprintf("{source: {site: prod}, namespaces: {names: [%s]}, mode: Manual, deletionGuard: {minCount: 0, maxPercent: 10}}", ns),
		"dr-syncer.io/sync-now: first")
	run := func(ask string) v1alpha1.Replay {
		t.Helper()
		if ask != "first" {
			h.kubectl("annotate", "--overwrite", "replication", "-n", h.namespace, "all", v1alpha1.AnnotationSyncNow+"="+ask)
		}
		name := "all-now-" + short(ask)
		h.eventually("the run is made", func() error {
			_, err := h.cluster.Kubectl("get", "replay", "-n", h.namespace, name)
			return err
		})
		return h.ends(name, v1alpha1.ReplayComplete)
	}
	run("first")
	h.append(h.gone(events[1]), h.gone(events[2]))
	held := run("second")
	if n := held.Status.Counts.Held; n != 2 {
		t.Fatalf("%d deletions are held, want 2", n)
	}
	h.kubectl("annotate", "replay", "-n", h.namespace, held.Name, v1alpha1.AnnotationDiscardDeletions+"=no")
	h.eventually("the Replication remembers", func() error {
		at := h.kubectl("get", "replication", "-n", h.namespace, "all", "-o", "jsonpath={.status.deletions.discardedThrough.sequence}")
		return differ(fmt.Sprint(held.Status.Position.Sequence), strings.TrimSpace(at))
	})
	h.append(h.settings(ns, "c5", "2"))
	if n := run("third").Status.Counts; n.Held != 0 || n.Deleted != 0 || n.Changed != 1 {
		t.Errorf("the next run has counts %+v", n)
	}
	again := h.settings(ns, "c0", "3")
	h.append(again, h.gone(again))
	if n := run("fourth").Status.Counts; n.Held != 1 {
		t.Errorf("what the source deletes anew is not offered: %+v", n)
	}
	if got := len(h.values(ns)); got != 6 {
		t.Errorf("%d copies are there, want all 6", got)
	}
}

// TestReplayOfAnImportedSnapshot starts a destination from a file alone: its source and its log are gone.
func TestReplayOfAnImportedSnapshot(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	h.append(h.source(ns), h.settings(ns, "a", "1"), h.settings(ns, "b", "1"), h.gone(h.settings(ns, "b", "")), h.settings(ns, "c", "2"))
	past := h.engine.Past("prod")
	m, err := past.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := past.Export(t.Context(), m.Name, &file); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h.log = memlog.New() // everything is wiped
	h.begin()
	imported, err := h.engine.Past("prod").Import(t.Context(), bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	h.make("Replay", "revived", fmt.Sprintf("{template: {source: {site: prod}, namespaces: {names: [%s]}}, prune: true}", ns))
	rep := h.ends("revived", v1alpha1.ReplayComplete)
	if diff := cmp.Diff(map[string]string{"a": "1", "c": "2"}, h.values(ns)); diff != "" {
		t.Errorf("from the file (-want +got)\n%s", diff)
	}
	if uint64(rep.Status.Position.Sequence) != imported.Position.Seq || rep.Status.Counts.Created != 3 {
		t.Errorf("status: %+v", rep.Status)
	}
}

// TestResultsOfDeletedReplaysGo deletes a Replay while nobody watches.
func TestResultsOfDeletedReplaysGo(t *testing.T) {
	h := openHouse(t)
	ns := h.namespace + "-shop"
	h.append(h.source(ns), h.settings(ns, "c", "1"))
	uids := map[string]string{}
	for _, name := range []string{"kept", "gone"} {
		h.make("Replay", name, fmt.Sprintf("{template: {source: {site: prod}, namespaces: {names: [%s]}, namespaceMapping: {suffix: -%s}}}", ns, name))
		rep := h.ends(name, v1alpha1.ReplayComplete)
		uids[name] = string(rep.UID)
	}
	runs := func(want ...string) error {
		got, err := h.engine.Results.Runs(h.Context())
		slices.Sort(want)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			return fmt.Errorf("%w: runs with results (-want +got)\n%s", err, diff)
		}
		return nil
	}
	if err := runs(uids["kept"], uids["gone"]); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h.kubectl("delete", "replay", "-n", h.namespace, "gone")
	h.begin()
	h.eventually("its results are gone", func() error { return runs(uids["kept"]) })
}
