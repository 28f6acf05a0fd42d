package collect

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// TestLostRecordsArePutAnew has a real log whose current state is limited too low for what there is, so that its
// history passes over what that lacks: the collector puts everything anew, and deletes nothing.
func TestLostRecordsArePutAnew(t *testing.T) {
	const objects, size = 40, 60 << 10
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.SyncAlways, cfg.MinFree, cfg.MaxStore = t.TempDir(), false, 0, 64<<30
	server, err := natslog.StartServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	opts := natslog.DefaultStreamOptions()
	opts.CurrentMaxBytes, opts.MaxBytes = 1<<20, 8<<20
	s := &shelf{version: 10, objects: map[string]kube.Object{}, noisy: true}
	for i := range objects {
		s.put(fmt.Sprintf("object-%d", i), size)
	}
	config := Default()
	config.Heartbeat = Duration(100 * time.Millisecond)
	c, err := New(Settings{
		Site: testSite, Source: s, History: conn.History(testSite), Config: config, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) { return conn.Writer(ctx, testSite, opts) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	// read returns the versions that the log knows; ok is false while it cannot tell.
	read := func() (versions map[string]string, deleted int, err error) {
		versions = map[string]string{}
		for r, err := range conn.History(testSite).Current(t.Context(), pipeline.Query{HeadersOnly: true}) {
			switch {
			case err != nil:
				return versions, deleted, err
			case r.Op == pipeline.OpDelete:
				deleted++
			case r.Op == pipeline.OpPut:
				versions[r.Ref.Name] = r.Version
			}
		}
		return versions, deleted, nil
	}
	whole := func() string {
		versions, deleted, err := read()
		if err != nil || deleted > 0 {
			return fmt.Sprintf("%d deleted, %v", deleted, err)
		}
		return cmp.Diff(s.versions(), versions)
	}
	waitUntil(t, "the log holds everything", whole)
	before, err := conn.History(testSite).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One object's changes push the others out of the history.
	waitUntil(t, "a new epoch", func() string {
		s.put("object-0", size)
		now, err := conn.History(testSite).State(t.Context())
		if err != nil || now.Last.Epoch == before.Last.Epoch {
			return fmt.Sprintf("%+v, %v", now, err)
		}
		return ""
	})
	waitUntil(t, "everything is there again", whole)
}
