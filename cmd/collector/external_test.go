package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// externalLog is a NATS server that is not of ours, and takes messages up to a size.
func externalLog(t *testing.T, maxPayload int32) (url string) {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		JetStreamMaxStore: 64 << 30, MaxPayload: maxPayload,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

// noise is text of a size that hardly compresses.
func noise(seed byte, size int) string {
	b := make([]byte, size/4*3)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

const namespace = "room"

// state is what the log says of the ConfigMaps of the namespace: the versions of each name's records, in order,
// and the last body.
type state struct {
	versions map[string][]string
	body     map[string]string
}

func stateOf(t *testing.T, conn *natslog.Conn) state {
	t.Helper()
	s := state{versions: map[string][]string{}, body: map[string]string{}}
	h := conn.History("prod")
	at, err := h.State(t.Context())
	if err != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := h.Follow(ctx, "test", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	for p := (pipeline.Position{}); at.Last.Seq > 0 && p.Compare(at.Last) < 0; {
		d, err := sub.Next(ctx)
		if err != nil || d.Invalid != nil {
			t.Fatalf("read the log: %v, %v", err, d.Invalid)
		}
		if p = d.Position; d.Ref.Namespace == namespace && d.Ref.Resource == "configmaps" {
			s.versions[d.Ref.Name] = append(s.versions[d.Ref.Name], d.Version)
			s.body[d.Ref.Name] = string(d.Body)
		}
	}
	return s
}

// TestOneLargeObjectHoldsUpNobody runs the collector with a NATS server whose room for large objects is used
// up: one of a thousand objects waits, through a restart, until there is room.
func TestOneLargeObjectHoldsUpNobody(t *testing.T) {
	const others = 999
	c, url := kubetest.Shared(t), externalLog(t, 256<<10)
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	side := nobody(t)
	args := []string{
		"--site=prod", "--kubeconfig=" + c.Kubeconfig(), "--nats-url=" + url, "--large-max-bytes=1048576", "--listen=" + side,
		"--config=" + writeFile(t, "namespaces: {include: [room]}\nheartbeat: 200ms\n"),
	}
	apply := func(yaml string) {
		t.Helper()
		if err := c.Apply(yaml); err != nil {
			t.Fatal(err)
		}
	}
	object := func(name, value string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {value: %q}\n", name, namespace, value)
	}
	apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: room}\n" + object("fills", noise(1, 900<<10)))
	r := start(t, args...)
	eventually(t, "the room is used", func() error {
		if len(stateOf(t, conn).versions["fills"]) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	var small strings.Builder
	for i := range others {
		small.WriteString(object(fmt.Sprintf("small-%03d", i), "x"))
		if i == others/2 {
			small.WriteString(object("large", noise(2, 800<<10)))
		}
	}
	apply(small.String())
	r.says(t, "log cannot take object now, others go on")
	arrived := func(want int) func() error {
		return func() error {
			s := stateOf(t, conn)
			n := 0
			for name := range s.versions {
				if strings.HasPrefix(name, "small-") {
					n++
				}
			}
			if n != want {
				return fmt.Errorf("%d of %d are in the log", n, want)
			}
			return nil
		}
	}
	eventually(t, "the others arrive", arrived(others))
	if _, there := stateOf(t, conn).versions["large"]; there {
		t.Fatal("there was room for all: the test shows nothing")
	}
	if text := metrics(t, side); !strings.Contains(text, `drsyncer_outbox_blocked_objects{site="prod"} 1`) {
		t.Errorf("the metrics do not say that one waits:\n%s", text)
	}
	apply(object("large", noise(3, 800<<10)) + object("small-000", "y"))
	eventually(t, "a change passes", func() error {
		if n := len(stateOf(t, conn).versions["small-000"]); n != 2 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	r.stop(t)
	r = start(t, args...)
	r.says(t, "log cannot take object now, others go on")
	makeRoom(t, url)
	eventually(t, "the large one arrives", func() error {
		if !strings.Contains(stateOf(t, conn).body["large"], noise(3, 800<<10)[:100]) {
			return errors.New("its newest version is not in the log")
		}
		return nil
	})
	r.says(t, "log has taken object at last")
	r.stop(t)
	s := stateOf(t, conn)
	if n := len(s.versions["large"]); n != 1 {
		t.Errorf("%d versions of the large one: %v", n, s.versions["large"])
	}
	if err := arrived(others)(); err != nil {
		t.Error(err)
	}
	for name, versions := range s.versions {
		for i := 1; i < len(versions); i++ {
			if order, err := kube.CompareVersions(versions[i-1], versions[i]); err != nil || order >= 0 {
				t.Errorf("%s: version %s after %s (%v)", name, versions[i], versions[i-1], err)
			}
		}
	}
}

// makeRoom raises the limit for large objects, as an operator would.
func makeRoom(t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "B_prod")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxBytes = 64 << 20
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func metrics(t *testing.T, side string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + side + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
