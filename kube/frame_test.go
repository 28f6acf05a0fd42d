package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// readAll returns all frames and the error that ended them.
func readAll(r io.Reader) ([]string, error) {
	f := newFrameReader(r)
	var frames []string
	for {
		frame, err := f.next()
		if err != nil {
			return frames, err
		}
		frames = append(frames, string(frame))
	}
}

func TestFrames(t *testing.T) {
	big := `{"a":"` + strings.Repeat(`x\"{`, 100_000) + `"}`
	for _, tt := range []struct {
		name, in string
		want     []string
		err      error
	}{
		{"none", "", nil, io.EOF},
		{"white space only", " \n\t\r", nil, io.EOF},
		{"lines", "{}\n{\"a\":1}\n", []string{"{}", `{"a":1}`}, io.EOF},
		{"without separator", `{}{"a":{}}`, []string{"{}", `{"a":{}}`}, io.EOF},
		{"over many lines", "{\n \"a\": [\n1]\n}\n", []string{"{\n \"a\": [\n1]\n}"}, io.EOF},
		{"braces and quotes in strings", `{"}":"{\"\\\\\""}{}`, []string{`{"}":"{\"\\\\\""}`, "{}"}, io.EOF},
		{"larger than the buffer", big + "\n{}", []string{big, "{}"}, io.EOF},
		{"cut in an object", `{}{"a":{}`, []string{"{}"}, io.ErrUnexpectedEOF},
		{"cut in a string", `{"a":"}`, nil, io.ErrUnexpectedEOF},
		{"cut after an escape", `{"a":"\`, nil, io.ErrUnexpectedEOF},
		{"not an object", `{} nope`, []string{"{}"}, errFrame},
		{"closes what is not open", `}`, nil, errFrame},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"at once":      strings.NewReader(tt.in),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
				"with its end": iotest.DataErrReader(strings.NewReader(tt.in)),
			} {
				got, err := readAll(r)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
				if !errors.Is(err, tt.err) {
					t.Errorf("%s: ended by %v, want %v", name, err, tt.err)
				}
			}
		})
	}
}

func TestFramesAreWhatWasWritten(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune(`"\{}[]: ,aä`+"\n\t")), 0, 60, -1)
	rapid.Check(t, func(t *rapid.T) {
		var in bytes.Buffer
		var want []string
		for range rapid.IntRange(0, 8).Draw(t, "frames") {
			frame, err := json.Marshal(map[string]any{text.Draw(t, "key"): []any{text.Draw(t, "value"), map[string]any{}}})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, string(frame))
			in.Write(frame)
			in.WriteString(rapid.SampledFrom([]string{"", "\n", " \r\n"}).Draw(t, "separator"))
		}
		got, err := readAll(choppy{&in})
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// choppy reads as much as it likes.
type choppy struct{ r io.Reader }

func (c choppy) Read(p []byte) (int, error) { return c.r.Read(p[:1+rand.IntN(min(len(p), 40))]) }

func FuzzFrames(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{}}` + "\n"))
	f.Add([]byte(`{"a":"\\\""}{`))
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, err := readAll(bytes.NewReader(in))
		if err == nil {
			t.Fatal("no end")
		}
		chopped, choppedErr := readAll(iotest.OneByteReader(bytes.NewReader(in)))
		if diff := cmp.Diff(frames, chopped); diff != "" || err.Error() != choppedErr.Error() {
			t.Errorf("frames depend on how the stream is read: %v, %v\n%s", err, choppedErr, diff)
		}
		// What a decoder of the standard library finds, as long as it finds objects, is found.
		decoder := json.NewDecoder(bytes.NewReader(in))
		for i := 0; ; i++ {
			var value json.RawMessage
			if decoder.Decode(&value) != nil || len(value) == 0 || value[0] != '{' {
				return
			}
			if i >= len(frames) || frames[i] != string(value) {
				t.Fatalf("frame %d is not %q", i, value)
			}
		}
	})
}
