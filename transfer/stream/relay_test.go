package stream

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestRelayOutlastsAServer restarts the NATS server in the middle of a stream: the
// stream goes on.
func TestRelayOutlastsAServer(t *testing.T) {
	server := testNATS(t, 0)
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := relayOver(t, session, server.ClientURL())
	const size = 64 << 20
	served(t, source, a, func(_ context.Context, s *Stream) {
		if _, err := s.Write(noise(1, size)); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = s.CloseWrite()
	})
	s := opened(t, destination, b)
	got := make([]byte, size)
	if _, err := io.ReadFull(s, got[:size/4]); err != nil {
		t.Fatal(err)
	}
	address := server.Addr()
	server.Shutdown()
	server.WaitForShutdown()
	testNATS(t, portOf(t, address))
	if _, err := io.ReadFull(s, got[size/4:]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, noise(1, size)) {
		t.Error("other bytes arrived than were sent")
	}
	if n, err := s.Read(got); n != 0 || err != io.EOF { //nolint:errorlint // io.EOF is never wrapped by a reader
		t.Errorf("after the data: %d bytes, %v", n, err)
	}
}

// TestOpenerTakesTheCarrierThatWorks has the direct way lead nowhere.
func TestOpenerTakesTheCarrierThatWorks(t *testing.T) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := joinRelay(t, session)
	served(t, source, a, func(_ context.Context, s *Stream) { _ = s.CloseWrite() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := l.Addr().String()
	_ = l.Close() // nobody listens there from now on
	o, err := NewOpener(destination, 300*time.Millisecond, Dial(Destination, nowhere), b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		begun := time.Now()
		s, err := o.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Carrier() != "relay" {
			t.Errorf("stream %d came over %s", i, s.Carrier())
		}
		if i == 1 && time.Since(begun) > 10*time.Second {
			t.Error("the second stream asked the direct way again")
		}
		_ = s.Close()
		cancel()
	}
}

func TestRelayForgetsOldStreams(t *testing.T) {
	r := &Relay{streams: map[string]*relayed{}, gone: map[string]uint64{}}
	for i := range uint64(3 * relayGone) {
		r.forget(string(rune(i+1000)), i)
	}
	if len(r.gone) > relayGone || len(r.order) > relayGone {
		t.Errorf("%d streams that are over are remembered", len(r.gone))
	}
}

func TestLimiterKeepsToItsRate(t *testing.T) {
	cases := map[string]struct {
		rate int64
		size int
	}{
		"Slow": {rate: 200 << 10, size: 400 << 10},
		"Fast": {rate: 40 << 20, size: 60 << 20},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := NewLimiter(c.rate)
			begun := time.Now()
			var wg sync.WaitGroup
			for range 4 { // together
				wg.Go(func() {
					for sent := 0; sent < c.size/4; sent += 16 << 10 {
						if err := l.Wait(t.Context(), 16<<10); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			want := float64(c.size) / float64(c.rate)
			if took := time.Since(begun).Seconds(); took < want*0.8 {
				t.Errorf("it took %.2f s, at the rate it takes %.2f s", took, want)
			}
		})
	}
}

func TestLimiterChanges(t *testing.T) {
	l := NewLimiter(1)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := l.Wait(ctx, 1<<20); err == nil {
		t.Error("a megabyte passed at a byte per second")
	}
	l.Set(0)
	if err := l.Wait(t.Context(), 1<<30); err != nil || l.Rate() != 0 {
		t.Errorf("without a limit: rate %d, %v", l.Rate(), err)
	}
	l.Set(5 << 20)
	if l.Rate() != 5<<20 {
		t.Errorf("the rate is %d", l.Rate())
	}
}

func portOf(t *testing.T, a net.Addr) int {
	t.Helper()
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		t.Fatalf("%v is no TCP address", a)
	}
	return tcp.Port
}
