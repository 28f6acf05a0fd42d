package pipeline_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

var updateSnapshot = flag.Bool("update-snapshot", false, "write the golden file of the snapshot format")

// fataler is what *testing.T, *testing.F and *rapid.T have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

func writeSnapshot(t fataler, site string, records []pipeline.Record, at pipeline.Moment) ([]byte, pipeline.Manifest) {
	t.Helper()
	var file bytes.Buffer
	w, err := pipeline.NewSnapshotWriter(&file, site)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := w.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(at, observed)
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), m
}

func readSnapshot(file []byte) ([]pipeline.Record, pipeline.Manifest, error) {
	in, err := pipeline.ReadSnapshot(bytes.NewReader(file))
	if err != nil {
		return nil, pipeline.Manifest{}, err
	}
	defer in.Close()
	var records []pipeline.Record
	for {
		r, err := in.Next()
		if errors.Is(err, io.EOF) {
			return records, in.Manifest(), nil
		}
		if err != nil {
			return records, pipeline.Manifest{}, err
		}
		records = append(records, r)
	}
}

// frozen is a state with every sort of record.
func frozen(t *testing.T) ([]pipeline.Record, pipeline.Moment) {
	t.Helper()
	first, second := pipeline.Position{Epoch: "01KDVDNA00B2R6KXB9X93ZKYC2", Seq: 7}, pipeline.Position{Epoch: "01KDVEABTGZ7XV7JKV8VV18ZNE"}
	events := goldenEvents(t)
	released := gone(pipeline.Ref{Site: "prod-nyc", Resource: "configmaps", Namespace: "shop", Name: "left"}, pipeline.EvidenceNone)
	released.Op = pipeline.OpRelease
	named := put(pipeline.Ref{Site: "prod-nyc", Group: "rbac.authorization.k8s.io", Resource: "roles", Name: "system:node \"日本\" 100%"}, `{"a":"<&>"}`)
	named.Manager = "Größe \"100%\"\n"
	records := []pipeline.Record{{Event: gone(pipeline.Ref{Site: "prod-nyc", Resource: "secrets", Namespace: "shop", Name: "old"}, pipeline.EvidenceSweep), Position: first}}
	for _, e := range []pipeline.Event{events["put"], named, released, events["heartbeat"]} {
		second.Seq += 3
		records = append(records, pipeline.Record{Event: e, Position: second})
	}
	for i := range records {
		records[i].Stored = records[i].Observed
	}
	second.Seq++
	return records, pipeline.Moment{Position: second, Time: observed.Add(time.Minute)}
}

func TestSnapshotKeepsEveryRecord(t *testing.T) {
	want, at := frozen(t)
	file, m := writeSnapshot(t, "prod-nyc", want, at)
	got, found, err := readSnapshot(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-written +read):\n%s", diff)
	}
	if diff := cmp.Diff(m, found); diff != "" {
		t.Errorf("manifest (-written +read):\n%s", diff)
	}
	if m.Records != 5 || m.Total() != 2 || m.Objects["apps/deployments"] != 1 || m.Size != int64(len(file)) || m.Moment != at {
		t.Errorf("manifest %+v", m)
	}
}

// TestSnapshotGolden pins the format: what a version has written, all later ones read.
func TestSnapshotGolden(t *testing.T) {
	records, at := frozen(t)
	file, _ := writeSnapshot(t, "prod-nyc", records, at)
	text := unpacked(t, file)
	plain, packed := filepath.Join("testdata", "snapshot", "v1.txt"), filepath.Join("testdata", "snapshot", "v1.drs")
	if *updateSnapshot {
		for path, data := range map[string][]byte{plain: text, packed: file} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := os.ReadFile(plain)
	if err != nil {
		t.Fatalf("%v: make it with -update-snapshot", err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("the lines have changed (-golden +now):\n%s", diff)
	}
	old, err := os.ReadFile(packed)
	if err != nil {
		t.Fatalf("%v: make it with -update-snapshot", err)
	}
	got, _, err := readSnapshot(old)
	if diff := cmp.Diff(records, got); err != nil || diff != "" {
		t.Errorf("the golden file reads differently, %v (-want +got):\n%s", err, diff)
	}
}

func unpacked(t *testing.T, file []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	text, err := z.DecodeAll(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func packed(t fataler, text []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(text, nil)
}

func TestSnapshotRefuses(t *testing.T) {
	records, at := frozen(t)
	file, _ := writeSnapshot(t, "prod-nyc", records, at)
	text := unpacked(t, file)
	lines := bytes.SplitAfter(text, []byte("\n"))
	change := func(old, replacement string) []byte {
		return packed(t, bytes.Replace(text, []byte(old), []byte(replacement), 1))
	}
	for name, bad := range map[string][]byte{
		"nothing":            nil,
		"not compressed":     text,
		"no beginning":       packed(t, bytes.Join(lines[1:], nil)),
		"another format":     change(`{"snapshot":1`, `{"snapshot":2`),
		"another site":       change(`"site":"prod-nyc"`, `"site":"prod-ams"`),
		"a record less":      packed(t, bytes.Join(append(append([][]byte{}, lines[0]), lines[2:]...), nil)),
		"records swapped":    packed(t, bytes.Join([][]byte{lines[0], lines[2], lines[3], lines[1], lines[4]}, nil)),
		"another body":       change(`{"kind":"Deployment"}`, `{"kind":"deployment"}`),
		"a longer body":      change(`"bytes":21`, `"bytes":22`),
		"a negative body":    change(`"bytes":21`, `"bytes":-1`),
		"an enormous body":   change(`"bytes":21`, `"bytes":99999999999`),
		"a large body":       change(`"bytes":21`, `"bytes":16777216`),
		"no end":             packed(t, bytes.Join(lines[:len(lines)-2], nil)),
		"more after the end": packed(t, append(bytes.Clone(text), '\n')),
		"an unknown op":      change(`"op":"put"`, `"op":"pot"`),
		"a put without body": change(`"op":"release"`, `"op":"put"`),
		"an enormous line":   packed(t, append(bytes.Clone(lines[0]), bytes.Repeat([]byte(" "), 10<<20)...)),
	} {
		t.Run(name, func(t *testing.T) {
			if got, _, err := readSnapshot(bad); !errors.Is(err, pipeline.ErrDamaged) {
				t.Errorf("read %d records, %v", len(got), err)
			}
		})
	}
	for cut := range len(file) {
		if _, _, err := readSnapshot(file[:cut]); !errors.Is(err, pipeline.ErrDamaged) {
			t.Fatalf("%d of %d bytes: %v", cut, len(file), err)
		}
	}
}

func TestSnapshotWriterRefuses(t *testing.T) {
	records, at := frozen(t)
	w, err := pipeline.NewSnapshotWriter(io.Discard, "prod-nyc")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(records[1]); err != nil {
		t.Fatal(err)
	}
	other, bare := records[2], records[2]
	other.Ref.Site, bare.Body = "other", nil
	for name, r := range map[string]pipeline.Record{"an older one": records[0], "it again": records[1], "another site's": other, "one without its body": bare} {
		if err := w.Add(r); err == nil {
			t.Errorf("it takes %s", name)
		}
	}
	at.Position.Seq = 1
	if _, err := w.Close(at, observed); err == nil {
		t.Error("it ends before its last record")
	}
}

// TestSnapshotReaderIsFrugal reads a file that claims to be far more than it is.
func TestSnapshotReaderIsFrugal(t *testing.T) {
	bomb := append([]byte(`{"snapshot":1,"site":"a"}`+"\n"), bytes.Repeat([]byte("0"), 256<<20)...)
	file := packed(t, bomb)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := readSnapshot(file); !errors.Is(err, pipeline.ErrDamaged) {
		t.Errorf("read: %v", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
		t.Errorf("%d bytes of file took %d MiB", len(file), took>>20)
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		site := rapid.StringN(1, 20, 60).Draw(t, "site")
		at := pipeline.Position{Epoch: rapid.StringMatching(`[0-7][0-9A-HJKMNP-TV-Z]{25}`).Draw(t, "epoch")}
		var want []pipeline.Record
		for range rapid.IntRange(0, 20).Draw(t, "records") {
			at.Seq += rapid.Uint64Range(1, 1<<30).Draw(t, "step")
			text := rapid.StringN(1, 20, 60)
			e := put(pipeline.Ref{Site: site, Group: text.Draw(t, "group"), Resource: text.Draw(t, "resource"), Namespace: text.Draw(t, "namespace"), Name: text.Draw(t, "name")},
				string(rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "body")))
			e.Manager = text.Draw(t, "manager")
			if rapid.Bool().Draw(t, "gone") {
				e = gone(e.Ref, pipeline.EvidenceWatch)
			}
			e.Observed = time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC()
			e.Trace = telemetry.TraceContext{}
			want = append(want, pipeline.Record{Event: e, Position: at, Stored: e.Observed})
		}
		file, m := writeSnapshot(t, site, want, pipeline.Moment{Position: at, Time: observed})
		got, found, err := readSnapshot(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("records (-written +read):\n%s", diff)
		}
		if diff := cmp.Diff(m, found); diff != "" {
			t.Errorf("manifest (-written +read):\n%s", diff)
		}
	})
}

// FuzzReadSnapshot reads anything, unpacked and as it is: it ends, and what it takes
// for a snapshot is written again as the same one.
func FuzzReadSnapshot(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "snapshot", "v1.txt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden, true)
	f.Add(packed(f, golden), false)
	f.Add([]byte(`{"snapshot":1,"site":"a"}`+"\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, pack bool) {
		if pack {
			data = packed(t, data)
		}
		records, m, err := readSnapshot(data)
		if err != nil {
			return
		}
		file, again := writeSnapshot(t, m.Site, records, m.Moment)
		if again.Records != m.Records {
			t.Errorf("%d records were read, %d written", m.Records, again.Records)
		}
		if got, _, err := readSnapshot(file); err != nil || !cmp.Equal(records, got) {
			t.Errorf("written again it reads differently: %v", err)
		}
	})
}
