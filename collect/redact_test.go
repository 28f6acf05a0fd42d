package collect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/transform"
)

// sourceRules compiles rules of stage source, given as YAML list items.
func sourceRules(t *testing.T, rules string) *transform.Set {
	t.Helper()
	set, err := transform.Compile([]transform.Document{{ConfigMap: "dr-syncer/rules", Key: "r.yaml", Text: "rules:\n" + rules}},
		transform.Options{Stage: transform.AtSource})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// secretive is a ConfigMap with a value that must not leave.
func secretive(name, version string) kube.Object {
	o := scriptedObject(configMaps, name, uidOf(name), version)
	o.Raw = fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"shop","name":%q,"uid":%q,"resourceVersion":%q},"data":{"token":"hunter2","host":"db"}}`,
		name, o.UID, version)
	return o
}

func uidOf(name string) string { return fmt.Sprintf("00000000-0000-0000-0000-%012x", name) }

// stocked is a source with objects that can be read again.
type stocked struct {
	*scripted
	mu      sync.Mutex
	objects map[string]kube.Object
}

func newStocked(objects ...kube.Object) *stocked {
	s := &stocked{objects: map[string]kube.Object{}}
	for _, o := range objects {
		s.objects[o.Name] = o
	}
	s.scripted = newScripted("one", func(_ kube.Kind, h kube.Handler) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var all []kube.Object
		for _, o := range s.objects {
			all = append(all, o)
		}
		list(h, "20", all...)
	}, configMaps)
	return s
}

func (s *stocked) Get(_ context.Context, _ kube.Kind, _, name string) (kube.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[name], nil
}

// bodies are what the log holds by name, of objects that are there.
func (w *world) bodies() map[string]string {
	found := map[string]string{}
	for ref, r := range w.current() {
		if r.Op == pipeline.OpPut {
			found[ref.Name] = string(r.Body)
		}
	}
	return found
}

const (
	whole    = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"shop","name":"a"},"data":{"token":"hunter2","host":"db"}}`
	redacted = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"shop","name":"a"},"data":{"host":"db"}}`
)

func TestRulesOfTheSource(t *testing.T) {
	for name, tc := range map[string]struct {
		rules string
		// want is the body of "a", empty if nothing is published.
		want, failing string
	}{
		"Redacted":         {"- {name: r, stage: source, jq: del(.data.token)}", redacted, ""},
		"OtherStage":       {"- {name: r, jq: del(.data.token)}", whole, ""},
		"OtherObject":      {"- {name: r, stage: source, match: {names: [x]}, jq: del(.data.token)}", whole, ""},
		"Site":             {"- {name: r, stage: source, jq: '.data = {token: $source.site}'}", strings.Replace(whole, `"hunter2","host":"db"`, `"prod"`, 1), ""},
		"Dropped":          {"- {name: r, stage: source, match: {names: [a]}, jq: empty}", "", ""},
		"Failing":          {"- {name: r, stage: source, match: {names: [a]}, jq: 'error(.data.token)'}", "", `not published: shop/a: configmap dr-syncer/rules, key r.yaml, rule "r" (Failed)`},
		"FailingSkipped":   {"- {name: r, stage: source, match: {names: [a]}, onError: skip, jq: error(\"no\")}", "", ""},
		"FailingPassed":    {"- {name: r, stage: source, match: {names: [a]}, onError: pass, jq: error(\"no\")}", whole, ""},
		"Several":          {"- {name: r, stage: source, match: {names: [a]}, jq: '., (.metadata.name = \"c\")'}", "", "not published: shop/a: a rule of stage source fails"},
		"Renamed":          {"- {name: r, stage: source, match: {names: [a]}, jq: '.metadata.name = \"c\"'}", "", "not published: shop/a: a rule of stage source fails"},
		"MovedToNamespace": {"- {name: r, stage: source, match: {names: [a]}, jq: '.metadata.namespace = \"c\"'}", "", "not published: shop/a: a rule of stage source fails"},
	} {
		t.Run(name, func(t *testing.T) {
			w := scriptedWorld(t)
			w.source = newStocked(secretive("a", "10"), secretive("b", "11"))
			w.rules = sourceRules(t, tc.rules)
			w.start()
			w.incarnation("one")
			w.eventually("the other object is published", func() string {
				if w.bodies()["b"] == "" {
					return "not yet"
				}
				return ""
			})
			w.eventually("what fails is named", func() string { return cmp.Diff(tc.failing, w.heartbeat().Failing["configmaps"]) })
			if diff := cmp.Diff(tc.want, w.bodies()["a"]); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			for _, r := range w.current() {
				if r.Op == pipeline.OpPut && r.Digest != pipeline.DigestOf(r.Body) {
					t.Errorf("the digest of %s is not that of what was published", r.Ref)
				}
			}
		})
	}
}

func TestChangedRulesOfTheSource(t *testing.T) {
	w := scriptedWorld(t)
	written := w.written()
	w.source = newStocked(secretive("a", "10"), secretive("b", "11"))
	w.rules = sourceRules(t, "- {name: r, stage: source, match: {names: [a]}, jq: del(.data.token)}")
	r := w.start()
	w.incarnation("one")
	w.eventually("written", func() string { return cmp.Diff(2, len(written())) })
	begin := len(written())
	changed := func(rules, name, want string, writes ...string) {
		t.Helper()
		r.UseRules(sourceRules(t, rules))
		w.eventually(name+" is as the rules say", func() string { return cmp.Diff(want, w.bodies()[name]) })
		beats := w.heartbeat().Time
		w.eventually("the new list is complete", func() string {
			if h := w.heartbeat(); !h.Complete || !h.Time.After(beats.Add(time.Second)) {
				return "not yet"
			}
			return ""
		})
		if diff := cmp.Diff(writes, written()[begin:], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		begin = len(written())
	}
	other := strings.ReplaceAll(redacted, `"a"`, `"b"`)
	// Only what comes out differently is written.
	changed("- {name: r, stage: source, jq: del(.data.token)}", "b", other, "put b")
	// What a rule drops is released, and its return is a put.
	changed("- {name: r, stage: source, jq: 'if .metadata.name == \"a\" then empty else del(.data.token) end'}", "a", "", "release a")
	changed("- {name: r, stage: source, jq: del(.data.token)}", "a", redacted, "put a")
	// A rule that fails leaves what was published.
	changed("- {name: r, stage: source, jq: 'if .metadata.name == \"a\" then error(\"no\") else del(.data.token) end'}", "a", redacted)
	changed("- {name: r, stage: source, jq: del(.data.token)}", "a", redacted)
	if diff := cmp.Diff(map[string]string{}, w.heartbeat().Failing, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("failing (-want +got):\n%s", diff)
	}
}

// What waits while the log is away goes out by the rules that are in force when it is back.
func TestWaitingBodiesGoThroughNewRules(t *testing.T) {
	w := scriptedWorld(t)
	var mu sync.Mutex
	var bodies []string
	down := true
	writing := make(chan struct{})
	begun := sync.OnceFunc(func() { close(writing) })
	w.log.SetFault(func(_ string, events []pipeline.Event) memlog.Fault {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if down && e.Op == pipeline.OpPut {
				begun()
				return memlog.Fault{Err: errors.New("away")}
			}
			bodies = append(bodies, string(e.Body))
		}
		return memlog.Fault{}
	})
	// The first is being written for ever; the second waits behind it.
	var h kube.Handler
	var ready sync.WaitGroup
	ready.Add(1)
	stock := newStocked(secretive("b", "11"))
	once := sync.OnceFunc(ready.Done)
	stock.script = func(_ kube.Kind, handler kube.Handler) {
		h = handler
		h.Observe(scriptedObject(configMaps, "first", uidOne, "5"))
		once()
	}
	w.source = stock
	r := w.start()
	ready.Wait()
	<-writing
	h.Observe(secretive("b", "11"))
	w.eventually("it waits", func() string {
		if n, _ := r.ready.Load().outbox.waiting(); n != 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	r.UseRules(sourceRules(t, "- {name: r, stage: source, jq: del(.data.token)}"))
	mu.Lock()
	down = false
	mu.Unlock()
	w.eventually("it is published", func() string {
		return cmp.Diff(strings.ReplaceAll(redacted, `"a"`, `"b"`), w.bodies()["b"])
	})
	mu.Lock()
	defer mu.Unlock()
	if all := strings.Join(bodies, "\n"); strings.Contains(all, "hunter2") {
		t.Errorf("the value left:\n%s", all)
	}
}

func TestTimedOutRulesAreTriedAgain(t *testing.T) {
	o := newOutbox(testSite, 1<<20, newInventory())
	ref := pipeline.Ref{Site: testSite, Resource: "configmaps", Namespace: "shop", Name: "a"}
	timedOut := refusal{reason: "slow", again: &sighting{presence: present, uid: uidOne, version: "1"}}
	if !o.refuse(ref, timedOut) || o.refuse(ref, timedOut) {
		t.Error("the same refusal is news twice, or never")
	}
	due := o.refused[ref].due
	if wait := time.Until(due); wait < firstRetry || wait > 2*firstRetry {
		t.Errorf("tried again after %s, want about twice %s", wait, firstRetry)
	}
	o.retry(t.Context(), due.Add(-time.Second))
	if l, _ := o.takeUnread(); l != nil {
		t.Fatal("it is read again too soon")
	}
	o.retry(t.Context(), due)
	l, s := o.takeUnread()
	if l == nil || s.uid != uidOne {
		t.Fatal("it is not read again")
	}
	o.answer(t.Context(), l, s, &sighting{presence: present, uid: uidOne, version: "1", body: []byte("{}"), digest: pipeline.DigestOf([]byte("{}"))})
	batch := o.take(10, 1<<20)
	if len(batch) != 1 {
		t.Fatalf("%d objects to be written, want 1", len(batch))
	}
	o.settle([]flight{{batch[0], batch[0].flying[0]}})
	if len(o.refused) != 0 || len(o.lanes) != 0 {
		t.Errorf("left over: %v, %v", o.refused, o.lanes)
	}
	for range 20 {
		o.refuse(ref, timedOut)
	}
	if wait := time.Until(o.refused[ref].due); wait > lastRetry {
		t.Errorf("tried again after %s, want %s at most", wait, lastRetry)
	}
}
