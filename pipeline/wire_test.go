package pipeline_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

var observed = time.Date(2026, 3, 14, 15, 9, 26, 535897932, time.UTC)

// put is a well-formed event to vary.
func put(ref pipeline.Ref, body string) pipeline.Event {
	return pipeline.Event{
		Ref: ref, Op: pipeline.OpPut,
		UID: "0b8a3f0e-8f5c-4c55-9d34-5a2f0c6f4d11", Version: "4711",
		APIVersion: "apps/v1", Kind: "Deployment", Manager: "kubectl",
		Observed: observed,
		Digest:   pipeline.DigestOf([]byte(body)), Body: []byte(body),
	}
}

// gone is a well-formed tombstone to vary.
func gone(ref pipeline.Ref, evidence pipeline.Evidence) pipeline.Event {
	e := put(ref, "")
	e.Op, e.Evidence, e.Digest, e.Body = pipeline.OpDelete, evidence, pipeline.Digest{}, nil
	return e
}

var web = pipeline.Ref{Site: "prod-nyc", Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}

func goldenEvents(t *testing.T) map[string]pipeline.Event {
	t.Helper()
	heartbeat, err := pipeline.Heartbeat{
		Time: observed, Incarnation: "6d1f", Complete: true,
		Through: map[string]string{"apps/deployments": "4711"}, Outbox: 3,
	}.Event("prod-nyc")
	if err != nil {
		t.Fatal(err)
	}
	release := gone(web, pipeline.EvidenceNone)
	release.Op = pipeline.OpRelease
	traced := put(web, `{"kind":"Deployment"}`)
	traced.Trace = telemetry.TraceContext{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "vendor=a b"}
	weird := put(pipeline.Ref{
		Site: "a.b>*", Resource: "config maps", Namespace: "_",
		Name: "system:node:*.>=%\"\t日本",
	}, `{}`)
	weird.Manager = "Größe \"100%\"\n"
	return map[string]pipeline.Event{
		"put":             traced,
		"delete-watch":    gone(web, pipeline.EvidenceWatch),
		"delete-replaced": gone(web, pipeline.EvidenceReplaced),
		"delete-sweep":    gone(web, pipeline.EvidenceSweep),
		"release":         release,
		"heartbeat":       heartbeat,
		"cluster-scoped":  put(pipeline.Ref{Site: "prod-nyc", Resource: "namespaces", Name: "shop"}, `{"kind":"Namespace"}`),
		"weird-names":     weird,
		"compressed":      put(web, `{"data":"`+strings.Repeat("dr-syncer ", 10_000)+`"}`),
	}
}

// TestWireGolden pins the wire form: what is in a log today must be readable
// for ever, and what is written today must not change unnoticed.
func TestWireGolden(t *testing.T) {
	events := goldenEvents(t)
	for name, event := range events {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "wire", name+".txt")
			m, err := pipeline.Encode(event)
			if err != nil {
				t.Fatalf("Encode: %v", err)
			}
			if *update {
				if err := os.WriteFile(path, formatMessage(m), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			stored := parseMessage(t, want)
			got := m
			if m.Header[pipeline.HeaderContentEncoding] != nil {
				// Another release of the compressor may find other bytes.
				got.Data = stored.Data
			}
			if diff := cmp.Diff(string(want), string(formatMessage(got))); diff != "" {
				t.Errorf("wire form changed (-golden +now):\n%s", diff)
			}
			back, err := pipeline.Decode(stored)
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if diff := cmp.Diff(event, back); diff != "" {
				t.Errorf("decoded event differs (-want +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "wire", "*.txt"))
	if err != nil || len(files) != len(events) {
		t.Errorf("%d golden files for %d events (%v)", len(files), len(events), err)
	}
}

// formatMessage writes a message for people to review: data that is not text
// stands as base64.
func formatMessage(m pipeline.Message) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", m.Subject)
	for _, k := range slices.Sorted(maps.Keys(m.Header)) {
		for _, v := range m.Header[k] {
			fmt.Fprintf(&b, "%s: %s\n", k, v)
		}
	}
	b.WriteByte('\n')
	if m.Header[pipeline.HeaderContentEncoding] != nil {
		b.WriteString(base64.StdEncoding.EncodeToString(m.Data))
	} else {
		b.Write(m.Data)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func parseMessage(t *testing.T, text []byte) pipeline.Message {
	t.Helper()
	head, data, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		t.Fatal("golden file has no empty line")
	}
	lines := strings.Split(head, "\n")
	m := pipeline.Message{Subject: lines[0], Header: map[string][]string{}}
	for _, line := range lines[1:] {
		k, v, _ := strings.Cut(line, ": ")
		m.Header[k] = append(m.Header[k], v)
	}
	data = strings.TrimSuffix(data, "\n")
	m.Data = []byte(data)
	if m.Header[pipeline.HeaderContentEncoding] != nil {
		raw, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			t.Fatal(err)
		}
		m.Data = raw
	}
	return m
}

func TestEncodeRefuses(t *testing.T) {
	huge := bytes.Repeat([]byte("x"), pipeline.MaxBody+1)
	cases := map[string]struct {
		change func(*pipeline.Event)
		want   error
	}{
		"no operation":          {change: func(e *pipeline.Event) { e.Op = 0 }},
		"unknown operation":     {change: func(e *pipeline.Event) { e.Op = 99 }},
		"no site":               {change: func(e *pipeline.Event) { e.Ref.Site = "" }},
		"no resource":           {change: func(e *pipeline.Event) { e.Ref.Resource = "" }},
		"no name":               {change: func(e *pipeline.Event) { e.Ref.Name = "" }},
		"no UID":                {change: func(e *pipeline.Event) { e.UID = "" }},
		"no version":            {change: func(e *pipeline.Event) { e.Version = "" }},
		"no kind":               {change: func(e *pipeline.Event) { e.Kind = "" }},
		"no body":               {change: func(e *pipeline.Event) { e.Body = nil }},
		"other digest":          {change: func(e *pipeline.Event) { e.Digest[0]++ }},
		"no digest":             {change: func(e *pipeline.Event) { e.Digest = pipeline.Digest{} }},
		"put with evidence":     {change: func(e *pipeline.Event) { e.Evidence = pipeline.EvidenceSweep }},
		"delete unproven":       {change: func(e *pipeline.Event) { *e = gone(web, pipeline.EvidenceNone) }},
		"delete badly proven":   {change: func(e *pipeline.Event) { *e = gone(web, 77) }},
		"delete with body":      {change: func(e *pipeline.Event) { e.Op, e.Evidence = pipeline.OpDelete, pipeline.EvidenceWatch }},
		"heartbeat of object":   {change: func(e *pipeline.Event) { e.Op = pipeline.OpHeartbeat }},
		"body too large":        {change: func(e *pipeline.Event) { e.Body, e.Digest = huge, pipeline.DigestOf(huge) }, want: pipeline.ErrTooLarge},
		"subject too large":     {change: func(e *pipeline.Event) { e.Ref.Name = strings.Repeat("é", 600) }, want: pipeline.ErrTooLarge},
		"header too large":      {change: func(e *pipeline.Event) { e.Manager = strings.Repeat("x", 5000) }, want: pipeline.ErrTooLarge},
		"year that has no text": {change: func(e *pipeline.Event) { e.Observed = time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC) }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := put(web, `{"kind":"Deployment"}`)
			tc.change(&e)
			m, err := pipeline.Encode(e)
			if err == nil {
				t.Fatalf("Encode took it: %+v", m.Header)
			}
			if class := pipeline.ClassOf(err); class != pipeline.Malformed {
				t.Errorf("error %v is of class %s", err, class)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v does not wrap %v", err, tc.want)
			}
			if strings.Contains(err.Error(), "Deployment\"}") {
				t.Errorf("error shows the body: %v", err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	bomb := func(size int) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(make([]byte, size), nil)
	}
	set := func(k, v string) func(*pipeline.Message) {
		return func(m *pipeline.Message) { m.Header[k] = []string{v} }
	}
	drop := func(k string) func(*pipeline.Message) {
		return func(m *pipeline.Message) { delete(m.Header, k) }
	}
	body := func(data []byte, encoding string) func(*pipeline.Message) {
		return func(m *pipeline.Message) {
			m.Data = data
			m.Header[pipeline.HeaderContentEncoding] = []string{encoding}
		}
	}
	cases := map[string]func(*pipeline.Message){
		"empty message":   func(m *pipeline.Message) { *m = pipeline.Message{} },
		"no header":       func(m *pipeline.Message) { m.Header = nil },
		"foreign subject": func(m *pipeline.Message) { m.Subject = "orders.new" },
		"other object's subject": func(m *pipeline.Message) {
			m.Subject = pipeline.Ref{Site: "prod-nyc", Resource: "pods", Name: "x"}.Subject()
		},
		"other site's subject":    func(m *pipeline.Message) { m.Subject = strings.Replace(m.Subject, "prod", "test", 1) },
		"heartbeat's subject":     func(m *pipeline.Message) { m.Subject = pipeline.HeartbeatSubject("prod-nyc") },
		"endless subject":         func(m *pipeline.Message) { m.Subject = strings.Repeat("x", 1<<20) },
		"no spec version":         drop(pipeline.HeaderSpecVersion),
		"no id":                   drop(pipeline.HeaderID),
		"no source":               drop(pipeline.HeaderSource),
		"no type":                 drop(pipeline.HeaderType),
		"no subject":              drop(pipeline.HeaderSubject),
		"no time":                 drop(pipeline.HeaderTime),
		"no content type":         drop(pipeline.HeaderContentType),
		"no UID":                  drop(pipeline.HeaderUID),
		"no version":              drop(pipeline.HeaderVersion),
		"no digest":               drop(pipeline.HeaderDigest),
		"no kind":                 drop(pipeline.HeaderKind),
		"future spec version":     set(pipeline.HeaderSpecVersion, "2.0"),
		"other id":                set(pipeline.HeaderID, "x/1/put"),
		"other subject":           set(pipeline.HeaderSubject, "apps/deployments/shop/api"),
		"unknown type":            set(pipeline.HeaderType, "io.dr-syncer.rename"),
		"type of others":          set(pipeline.HeaderType, "put"),
		"heartbeat on an object":  set(pipeline.HeaderType, "io.dr-syncer.heartbeat"),
		"evidence on a put":       set(pipeline.HeaderEvidence, "watch"),
		"delete without evidence": set(pipeline.HeaderType, "io.dr-syncer.delete"),
		"unknown evidence":        set(pipeline.HeaderEvidence, "rumor"),
		"bad time":                set(pipeline.HeaderTime, "yesterday"),
		"bad digest":              set(pipeline.HeaderDigest, "xyz"),
		"upper-case digest": func(m *pipeline.Message) {
			m.Header[pipeline.HeaderDigest][0] = strings.ToUpper(m.Header[pipeline.HeaderDigest][0])
		},
		"second form of a value":   set(pipeline.HeaderManager, "%6Bubectl"),
		"cut escape":               set(pipeline.HeaderManager, "kubectl%2"),
		"two values":               func(m *pipeline.Message) { m.Header[pipeline.HeaderUID] = append(m.Header[pipeline.HeaderUID], "x") },
		"endless header":           set(pipeline.HeaderManager, strings.Repeat("x", 1<<20)),
		"truncated body":           func(m *pipeline.Message) { m.Data = m.Data[:len(m.Data)-1] },
		"no body":                  func(m *pipeline.Message) { m.Data = nil },
		"changed body":             func(m *pipeline.Message) { m.Data = bytes.ToUpper(m.Data) },
		"unknown encoding":         body([]byte("x"), "br"),
		"not compressed after all": body([]byte("x"), "zstd"),
		"empty compressed":         body(nil, "zstd"),
		"bomb, size announced":     body(bomb(1<<30), "zstd"),
		"bomb of many frames":      body(bytes.Repeat(bomb(pipeline.MaxBody/2), 64), "zstd"),
		"oversized plain body":     body(make([]byte, pipeline.MaxBody+1), ""),
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := pipeline.Encode(put(web, `{"kind":"Deployment"}`))
			if err != nil {
				t.Fatal(err)
			}
			change(&m)
			e, err := pipeline.Decode(m)
			if !errors.Is(err, pipeline.ErrForeign) {
				t.Fatalf("Decode = %+v, %v; want ErrForeign", e, err)
			}
			if diff := cmp.Diff(pipeline.Event{}, e); diff != "" {
				t.Errorf("event beside the error: %s", diff)
			}
			if len(err.Error()) > 16<<10 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestDecodeRefusesBodyOfTombstone(t *testing.T) {
	m, err := pipeline.Encode(gone(web, pipeline.EvidenceWatch))
	if err != nil {
		t.Fatal(err)
	}
	m.Data = []byte("{}")
	if _, err := pipeline.Decode(m); !errors.Is(err, pipeline.ErrForeign) {
		t.Errorf("Decode: %v", err)
	}
}

func TestDecodeForgivesBrokenTrace(t *testing.T) {
	for name, parent := range map[string]string{"control": "a\nb", "long": strings.Repeat("x", 2000), "padded": " x "} {
		t.Run(name, func(t *testing.T) {
			want := put(web, "{}")
			m, err := pipeline.Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			m.Header[pipeline.HeaderTraceParent] = []string{parent}
			got, err := pipeline.Decode(m)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("Decode: %v\n%s", err, diff)
			}
			want.Trace.Parent = parent
			if m, err = pipeline.Encode(want); err != nil || m.Header[pipeline.HeaderTraceParent] != nil {
				t.Errorf("Encode wrote the trace %q: %v", m.Header[pipeline.HeaderTraceParent], err)
			}
		})
	}
}

// anyEvent generates well-formed events, with strings of any bytes.
func anyEvent() *rapid.Generator[pipeline.Event] {
	return rapid.Custom(func(t *rapid.T) pipeline.Event {
		text := func(label string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, label)) }
		some := func(label string) string { return string(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, label)) }
		e := pipeline.Event{
			Op:       pipeline.Op(rapid.IntRange(int(pipeline.OpPut), int(pipeline.OpHeartbeat)).Draw(t, "op")),
			Observed: time.Unix(rapid.Int64Range(-1e9, 1e11).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).UTC(),
		}
		e.Ref.Site = some("site")
		if e.Op == pipeline.OpPut || e.Op == pipeline.OpHeartbeat {
			e.Body = []byte(some("body"))
			if rapid.Bool().Draw(t, "large") {
				e.Body = bytes.Repeat(e.Body, 4000)
			}
			e.Digest = pipeline.DigestOf(e.Body)
		}
		if e.Op == pipeline.OpHeartbeat {
			return e
		}
		e.Ref.Group, e.Ref.Resource = text("group"), some("resource")
		e.Ref.Namespace, e.Ref.Name = text("namespace"), some("name")
		e.UID, e.Version, e.Manager = some("uid"), some("version"), text("manager")
		e.APIVersion, e.Kind = some("apiVersion"), some("kind")
		if e.Op == pipeline.OpDelete {
			e.Evidence = pipeline.Evidence(rapid.IntRange(int(pipeline.EvidenceWatch), int(pipeline.EvidenceEmptied)).Draw(t, "evidence"))
		}
		return e
	})
}

func TestWireRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyEvent().Draw(t, "event")
		m, err := pipeline.Encode(want)
		if err != nil {
			t.Fatalf("Encode: %v", err)
		}
		for k, v := range m.Header {
			if strings.ContainsFunc(v[0], func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(v[0]) != v[0] {
				t.Errorf("header %s is not printable: %q", k, v)
			}
		}
		got, err := pipeline.Decode(m)
		if err != nil {
			t.Fatalf("Decode: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("round trip (-want +got):\n%s", diff)
		}
		m.Data = nil
		want.Body = nil
		got, err = pipeline.DecodeHeaders(m)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("DecodeHeaders: %v (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzDecode feeds Decode hostile messages. What it takes must be something
// that Encode writes, with the same meaning.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "wire", "*.txt"))
	if err != nil || len(files) == 0 {
		f.Fatalf("golden files: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		head, data, _ := strings.Cut(string(text), "\n\n")
		if strings.Contains(head, pipeline.HeaderContentEncoding) {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data))
			if err != nil {
				f.Fatal(err)
			}
			data = string(raw)
		}
		f.Add(head, []byte(strings.TrimSuffix(data, "\n")))
	}
	f.Fuzz(func(t *testing.T, head string, data []byte) {
		lines := strings.Split(head, "\n")
		m := pipeline.Message{Subject: lines[0], Header: map[string][]string{}, Data: data}
		for _, line := range lines[1:] {
			k, v, _ := strings.Cut(line, ": ")
			m.Header[k] = append(m.Header[k], v)
		}
		e, err := pipeline.Decode(m)
		if err != nil {
			if !errors.Is(err, pipeline.ErrForeign) {
				t.Fatalf("error does not wrap ErrForeign: %v", err)
			}
			return
		}
		again, err := pipeline.Encode(e)
		if err != nil {
			t.Fatalf("decoded event cannot be encoded: %v", err)
		}
		if again.Subject != m.Subject {
			t.Fatalf("subject %q became %q", m.Subject, again.Subject)
		}
		back, err := pipeline.Decode(again)
		if diff := cmp.Diff(e, back); err != nil || diff != "" {
			t.Fatalf("second decode: %v\n%s", err, diff)
		}
	})
}
