package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// noise is n bytes that depend on the seed only.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

// TestCarriers holds every carrier to the same promises.
func TestCarriers(t *testing.T) {
	for name, join := range carriers {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(*testing.T, joined)
			}{
				{"BothDirectionsAtOnce", bothDirections},
				{"EachDirectionEndsByItself", halfClose},
				{"SeveralAtOnce", several},
				{"ACutIsNoEnd", cutIsNoEnd},
				{"WhatIsGivenUpIsNoEnd", givenUpIsNoEnd},
				{"ItEndsWithItsContext", endsWithContext},
				{"ASlowReaderHoldsTheWriter", holdsTheWriter},
				{"TheWireIsCounted", wireIsCounted},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(t, join) })
			}
		})
	}
}

// bothDirections has both ends write before they read: neither may wait for the other.
func bothDirections(t *testing.T, join joined) {
	const size = 6 << 20
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	exchange := func(s *Stream, seed uint64, want []byte) {
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Write(noise(seed, size)); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Errorf("close the direction: %v", err)
			}
		})
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes arrived, error %v; %d other ones were sent", len(got), err, len(want))
		}
		wg.Wait()
	}
	done := make(chan struct{})
	served(t, source, a, func(_ context.Context, s *Stream) {
		defer close(done)
		exchange(s, 1, noise(2, size))
	})
	exchange(opened(t, destination, b), 2, noise(1, size))
	<-done
}

func halfClose(t *testing.T, join joined) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(_ context.Context, s *Stream) {
		got, err := io.ReadAll(s) // to its end
		if err != nil {
			t.Errorf("read: %v", err)
		}
		sum := sha256.Sum256(got)
		_, _ = s.Write(sum[:]) // the other end sees what is missing
		_ = s.CloseWrite()
	})
	s := opened(t, destination, b)
	sent := noise(3, 300_000)
	if _, err := s.Write(sent); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(sent)
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("after our direction was closed the peer said %x, error %v; want %x", got, err, want)
	}
	if _, err := s.Write([]byte("more")); err == nil {
		t.Error("a closed direction takes more")
	}
}

func several(t *testing.T, join joined) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(_ context.Context, s *Stream) {
		_, _ = io.Copy(s, s) // the other end sees what is missing
		_ = s.CloseWrite()
	})
	o, err := NewOpener(destination, time.Second, b)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 { // more than are served at once
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := o.Open(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = s.Close() }()
			sent := noise(uint64(i), 200_000)
			wg.Go(func() {
				_, _ = s.Write(sent) // seen in what comes back
				_ = s.CloseWrite()
			})
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d brought %d bytes back, error %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func cutIsNoEnd(t *testing.T, join joined) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	cut := &cutting{Carrier: a}
	written := make(chan struct{})
	served(t, source, cut, func(ctx context.Context, s *Stream) {
		_, _ = s.Write(noise(4, 1000)) // read below
		close(written)
		<-ctx.Done()
	})
	s := opened(t, destination, b)
	got := make([]byte, 1000)
	if _, err := io.ReadFull(s, got); err != nil {
		t.Fatal(err)
	}
	<-written
	cut.cut()
	if n, err := s.Read(got); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after a cut the reader got %d bytes, error %v: as if the peer had finished", n, err)
	}
}

func endsWithContext(t *testing.T, join joined) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(ctx context.Context, _ *Stream) { <-ctx.Done() })
	o, err := NewOpener(destination, time.Second, b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := o.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	time.AfterFunc(10*time.Millisecond, cancel)
	if n, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("when its context ended the stream gave %d bytes, error %v", n, err)
	}
}

func holdsTheWriter(t *testing.T, join joined) {
	const bound = 32 << 20 // the relay's two windows; a kernel's socket buffers
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(ctx context.Context, _ *Stream) { <-ctx.Done() }) // reads nothing
	s := opened(t, destination, b)
	block, sent := noise(5, 64<<10), 0
	for sent <= bound {
		_ = s.SetDeadline(time.Now().Add(time.Second)) // never fails
		n, err := s.Write(block)
		if err != nil {
			return // held, as it should be
		}
		sent += n
	}
	t.Errorf("%d bytes were taken although nobody reads", sent)
}

func wireIsCounted(t *testing.T, join joined) {
	const size = 1 << 20
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(_ context.Context, s *Stream) {
		_, _ = s.Write(noise(6, size)) // counted below
		_ = s.CloseWrite()
	})
	s := opened(t, destination, b)
	if _, err := io.ReadAll(s); err != nil {
		t.Fatal(err)
	}
	if sent, received := s.Wire(); received < size || received > size*102/100 || sent > 16<<10 {
		t.Errorf("for %d bytes received the wire counts %d received, %d sent", size, received, sent)
	}
}

func givenUpIsNoEnd(t *testing.T, join joined) {
	session := testSession()
	source, destination := testEnds(t, session)
	a, b := join(t, session)
	served(t, source, a, func(_ context.Context, s *Stream) {
		_, _ = s.Write([]byte("half of it")) // then it gives up
	})
	if got, err := io.ReadAll(opened(t, destination, b)); err == nil {
		t.Errorf("the peer gave up, and the reader got %q as if that were all", got)
	}
}
