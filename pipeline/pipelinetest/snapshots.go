package pipelinetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

var equateEmpty = cmpopts.EquateEmpty()

// snapshotOf makes the file of a snapshot with n objects.
func snapshotOf(t testing.TB, siteName string, n int) (pipeline.Manifest, []byte) {
	t.Helper()
	var file bytes.Buffer
	w, err := pipeline.NewSnapshotWriter(&file, siteName)
	if err != nil {
		t.Fatal(err)
	}
	at := pipeline.Position{Epoch: "01KDVDNA00B2R6KXB9X93ZKYC2"}
	for i := range n {
		at.Seq = uint64(i + 1)
		if err := w.Add(pipeline.Record{Event: PutBody(ConfigMap(siteName, time.Duration(i).String()), i+1, noise(100)), Position: at}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(pipeline.Moment{Position: at, Time: Observed}, Observed)
	if err != nil {
		t.Fatal(err)
	}
	return m, file.Bytes()
}

func mustPut(ctx context.Context, t testing.TB, s pipeline.Snapshots, m pipeline.Manifest, file []byte) {
	t.Helper()
	if err := s.Put(ctx, m, bytes.NewReader(file)); err != nil {
		t.Fatalf("put %s: %v", m.Name, err)
	}
}

func mustList(ctx context.Context, t testing.TB, s pipeline.Snapshots) []pipeline.Manifest {
	t.Helper()
	list, err := s.List(ctx)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return list
}

func mustOpen(ctx context.Context, t testing.TB, s pipeline.Snapshots, name string) []byte {
	t.Helper()
	f, err := s.Open(ctx, name)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return data
}

var snapshotCases = []logCase{
	{name: "none", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		s := h.Snapshots(t, site)
		if list := mustList(ctx, t, s); len(list) != 0 {
			t.Errorf("list: %v", list)
		}
		if _, err := s.Open(ctx, "none"); !errors.Is(err, pipeline.ErrNoSnapshot) {
			t.Errorf("open: %v", err)
		}
		if err := s.Delete(ctx, "none"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}},
	{name: "put, list, open, delete", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		s := h.Snapshots(t, site)
		large, largeFile := snapshotOf(t, site, 20_000)
		small, smallFile := snapshotOf(t, site, 1)
		mustPut(ctx, t, s, large, largeFile)
		mustPut(ctx, t, s, small, smallFile)
		if diff := cmp.Diff([]pipeline.Manifest{small, large}, mustList(ctx, t, s)); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
		for m, file := range map[*pipeline.Manifest][]byte{&large: largeFile, &small: smallFile} {
			if got := mustOpen(ctx, t, s, m.Name); !bytes.Equal(got, file) {
				t.Errorf("%s has %d bytes, want %d", m.Name, len(got), len(file))
			}
		}
		if _, err := s.Open(ctx, "other"); !errors.Is(err, pipeline.ErrNoSnapshot) {
			t.Errorf("open what is not there: %v", err)
		}
		if err := s.Delete(ctx, large.Name); err != nil {
			t.Errorf("delete: %v", err)
		}
		if _, err := s.Open(ctx, large.Name); !errors.Is(err, pipeline.ErrNoSnapshot) {
			t.Errorf("open what was deleted: %v", err)
		}
		if diff := cmp.Diff([]pipeline.Manifest{small}, mustList(ctx, t, s)); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
	}},
	{name: "replaced", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		s := h.Snapshots(t, site)
		m, file := snapshotOf(t, site, 3)
		mustPut(ctx, t, s, m, []byte("something else"))
		mustPut(ctx, t, s, m, file)
		if got := mustOpen(ctx, t, s, m.Name); !bytes.Equal(got, file) || len(mustList(ctx, t, s)) != 1 {
			t.Errorf("the name holds %d bytes, want %d", len(got), len(file))
		}
	}},
	{name: "all or nothing", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		s := h.Snapshots(t, site)
		m, file := snapshotOf(t, site, 2000)
		lost := errors.New("lost")
		half := io.MultiReader(bytes.NewReader(file[:len(file)/2]), failing{lost})
		if err := s.Put(ctx, m, half); !errors.Is(err, lost) {
			t.Errorf("put half: %v", err)
		}
		if _, err := s.Open(ctx, m.Name); !errors.Is(err, pipeline.ErrNoSnapshot) || len(mustList(ctx, t, s)) != 0 {
			t.Errorf("half a snapshot is there: %v", err)
		}
	}},
	{name: "read in part", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		s := h.Snapshots(t, site)
		m, file := snapshotOf(t, site, 20_000)
		mustPut(ctx, t, s, m, file)
		f, err := s.Open(ctx, m.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, f, 10); err != nil {
			t.Errorf("read: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}},
	{name: "other sites", needs: needsSnapshots, run: func(ctx context.Context, t *testing.T, h Harness) {
		for i, name := range []string{"a", "a-b", "a.b"} {
			m, file := snapshotOf(t, name, i+1)
			mustPut(ctx, t, h.Snapshots(t, name), m, file)
		}
		list := mustList(ctx, t, h.Snapshots(t, "a"))
		if len(list) != 1 || list[0].Site != "a" || list[0].Records != 1 {
			t.Errorf("site a has %v", list)
		}
	}},
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
