package rsync

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	must(t, err)
	return text
}

func TestOutput(t *testing.T) {
	const text = "" +
		"          32768   0%    0.00kB/s    0:00:00  \r" +
		"       20971520  50%  453.84MB/s    0:00:00 (xfr#1, ir-chk=1002/1004)\r" +
		"       10971520  50%  453.84MB/s    0:00:00 (xfr#1, to-chk=2/1004)\n" +
		"cannot delete non-empty directory: a/b 3: Number of files: 7\n" +
		"Number of files: 1004 (reg: 2, dir: 2)\n" +
		"Number of deleted files: 8 (reg: 5, dir: 3)\n" +
		"Total file size: 20971520 bytes\n" +
		"Literal data: 20971520 bytes\n"
	for _, size := range []int{1, 7, len(text)} { // as the pieces come
		o := &output{}
		for rest := []byte(text); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if _, err := o.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		want := Stats{Files: 1004, Deleted: 8, Bytes: 20971520, Sent: 20971520}
		if diff := cmp.Diff(want, o.stats); diff != "" {
			t.Errorf("in pieces of %d: %s", size, diff)
		}
		if diff := cmp.Diff(Progress{Bytes: 20971520, Files: 1, Left: 2, Known: 1004, Complete: true}, o.progress); diff != "" {
			t.Errorf("in pieces of %d: %s", size, diff)
		}
	}
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("  20971520 100%  453.84MB/s    0:00:00 (xfr#1, to-chk=2/4)\r"), true)
	f.Add([]byte(">fcs.......\tpath\nNumber of files: 3\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, itemized bool) {
		o := &output{itemized: itemized}
		last := int64(0)
		o.onProgress = func(p Progress) {
			if p.Bytes < last || p.Left > p.Known {
				t.Errorf("progress went to %+v after %d bytes", p, last)
			}
			last = p.Bytes
		}
		for range 3 {
			if n, err := o.Write(b); n != len(b) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if len(o.line) > maxLine || len(o.differences) > maxNamed {
			t.Error("it keeps too much")
		}
		said := &problems{}
		_, _ = said.Write(b) // never fails
		if len(said.lines) > maxNamed || len(said.line) > maxPattern || said.skipped < 0 {
			t.Error("it keeps too much")
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("3.5.0")
	f.Add("v3.5.0+ds1")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseVersion(text)
		if err != nil {
			return
		}
		if again, err := ParseVersion(v.String()); err != nil || again != v {
			t.Errorf("%q is %v, which is read as %v, %v", text, v, again, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"pass":"Data","version":"3.5.0","acls":true}`))
	f.Add([]byte(`{"pass":"Data","version":"3.5.0","root":"/etc"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRequest(text)
		if err != nil {
			return
		}
		for _, a := range serverArgs(r, "/data/") {
			if !known(a) {
				t.Errorf("the request %s has made the argument %q", text, a)
			}
		}
	})
}

// known says whether an argument is one that the source may ever use.
func known(a string) bool {
	switch a {
	case "--server", "--sender", "--compress-level=1", "--timeout=120", "--checksum-choice=xxh128", "--compress-choice=zstd", "--numeric-ids",
		"--info=STATS2", "--inplace", "--copy-devices", "--files-from=-", "--from0", "--ignore-missing-args", ".", "/data/":
		return true
	}
	return strings.HasPrefix(a, "-") && strings.Trim(a, "-nIlHogDtpAXrcRSe.iLsfxCvu") == ""
}

// TestHostileRequests get nothing: no argument, no path, no pass of their own.
func TestHostileRequests(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `"Data"`,
		`{"pass":"Data"}`,
		`{"pass":"--sender","version":"3.5.0"}`,
		`{"pass":"Data","version":"3.5.0","args":["--daemon"]}`,
		`{"pass":"Data","version":"3.5.0","path":"/etc"}`,
		`{"pass":"Data","version":"3.5.0 --log-file=/x"} `[:10],
		`{"pass":"Receive","version":"3.5.0"}`,
		`{"pass":"Delete","version":"3.5.0","block":true}`,
	} {
		if r, err := parseRequest([]byte(text)); err == nil {
			t.Errorf("%s is taken as %+v", text, r)
		}
	}
}

func FuzzReceive(f *testing.F) {
	var good bytes.Buffer
	must(f, sendData(&good, strings.NewReader("data")))
	must(f, send(&good, messageExit, exitMessage{Code: 23, Problems: []string{"x"}}))
	f.Add(good.Bytes())
	f.Add([]byte{byte(messageData), 0, 0, 9, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		exit, err := receive(bufio.NewReader(bytes.NewReader(b)), &out)
		if out.Len() > len(b) {
			t.Errorf("%d bytes came of %d", out.Len(), len(b))
		}
		if err == nil && !bytes.Contains(b, []byte("{")) && exit.Code != 0 {
			t.Errorf("the exit code %d came of nothing", exit.Code)
		}
	})
}

// TestMessagesProperty has any data come through as it was, in messages of any size.
func TestMessagesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data"), rapid.IntRange(0, 5000).Draw(t, "times"))
		code := rapid.IntRange(0, 255).Draw(t, "code")
		var wire, out bytes.Buffer
		if err := sendData(&wire, io.MultiReader(bytes.NewReader(data))); err != nil {
			t.Fatal(err)
		}
		if err := send(&wire, messageExit, exitMessage{Code: code}); err != nil {
			t.Fatal(err)
		}
		whole := wire.Bytes()
		exit, err := receive(bufio.NewReader(bytes.NewReader(whole)), &out)
		if err != nil || exit.Code != code || !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("code %d, %d bytes, %v; want %d, %d", exit.Code, out.Len(), err, code, len(data))
		}
		cut := rapid.IntRange(0, len(whole)-1).Draw(t, "cut")
		if _, err := receive(bufio.NewReader(bytes.NewReader(whole[:cut])), io.Discard); err == nil {
			t.Fatalf("what was cut after %d of %d bytes is taken as whole", cut, len(whole))
		}
	})
}

func TestClasses(t *testing.T) {
	cases := map[int]Class{
		0: Done, 1: Permanent, 2: Permanent, 4: Permanent, 10: Transient, 11: Storage, 12: Transient, 14: Transient, 20: Canceled, 22: Memory,
		23: Partial, 24: Vanished, 25: TooManyDeletions, 30: Transient, 35: Transient, codeLost: Transient, 137: Transient, 255: Transient,
	}
	for code, want := range cases {
		if got, meaning := ClassOf(code); got != want || meaning == "" {
			t.Errorf("code %d is %s (%s), want %s", code, got, meaning, want)
		}
	}
	for c := Done; c <= Different; c++ {
		var again Class
		text, err := c.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != c {
			t.Errorf("%s is read as %s: %v", text, again, err)
		}
		must(t, err)
	}
}

func TestVersionOrder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		less bool
	}{{"3.4.9", "3.5.0", true}, {"3.5.0", "3.5.0", false}, {"3.10.0", "3.9.9", false}, {"2.9.9", "3.0.0", true}, {"3.5.0+ds1", "3.5.1", true}} {
		a, err := ParseVersion(c.a)
		must(t, err)
		b, err := ParseVersion(c.b)
		must(t, err)
		if a.Less(b) != c.less {
			t.Errorf("%s before %s: %t", c.a, c.b, a.Less(b))
		}
	}
}
