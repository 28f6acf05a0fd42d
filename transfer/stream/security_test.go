package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

// TestOnlyTheOtherEndGetsAStream has everybody else ask: the source hands out
// nothing, and the destination takes nothing from a source that is not its own.
func TestOnlyTheOtherEndGetsAStream(t *testing.T) {
	other := func(change func(*Session)) func(testing.TB, *End, *End) {
		return func(t testing.TB, source, destination *End) {
			s := source.Session
			change(&s)
			destination.Session = s
			destination.Identity = testIdentity(t, s, Destination)
			source.Peer = destination.Identity.Pin() // even if somebody pinned it
		}
	}
	cases := map[string]func(t testing.TB, source, destination *End){
		"WrongKey": func(t testing.TB, _, destination *End) {
			destination.Identity = testIdentity(t, destination.Session, Destination)
		},
		"WrongSource": func(t testing.TB, source, _ *End) {
			source.Identity = testIdentity(t, source.Session, Source)
		},
		"OtherClaim":   other(func(s *Session) { s.Claim = "prod/data/other" }),
		"OtherSession": other(func(s *Session) { s.ID = NewSessionID() }),
		"EarlierEpoch": other(func(s *Session) { s.Epoch-- }),
		"TheSourceItself": func(_ testing.TB, source, destination *End) {
			destination.Identity = source.Identity
			source.Peer = source.Identity.Pin()
		},
	}
	for name, change := range cases {
		for carrier, join := range carriers {
			t.Run(name+"/"+carrier, func(t *testing.T) {
				session := testSession()
				source, destination := testEnds(t, session)
				change(t, &source, &destination)
				a, b := join(t, session)
				served(t, source, a, func(context.Context, *Stream) { t.Error("the source serves a stream") })
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				raw, err := b.Connect(ctx)
				if err != nil {
					t.Fatal(err)
				}
				s, err := destination.secure(ctx, raw, b.Name()) // past the checks of its own end
				if err == nil {
					defer func() { _ = s.Close() }()
					var n int
					if n, err = s.Read(make([]byte, 1)); err == nil {
						t.Fatalf("the source gave it %d bytes", n)
					}
				}
			})
		}
	}
}

func TestExpiredIdentityOpensNothing(t *testing.T) {
	session := testSession()
	session.Expires = time.Now().Add(-time.Second)
	source, destination := testEnds(t, session)
	if _, err := NewOpener(destination, 0, Dial(Destination)); !errors.Is(err, ErrRefused) {
		t.Errorf("an expired end opens: %v", err)
	}
	if err := source.Validate(); !errors.Is(err, ErrRefused) {
		t.Errorf("an expired end serves: %v", err)
	}
	a, b := newBuffered()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := source.secure(t.Context(), a, "pipe"); err == nil {
			t.Error("an expired peer is let in")
		}
	})
	if _, err := destination.secure(t.Context(), b, "pipe"); !errors.Is(err, ErrRefused) {
		t.Errorf("an expired peer is taken: %v", err)
	}
	wg.Wait()
}

// TestReplayedSession records a whole stream on the relay and plays it to the
// source again: as it was, and under a stream of another name.
func TestReplayedSession(t *testing.T) {
	url := testNATS(t, 0).ClientURL()
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := relayOver(t, session, url)
	var served64 atomic.Int64
	served(t, source, a, func(_ context.Context, s *Stream) {
		served64.Add(1)
		_, _ = io.Copy(s, s) // seen by the other end
		_ = s.CloseWrite()
	})
	spy, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer spy.Close()
	tape := make(chan *nats.Msg, 1000)
	sub, err := spy.ChanSubscribe(DefaultPrefix+"."+session.ID+".*.source", tape)
	if err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	s := opened(t, destination, b)
	if _, err := s.Write([]byte("one claim, once")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "one claim, once" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	for _, rename := range []bool{false, true} {
		for n := len(tape); n > 0; n-- {
			m := <-tape
			tape <- m
			subject := m.Subject
			if rename {
				parts := strings.Split(subject, ".")
				parts[len(parts)-2] = "00000000deadbeef"
				subject = strings.Join(parts, ".")
			}
			if err := spy.Publish(subject, m.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	// A stream that is asked for after it is served after it.
	after := opened(t, destination, b)
	if err := after.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(after); err != nil {
		t.Fatal(err)
	}
	if n := served64.Load(); n != 2 {
		t.Errorf("%d streams were served, 2 were opened", n)
	}
}

// TestStrangersDoNotBlock has strangers hold connections to the listening source
// without a word: the right peer still gets its stream.
func TestStrangersDoNotBlock(t *testing.T) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, err := Listen(t.Context(), Source, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := Dial(Destination, a.Address().String())
	closeLater(t, a, b)
	served(t, source, a, func(_ context.Context, s *Stream) { _ = s.CloseWrite() })
	for range 3 { // four are served at once
		conn, err := net.Dial("tcp", a.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	if _, err := io.ReadAll(opened(t, destination, b)); err != nil {
		t.Error(err)
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	session := testSession()
	id := testIdentity(t, session, Source)
	text, err := id.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	var pin Pin
	if err := pin.UnmarshalText([]byte(id.Pin().String())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Pin{id.Pin(), id.Pin()}, []Pin{again.Pin(), pin}); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "sha256:", "sha256:00", strings.Repeat("0", 64), "sha1:" + strings.Repeat("0", 64)} {
		if err := pin.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as a pin", bad)
		}
	}
	if _, err := ParseIdentity(text[:len(text)/2]); err == nil || strings.Contains(err.Error(), "BEGIN") {
		t.Errorf("half an identity is read: %v", err)
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if id, err := ParseIdentity(text); err == nil && id.cert.PrivateKey == nil {
			t.Error("an identity without a key")
		}
	})
}
