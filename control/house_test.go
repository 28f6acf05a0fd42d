package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/replay"
)

// house is a destination with the real engine over a log in memory, that the test writes
// into as a collector would.
type house struct {
	*room
	log    *memlog.Log
	writer *memlog.Writer
	engine *Replays
	n      int
}

// install applies the custom resources and waits until they are served.
func install(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	for _, kind := range []string{"replications", "replays"} {
		text, err := os.ReadFile("../charts/dr-syncer/crds/dr-syncer.io_" + kind + ".yaml")
		if err != nil {
			t.Fatalf("%v; run: make generate", err)
		}
		if err := c.Apply(string(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func openHouse(t *testing.T) *house {
	t.Helper()
	c := kubetest.Shared(t)
	install(t, c)
	h := &house{room: &room{T: t, cluster: c, namespace: fmt.Sprintf("room-%d", rooms.Add(1))}, log: memlog.New()}
	h.eventually("the custom resources are served", func() error {
		_, err := c.Kubectl("get", "replications,replays", "-A")
		return err
	})
	h.kubectl("delete", "replications,replays", "--all", "-A", "--wait=false")
	h.kubectl("create", "namespace", h.namespace)
	w, err := h.log.Writer(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	h.writer = w
	h.begin()
	return h
}

// begin starts a process: a controller with its engine; stop ends it.
func (h *house) begin() {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	quiet := slog.New(slog.DiscardHandler)
	inventory := apply.NewInventory(h.cluster.Client(), quiet)
	h.engine = &Replays{
		Client: h.cluster.Client(), Inventory: inventory, DeadLetters: h.log.DeadLetters("dr"), Destination: "dr", Log: quiet,
		History: h.log.History, Results: h.log.Results("dr"),
		Past: func(site string) *replay.Past {
			return &replay.Past{Site: site, History: h.log.History(site), Archive: h.log.Archive(site), Snapshots: h.log.Snapshots(site)}
		},
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := inventory.Run(ctx); err != nil {
			h.Errorf("the inventory ended with %v", err)
		}
	})
	wg.Go(func() {
		done <- Run(ctx, Settings{
			Client: h.cluster.Client(), Engine: h.engine, Replayer: h.engine, Log: quiet, StatusInterval: 200 * time.Millisecond,
		}, func() { close(ready) })
	})
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if err := <-done; err != nil {
				h.Errorf("the controller ended with %v", err)
			}
		})
	}
	h.Cleanup(h.stop)
	select {
	case <-ready:
	case <-time.After(time.Minute):
		h.Fatal("the controller did not start")
	}
}

// object makes the put of an object in YAML; NS stands for a namespace of the test's own.
func (h *house) object(resource, text string) pipeline.Event {
	h.Helper()
	body, err := yaml.YAMLToJSON([]byte(kubetest.In(h.namespace, text)))
	if err != nil {
		h.Fatal(err)
	}
	var o struct {
		APIVersion, Kind string
		Metadata         struct{ Namespace, Name string }
	}
	if err := json.Unmarshal(body, &o); err != nil {
		h.Fatal(err)
	}
	group, _, grouped := strings.Cut(o.APIVersion, "/")
	if !grouped {
		group = ""
	}
	h.n++
	return pipeline.Event{
		Ref: pipeline.Ref{Site: "prod", Group: group, Resource: resource, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name},
		Op:  pipeline.OpPut, UID: "source-" + o.Metadata.Namespace + "-" + o.Metadata.Name, Version: fmt.Sprint(h.n), APIVersion: o.APIVersion, Kind: o.Kind,
		Observed: time.Now(), Digest: pipeline.DigestOf(body), Body: body,
	}
}

func (h *house) source(namespace string) pipeline.Event {
	return h.object("namespaces", fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", namespace))
}

func (h *house) settings(namespace, name, value string) pipeline.Event {
	return h.object("configmaps", fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}, data: {value: %q}}", name, namespace, value))
}

// shop makes the puts of a namespace and of n settings in it: c0, c1, ...
func (h *house) shop(ns string, n int) []pipeline.Event {
	events := []pipeline.Event{h.source(ns)}
	for i := range n {
		events = append(events, h.settings(ns, fmt.Sprintf("c%d", i), "1"))
	}
	return events
}

func (h *house) gone(e pipeline.Event) pipeline.Event {
	h.n++
	e.Op, e.Evidence, e.Body, e.Digest, e.Version = pipeline.OpDelete, pipeline.EvidenceWatch, nil, pipeline.Digest{}, fmt.Sprint(h.n)
	return e
}

func (h *house) append(events ...pipeline.Event) pipeline.Position {
	h.Helper()
	p, err := h.writer.Append(h.Context(), events)
	if err != nil {
		h.Fatal(err)
	}
	return p
}

// make creates or changes a resource of ours.
func (h *house) make(kind, name, spec string, annotations ...string) {
	h.Helper()
	file := filepath.Join(h.TempDir(), name+".yaml")
	text := fmt.Sprintf("apiVersion: dr-syncer.io/v1alpha1\nkind: %s\nmetadata: {name: %s, namespace: %s, annotations: {%s}}\nspec: %s\n",
		kind, name, h.namespace, strings.Join(annotations, ", "), kubetest.In(h.namespace, spec))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
	h.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
}

func (h *house) replay(name string) v1alpha1.Replay {
	h.Helper()
	var rep v1alpha1.Replay
	if err := json.Unmarshal([]byte(h.kubectl("get", "replay", "-n", h.namespace, name, "-o", "json")), &rep); err != nil {
		h.Fatal(err)
	}
	return rep
}

// ends waits for the end of a Replay.
func (h *house) ends(name string, want v1alpha1.ReplayPhase) v1alpha1.Replay {
	h.Helper()
	var rep v1alpha1.Replay
	h.eventually(name+" ends "+string(want), func() error {
		if rep = h.replay(name); rep.Status.Phase != want {
			text, err := json.Marshal(rep.Status)
			return fmt.Errorf("%s %w", text, err)
		}
		return nil
	})
	return rep
}

// values are data.value of the ConfigMaps in a namespace, without the cluster's own; nil without the namespace.
func (h *house) values(namespace string) map[string]string {
	h.Helper()
	if h.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name") == "" {
		return nil
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(h.kubectl("get", "configmaps", "-n", namespace, "-o", "json")), &list); err != nil {
		h.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range list.Items {
		if i.Metadata.Name != "kube-root-ca.crt" {
			out[i.Metadata.Name] = i.Data["value"]
		}
	}
	return out
}

// results are those of a Replay, "result kind namespace/name", sorted.
func (h *house) results(rep v1alpha1.Replay) map[string]pipeline.ObjectResult {
	h.Helper()
	out := map[string]pipeline.ObjectResult{}
	for one, err := range h.engine.Results.List(h.Context(), string(rep.UID)) {
		if err != nil {
			h.Fatal(err)
		}
		out[objectOf(one.Ref)] = one
	}
	return out
}
