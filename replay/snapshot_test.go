package replay_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
)

func exported(t *testing.T, past *replay.Past, name string) *bytes.Reader {
	t.Helper()
	var file bytes.Buffer
	if _, err := past.Export(t.Context(), name, &file); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(file.Bytes())
}

func TestDamagedSnapshotIsFound(t *testing.T) {
	l := memoryLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(3, 3)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(200, 2)
	m := j.snapshot()
	whole, err := io.ReadAll(exported(t, l.past, m.Name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.past.Verify(t.Context(), m.Name); err != nil {
		t.Errorf("verify a good one: %v", err)
	}
	cases := map[string][]byte{
		"cut short": whole[:len(whole)-1], "half": whole[:len(whole)/2], "empty": nil,
		"a bit flipped": flipped(whole), "twice": append(bytes.Clone(whole), whole...), "another file": []byte("not a snapshot"),
	}
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			if err := l.past.Snapshots.Put(t.Context(), m, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.past.Verify(t.Context(), m.Name); !errors.Is(err, pipeline.ErrDamaged) {
				t.Errorf("verify: %v", err)
			}
			if _, err := l.past.Export(t.Context(), m.Name, io.Discard); !errors.Is(err, pipeline.ErrDamaged) {
				t.Errorf("export: %v", err)
			}
			if _, err := l.past.Import(t.Context(), bytes.NewReader(data)); !errors.Is(err, pipeline.ErrDamaged) {
				t.Errorf("import: %v", err)
			}
			for _, err := range l.past.State(t.Context(), m.Position, pipeline.Query{}) {
				if err != nil && !errors.Is(err, pipeline.ErrDamaged) {
					t.Errorf("state: %v", err)
				}
			}
		})
	}
	if _, err := l.past.Verify(t.Context(), "none"); !errors.Is(err, pipeline.ErrNoSnapshot) {
		t.Errorf("verify what is not there: %v", err)
	}
}

func flipped(file []byte) []byte {
	data := bytes.Clone(file)
	data[len(data)/2] ^= 4
	return data
}
