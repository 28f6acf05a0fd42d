package natslog

import (
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestEpochsFitTheDefaultDisk begins epoch after epoch with the default limits on
// the disk that they are made for: closed ones must not keep the room they do
// not use.
func TestEpochsFitTheDefaultDisk(t *testing.T) {
	t.Parallel()
	const tenGiB = 10 << 30
	s := testServer(t, func(cfg *ServerConfig) { cfg.MaxStore = tenGiB / 4 * 3 })
	c := inProcess(t, s)
	w, err := c.Writer(t.Context(), "a", DefaultStreamOptions())
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(5) {
		if _, err := w.Append(t.Context(), []pipeline.Event{numbered(n + 1)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.NewEpoch(t.Context()); err != nil {
			t.Fatalf("begin epoch %d: %v", n+2, err)
		}
	}
	// Opening again must not take the room back.
	if _, err := c.Writer(t.Context(), "a", DefaultStreamOptions()); err != nil {
		t.Fatal(err)
	}
}
