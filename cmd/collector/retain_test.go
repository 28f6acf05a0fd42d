package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// TestRetainsWhatItHolds has a collector that holds its log look after the history:
// nobody else can.
func TestRetainsWhatItHolds(t *testing.T) {
	o := defaultOptions()
	o.site, o.retention.Look = "nyc", 20*time.Millisecond
	o.server.StoreDir, o.server.Host, o.server.Port = t.TempDir(), "127.0.0.1", -1
	o.server.SyncAlways, o.server.MinFree, o.server.MaxStore = false, 0, 64<<30
	o.server.Log = slog.New(slog.DiscardHandler)
	server, err := natslog.StartServer(t.Context(), o.server)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	p := &program{options: o, log: o.server.Log, server: server, conn: conn}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.retain(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		closing, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(conn.Close(), server.Shutdown(closing)); err != nil {
			t.Error(err)
		}
	})
	w, err := conn.Writer(t.Context(), "nyc", o.streams)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop"}}`)
	at, err := w.Append(t.Context(), []pipeline.Event{{
		Ref: pipeline.Ref{Site: "nyc", Resource: "configmaps", Namespace: "shop", Name: "a"}, Op: pipeline.OpPut, UID: "u", Version: "1",
		APIVersion: "v1", Kind: "ConfigMap", Observed: time.Now(), Digest: pipeline.DigestOf(body), Body: body,
	}})
	if err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		list, err := conn.Snapshots("nyc", natslog.DefaultSnapshotOptions()).List(waiting)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			if list[0].Position != at || list[0].Total() != 1 {
				t.Errorf("the snapshot is %+v, want one object at %s", list[0], at)
			}
			return
		}
		select {
		case <-waiting.Done():
			t.Fatal("no snapshot was made")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
