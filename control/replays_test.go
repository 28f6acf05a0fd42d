package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// TestPausedRun measures how much waits in a log.
func TestPausedRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		run := &pausedRun{history: log.History("prod")}
		if s := run.Snapshot(); s.Stage != StageStarting || s.Err != nil {
			t.Errorf("before it has looked: %+v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run.Run(ctx) }()
		synctest.Wait()
		if s := run.Snapshot(); s.Stage != StagePaused || !errors.Is(s.Err, pipeline.ErrNoHistory) {
			t.Errorf("of an unknown site: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}

		w, err := log.Writer(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		write := func(n int) pipeline.Position {
			t.Helper()
			var last pipeline.Position
			for i := range n {
				e := pipelinetest.PutBody(pipeline.Ref{Site: "prod", Resource: "configmaps", Namespace: "a", Name: "b"}, i+1, []byte(`{}`))
				if last, err = w.Append(t.Context(), []pipeline.Event{e}); err != nil {
					t.Fatal(err)
				}
			}
			return last
		}
		run = &pausedRun{history: log.History("prod"), from: write(3)}
		ctx, cancel = context.WithCancel(t.Context())
		go func() { done <- run.Run(ctx) }()
		synctest.Wait()
		if s := run.Snapshot(); s.Behind != 0 || s.Lag != 0 || s.Err != nil {
			t.Errorf("nothing waits: %+v", s)
		}
		write(4)
		<-time.After(pausedPoll + time.Second)
		if s := run.Snapshot(); s.Behind != 4 || s.Lag != pausedPoll+time.Second || s.Heard.IsZero() {
			t.Errorf("4 wait for some seconds: %+v", s)
		}
		for range 100 {
			beat, err := pipeline.Heartbeat{Time: time.Now()}.Event("prod")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Append(t.Context(), []pipeline.Event{beat}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if s := run.Snapshot(); s.Behind != 4 || s.Err != nil {
			t.Errorf("heartbeats wait for nobody: %+v", s)
		}
		if _, err := w.NewEpoch(t.Context()); err != nil {
			t.Fatal(err)
		}
		write(2)
		<-time.After(3 * pausedPoll)
		if s := run.Snapshot(); s.Behind != 6 || s.Err != nil {
			t.Errorf("of a new epoch: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestPumpFollowsTheSpec(t *testing.T) {
	e := &Replays{}
	got := e.pump(Wish{Owner: types.NamespacedName{Namespace: "a", Name: "b"}, Spec: v1alpha1.ReplicationSpec{
		Workers: 3, Retry: &v1alpha1.RetryPolicy{Attempts: 5, InitialDelay: &metav1.Duration{Duration: time.Minute}},
	}}, nil)
	want := pipeline.DefaultPumpConfig()
	want.Owner, want.Workers, want.Attempts, want.InitialDelay, want.MaxDelay = "a/b", 3, 5, time.Minute, time.Minute
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got)\n%s", diff)
	}
	if got := e.pump(Wish{}, nil); got.Validate() != nil {
		t.Errorf("of an empty spec: %v", got.Validate())
	}
}

func TestProtectedNamespace(t *testing.T) {
	e := &Replays{Protected: []string{"dr-syncer"}}
	spec := v1alpha1.ReplicationSpec{
		Source:           v1alpha1.Source{Site: "prod"},
		NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"shop": "dr-syncer"}},
	}
	errs := e.Validate(spec)
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "choose another name") {
		t.Errorf("mapping to our own namespace: %v", errs)
	}
	spec.NamespaceMapping.Names["shop"] = "store"
	if errs := e.Validate(spec); len(errs) != 0 {
		t.Errorf("a good spec: %v", errs)
	}
}

// TestReplays runs the Engine over a log in memory and a real API server.
func TestReplays(t *testing.T) {
	c := kubetest.Shared(t)
	log := memlog.New()
	w, err := log.Writer(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	discard := slog.New(slog.DiscardHandler)
	inventory := apply.NewInventory(c.Client(), discard)
	e := &Replays{
		Client: c.Client(), Inventory: inventory, DeadLetters: log.DeadLetters("dr"), Destination: "dr", Log: discard,
		History: func(site string) pipeline.History { return log.History(site) },
	}
	owner := types.NamespacedName{Namespace: "default", Name: "replays"}
	run, err := e.New(Wish{Owner: owner, Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- inventory.Run(ctx) }()
	running, stop := context.WithCancel(ctx)
	go func() { done <- run.Run(running) }()
	defer func() {
		stop()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("ended with %v", err)
			}
		}
	}()
	becomes := func(what string, ok func(s Snapshot) bool) Snapshot {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			s := run.Snapshot()
			if ok(s) {
				return s
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("not in time: %s: %+v", what, s)
			}
		}
	}
	becomes("the history is empty", func(s Snapshot) bool { return s.Stage == StageFollowing || errors.Is(s.Err, pipeline.ErrNoHistory) })

	n := 0
	write := func(resource, kind, name, body string) {
		t.Helper()
		n++
		ref := pipeline.Ref{Site: "prod", Resource: resource, Name: name}
		if resource != "namespaces" {
			ref.Namespace = "replays"
		}
		event := pipelinetest.PutBody(ref, n, []byte(body))
		event.APIVersion, event.Kind = "v1", kind
		if _, err := w.Append(t.Context(), []pipeline.Event{event}); err != nil {
			t.Fatal(err)
		}
	}
	write("namespaces", "Namespace", "replays", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"replays"}}`)
	write("configmaps", "ConfigMap", "good", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"good","namespace":"replays"},"data":{"a":"b"}}`)
	write("configmaps", "ConfigMap", "bad", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad","namespace":"replays"},"data":{"a":{"b":"c"}}}`)
	s := becomes("two are synced and one is parked", func(s Snapshot) bool {
		return s.Kinds[configmaps].Synced == 1 && s.Kinds[configmaps].Parked == 1 && s.Behind == 0 && s.Stage == StageFollowing
	})
	want := map[pipeline.GroupResource]v1alpha1.Counts{{Resource: "namespaces"}: {Synced: 1}, configmaps: {Synced: 1, Parked: 1}}
	if diff := cmp.Diff(want, s.Kinds); diff != "" {
		t.Errorf("counts (-want +got)\n%s", diff)
	}
	if s.LastError == nil || s.LastError.Object != "configmaps replays/bad" || s.LastError.Reason != pipeline.Invalid.String() {
		t.Errorf("last error %+v", s.LastError)
	}
	if s.LastEvent == nil || s.LastEvent.Object != "configmaps replays/good" || s.LastEvent.Action != "Created" || s.LastEvent.Time.Nanosecond() != 0 {
		t.Errorf("last event %+v", s.LastEvent)
	}
	if s.Position.Seq != 3 {
		t.Errorf("position %v, want sequence 3", s.Position)
	}

	// Forgetting it drops its dead letters, and nobody else's.
	other := pipeline.DeadLetter{Ref: pipeline.Ref{Site: "prod", Resource: "a", Name: "b"}, Owner: "default/other"}
	if err := e.DeadLetters.Park(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := e.DeleteCopies(t.Context(), owner); err != nil {
		t.Errorf("delete copies: %v", err)
	}
	if out, err := c.Kubectl("get", "configmap", "-n", "replays", "good", "--ignore-not-found", "-o", "name"); err != nil || out != "" {
		t.Errorf("a copy is left: %q %v", out, err)
	}
	left := func() (owners []string) {
		for d, err := range e.DeadLetters.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			owners = append(owners, d.Owner)
		}
		return owners
	}
	if err := e.Forget(t.Context(), owner); err != nil {
		t.Errorf("forget: %v", err)
	}
	if diff := cmp.Diff([]string{"default/other"}, left()); diff != "" {
		t.Errorf("owners of dead letters (-want +got)\n%s", diff)
	}
	for _, exists := range []bool{true, false} {
		if err := e.Sweep(t.Context(), func(string) bool { return exists }); err != nil {
			t.Errorf("sweep: %v", err)
		}
		if n := len(left()); (n == 1) != exists {
			t.Errorf("%d dead letters are left of an owner who exists: %v", n, exists)
		}
	}
}
