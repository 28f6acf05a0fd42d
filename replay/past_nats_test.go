package replay_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
)

// natsLog is the log in an embedded server.
func natsLog(t *testing.T) *journeyLog {
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir, cfg.Host = t.TempDir(), "127.0.0.1"
	cfg.SyncAlways, cfg.MinFree, cfg.MaxStore = false, 0, 64<<30
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var conn *natslog.Conn
	var server *natslog.Server
	stop := func() {
		if conn == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(conn.Close(), server.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		conn = nil
	}
	t.Cleanup(stop)
	start := func(t *testing.T) *replay.Past {
		stop()
		var err error
		if server, err = natslog.StartServer(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if conn, err = natslog.Connect(t.Context(), natslog.ConnectConfig{InProcess: server, Log: cfg.Log}); err != nil {
			t.Fatal(err)
		}
		return &replay.Past{
			Site: "prod", History: conn.History("prod"), Archive: conn.Archive("prod"),
			Snapshots: conn.Snapshots("prod", natslog.DefaultSnapshotOptions()),
		}
	}
	return &journeyLog{
		past: start(t),
		open: func(t *testing.T) pipeline.Writer {
			w, err := conn.Writer(t.Context(), "prod", natslog.DefaultStreamOptions())
			if err != nil {
				t.Fatal(err)
			}
			return w
		},
		tick: func() time.Time {
			now := time.Now() // the log's clock is the real one: let it go on
			later := time.Now()
			for !later.After(now) {
				later = time.Now()
			}
			return later
		},
		restart: start,
	}
}

func TestTimeTravelOnNATS(t *testing.T) { timeTravel(t, 3000, 50, natsLog) }

func TestSnapshotMovesToAnotherServer(t *testing.T) {
	source := natsLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(4, 4)), log: source, writer: source.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(600, 3)
	exportAndImport(t, j, natsLog(t).past)
}

// TestSnapshotsWhileWriting makes snapshots of a history that moves: each is the
// state at its position.
func TestSnapshotsWhileWriting(t *testing.T) {
	l := natsLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(5, 5)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(500, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for range 400 { // enough for all snapshots on a machine that is not slow, and no more on one that is
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			var batch []pipeline.Event
			for range 20 {
				batch = append(batch, j.event())
			}
			if _, err := j.writer.Append(ctx, batch); err != nil {
				done <- err
				return
			}
		}
		<-stop
		done <- nil
	}()
	var made []pipeline.Manifest
	for range 6 {
		m, err := l.past.Snapshot(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		made = append(made, m)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, m := range made {
		from := stateAt(t, l.past, m.Position, pipeline.Query{})
		if err := l.past.Snapshots.Delete(t.Context(), m.Name); err != nil {
			t.Fatal(err)
		}
		again, err := l.past.SnapshotAt(t.Context(), m.Moment) // from what is left
		if err != nil || again.Digest != m.Digest || again.Records != len(from) {
			t.Errorf("snapshot %s has digest %s, from the history it is %s, %v", m.Name, m.Digest, again.Digest, err)
		}
	}
}
