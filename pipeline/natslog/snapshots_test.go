package natslog

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// A store that is full refuses the next snapshot, by name, and keeps those that it has; with a higher limit it
// goes on, and one that is lower than it was takes nothing back.
func TestStoreOfSnapshotsGrows(t *testing.T) {
	conn := inProcess(t, testServer(t))
	body := make([]byte, 900<<10) // as hard to compress as a snapshot
	if _, err := rand.Read(body); err != nil {
		t.Fatal(err)
	}
	at := pipeline.Position{Epoch: "01M82X80EPKPVF3P06AW7SG1PP"}
	put := func(name string, maxBytes int64) error {
		at.Seq++
		m := pipeline.Manifest{Name: name, Site: "a", Moment: pipeline.Moment{Position: at}}
		return conn.Snapshots("a", SnapshotOptions{MaxBytes: maxBytes}).Put(t.Context(), m, bytes.NewReader(body))
	}
	if err := put("first", 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := put("second", 1<<20); !errors.Is(err, ErrFull) {
		t.Fatalf("a store of 1 MiB took two snapshots of 900 KiB: %v", err)
	}
	if err := put("second", 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := put("third", 1<<20); err != nil {
		t.Fatalf("it was made smaller: %v", err)
	}
	list, err := conn.Snapshots("a", DefaultSnapshotOptions()).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
		file, err := conn.Snapshots("a", DefaultSnapshotOptions()).Open(t.Context(), m.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(file)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("snapshot %s is %d bytes, not what was stored: %v", m.Name, len(got), err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"first", "second", "third"}, names); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}
