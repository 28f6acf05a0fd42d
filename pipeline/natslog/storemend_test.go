package natslog

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestKilledWhileMakingAStream takes files of streams away, as a process leaves them that is killed between writing two of
// them, and wants every record in the next.
func TestKilledWhileMakingAStream(t *testing.T) {
	dir := t.TempDir()
	store := func(c *ServerConfig) { c.StoreDir = dir }
	s := testServer(t, store)
	w := testWriter(t, inProcess(t, s), "a")
	mustAppend(t, w, put("a", "x", 1))
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	if err != nil || len(streams) < 2 {
		t.Fatalf("streams %v, %v", streams, err)
	}
	for i, path := range streams {
		sum := filepath.Join(path, server.JetStreamMetaFileSum)
		if err := os.Remove(sum); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // that of the description before
			if err := os.WriteFile(sum, []byte("0123456789abcdef"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	unmade := filepath.Join(filepath.Dir(streams[0]), "OBJ_unmade")
	if err := os.MkdirAll(filepath.Join(unmade, "msgs"), 0o750); err != nil {
		t.Fatal(err)
	}
	s = testServer(t, store)
	if err := s.Healthz(); err != nil {
		t.Error(err)
	}
	if got := readCurrent(t, inProcess(t, s).History("a"), pipeline.Query{}); got["x"] != "1" {
		t.Errorf("current is %v", got)
	}
	if _, err := os.Stat(unmade); !os.IsNotExist(err) {
		t.Errorf("what never was a stream is still there: %v", err)
	}
}
