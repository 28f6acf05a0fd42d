package stream

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestHalvesProperty has any order of writing, sending, losing, repeating, reading,
// granting and rewinding bring exactly what was written, within the window.
func TestHalvesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := sender{ring: newRing(maxWindow), credit: firstWindow}, newReceiver(time.Unix(0, 0))
		now := time.Unix(0, 0)
		var written, read []byte
		var flight []frame
		buf := make([]byte, 100_000)
		send := func() {
			if off, n, fin := out.fill(buf); n > 0 || fin {
				flight = append(flight, frame{kind: frameData, offset: off, payload: bytes.Clone(buf[:n])})
			}
		}
		deliver := func(f frame) {
			if f.offset+uint64(len(f.payload)) > in.granted {
				t.Fatalf("%d bytes from %d were sent, granted were %d", len(f.payload), f.offset, in.granted)
			}
			if len(f.payload) == 0 {
				in.finish(f.offset)
			} else {
				in.accept(f.offset, f.payload)
			}
			if in.ring.held() > maxWindow {
				t.Fatalf("%d bytes are held", in.ring.held())
			}
		}
		take := func() {
			p := make([]byte, rapid.IntRange(1, 200_000).Draw(t, "room"))
			read = append(read, p[:in.ring.read(p)]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				if out.sealed {
					t.Skip("it is closed")
				}
				p := noise(uint64(len(written)), rapid.IntRange(1, 300_000).Draw(t, "size"))
				written = append(written, p[:out.write(p)]...)
			},
			"close": func(*rapid.T) { out.sealed = true },
			"send":  func(*rapid.T) { send() },
			"deliver": func(t *rapid.T) {
				if len(flight) == 0 {
					t.Skip("nothing is on its way")
				}
				i := rapid.IntRange(0, len(flight)-1).Draw(t, "which")
				deliver(flight[i])
				if rapid.Bool().Draw(t, "only once") {
					flight = append(flight[:i], flight[i+1:]...)
				}
			},
			"lose":   func(*rapid.T) { flight = nil },
			"rewind": func(*rapid.T) { out.rewind() },
			"read":   func(*rapid.T) { take() },
			"tell": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
				credit := in.grant(now)
				if rapid.Bool().Draw(t, "heard") {
					out.learn(in.ack(), credit)
				}
			},
			"": func(t *rapid.T) {
				if !bytes.HasPrefix(written, read) {
					t.Fatalf("what was read is not what was written")
				}
			},
		})
		out.sealed = true
		for range 10_000 { // an honest link brings the rest
			if out.done {
				break
			}
			out.rewind()
			for out.ready() {
				send()
			}
			for _, f := range flight {
				deliver(f)
			}
			flight = nil
			take()
			out.learn(in.ack(), in.grant(now))
		}
		for in.ring.held() > 0 {
			take()
		}
		if !out.done || !in.ended || !bytes.Equal(written, read) {
			t.Fatalf("done %t, ended %t, %d of %d bytes were read", out.done, in.ended, len(read), len(written))
		}
	})
}

func TestWindowFollowsTheRate(t *testing.T) {
	cases := map[string]struct {
		rate int // bytes read per second
		want int
	}{
		"AFastReaderHasTheWholeWindow":  {rate: 400 << 20, want: maxWindow},
		"ASlowReaderHasTheSmallest":     {rate: 100 << 10, want: minWindow},
		"BetweenItIsHalfASecondsWorth":  {rate: 4 << 20, want: 2 << 20},
		"AVerySlowReaderHasTheSmallest": {rate: 1, want: minWindow},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			r := newReceiver(now)
			for range 200 {
				now = now.Add(100 * time.Millisecond)
				n := max(c.rate/10, 1)
				r.ring.start += uint64(n)
				r.ring.end = r.ring.start
				r.grant(now)
			}
			if d := r.window - c.want; d < -c.want/50 || d > c.want/50 {
				t.Errorf("the window is %d, want about %d", r.window, c.want)
			}
		})
	}
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := frame{
			kind:   frameType(rapid.IntRange(1, int(frameLast)).Draw(t, "kind")),
			epoch:  rapid.Uint64().Draw(t, "epoch"),
			offset: rapid.Uint64Range(0, 1<<62).Draw(t, "offset"),
			ack:    rapid.Uint64().Draw(t, "ack"), credit: rapid.Uint64().Draw(t, "credit"),
		}
		if f.kind == frameData {
			f.payload = rapid.SliceOfN(rapid.Byte(), 1, 1000).Draw(t, "payload")
		}
		wire := encodeFrame(f)
		got, err := parseFrame(wire)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.payload) == 0 {
			got.payload = nil
		}
		if diff := cmp.Diff(f, got, cmp.AllowUnexported(frame{})); diff != "" {
			t.Fatal(diff)
		}
		bit := rapid.IntRange(0, len(wire)*8-1).Draw(t, "bit")
		wire[bit/8] ^= 1 << (bit % 8)
		if _, err := parseFrame(wire); err == nil {
			t.Fatalf("a frame with bit %d flipped is taken", bit)
		}
	})
}

func FuzzParseFrame(f *testing.F) {
	f.Add(encodeFrame(frame{kind: frameOpen, epoch: 1}))
	f.Add(encodeFrame(frame{kind: frameData, epoch: 1, offset: 5, payload: []byte("data")}))
	f.Add([]byte{frameVersion, byte(frameFin)})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFrame(b)
		if err != nil {
			return
		}
		if again := encodeFrame(got); !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is written as %x", b, got, again)
		}
	})
}

// FuzzHandle has a hostile peer say anything, in frames that are well formed: no
// memory beyond the window, no data that was not sent in order, no panic.
func FuzzHandle(f *testing.F) {
	f.Add([]byte{3, 0, 10, 5, 2, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := newRelayed("id", 1, false, defaultTiming(), func(string, []byte) error { return nil }, func(uint64) {})
		_, _ = c.Write([]byte("something to acknowledge"))
		buf := make([]byte, headerSize+maxPayload)
		for len(script) >= 5 {
			f := frame{kind: frameType(script[0]%byte(frameLast)) + 1, offset: uint64(script[1]) << (script[1] % 60), ack: uint64(script[2]) << (script[2] % 60), credit: uint64(script[3]) << (script[3] % 60)}
			if f.kind == frameData {
				f.payload = make([]byte, int(script[4])*500+1)
			}
			c.handle(f)
			c.next(buf)
			script = script[5:]
		}
		if c.in.ring.held() > maxWindow || len(c.in.ring.buf) > maxWindow {
			t.Errorf("%d bytes are held", c.in.ring.held())
		}
		if c.out.ring.start > c.out.ring.end || c.out.next > c.out.ring.end || c.out.next < c.out.ring.start {
			t.Errorf("the sender stands at %d of %d..%d", c.out.next, c.out.ring.start, c.out.ring.end)
		}
	})
}
