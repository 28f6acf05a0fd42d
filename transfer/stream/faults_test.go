package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// link joins two relayed streams and treats their frames badly.
type link struct {
	r      *rand.Rand
	faults faults
	mu     sync.Mutex
	queue  []delivery
	wake   chan struct{}
	past   []delivery // what was sent, for replays
}

type delivery struct {
	to    *relayed
	frame []byte
}

// faults are how often, of a thousand frames, something happens to one.
type faults struct {
	lose, repeat, reorder, damage, truncate, replay, stall int
}

func (l *link) send(to **relayed) func(string, []byte) error {
	return func(_ string, b []byte) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		hit := func(of int) bool { return l.r.IntN(1000) < of }
		b = bytes.Clone(b)
		l.past = append(l.past[:min(len(l.past), 200)], delivery{*to, b})
		switch {
		case hit(l.faults.lose):
			return nil
		case hit(l.faults.damage):
			b[l.r.IntN(len(b))] ^= 0x40
		case hit(l.faults.truncate):
			b = b[:l.r.IntN(len(b))]
		}
		l.queue = append(l.queue, delivery{*to, b})
		if hit(l.faults.repeat) {
			l.queue = append(l.queue, delivery{*to, b})
		}
		if hit(l.faults.replay) {
			l.queue = append(l.queue, l.past[l.r.IntN(len(l.past))])
		}
		if n := len(l.queue); n > 1 && hit(l.faults.reorder) {
			i := l.r.IntN(n - 1)
			l.queue[i], l.queue[n-1] = l.queue[n-1], l.queue[i]
		}
		select {
		case l.wake <- struct{}{}:
		default:
		}
		return nil
	}
}

// run delivers until stop is closed.
func (l *link) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-l.wake:
		}
		for {
			l.mu.Lock()
			if len(l.queue) == 0 {
				l.mu.Unlock()
				break
			}
			d := l.queue[0]
			l.queue = l.queue[1:]
			wait := time.Millisecond // a round trip takes time
			if l.r.IntN(1000) < l.faults.stall {
				wait = 3 * time.Second
			}
			l.mu.Unlock()
			time.Sleep(wait) //nolint:forbidigo // the bubble's clock: the link's own delay
			if f, err := parseFrame(d.frame); err == nil {
				d.to.handle(f)
			}
		}
	}
}

// joinedByLink makes two relayed streams over a link; the end function waits for all of it.
func joinedByLink(seed uint64, f faults) (a, b *relayed, l *link, end func()) {
	l = &link{r: rand.New(rand.NewPCG(seed, 1)), faults: f, wake: make(chan struct{}, 1)}
	a = newRelayed("x", 1, true, defaultTiming(), nil, func(uint64) {})
	b = newRelayed("x", 1, false, defaultTiming(), nil, func(uint64) {})
	a.publish, b.publish = l.send(&b), l.send(&a)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(a.run)
	wg.Go(b.run)
	wg.Go(func() { l.run(stop) })
	return a, b, l, func() {
		var closing sync.WaitGroup
		closing.Go(func() { _ = a.Close() })
		closing.Go(func() { _ = b.Close() })
		closing.Wait()
		close(stop)
		wg.Wait()
	}
}

// TestRelayOverABadLink has everything happen that can happen to frames: what
// arrives is what was sent, or it is an error.
func TestRelayOverABadLink(t *testing.T) {
	cases := map[string]faults{
		"Good":      {},
		"Lossy":     {lose: 30},
		"VeryLossy": {lose: 150},
		"Repeating": {repeat: 200},
		"Reordered": {reorder: 100},
		"Damaged":   {damage: 30},
		"Truncated": {truncate: 30},
		"Replaying": {replay: 200},
		"Stalling":  {stall: 5},
		"All":       {lose: 10, repeat: 10, reorder: 10, damage: 10, truncate: 10, replay: 10, stall: 2},
	}
	for name, f := range cases {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b, _, end := joinedByLink(seed, f)
					defer end()
					const size = 3 << 20
					var wg sync.WaitGroup
					for i, c := range []*relayed{a, b} {
						wg.Go(func() {
							if _, err := c.Write(noise(uint64(i), size)); err != nil {
								t.Errorf("write: %v", err)
							}
							c.mu.Lock()
							c.out.sealed = true
							c.poke()
							c.mu.Unlock()
						})
						wg.Go(func() {
							got, err := io.ReadAll(c)
							if err != nil || !bytes.Equal(got, noise(uint64(1-i), size)) {
								t.Errorf("end %d got %d bytes, error %v", i, len(got), err)
							}
						})
					}
					wg.Wait()
				})
			})
		}
	}
}

func TestRelayPeerGoneSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, l, end := joinedByLink(1, faults{})
		defer end()
		if _, err := a.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.faults.lose = 1000
		l.mu.Unlock()
		begun := time.Now()
		_, err := a.Read(make([]byte, 1))
		if took := time.Since(begun); !errors.Is(err, ErrPeerLost) || took < 25*time.Second || took > 40*time.Second {
			t.Errorf("after %s of silence the stream said %v", took, err)
		}
	})
}

// TestRelayIdleStreamLives has an idle stream outlast the time after which a silent peer is lost.
func TestRelayIdleStreamLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, end := joinedByLink(1, faults{})
		defer end()
		time.Sleep(10 * time.Minute) //nolint:forbidigo // the bubble's clock
		if _, err := a.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1)
		if _, err := b.Read(got); err != nil || got[0] != 'x' {
			t.Errorf("after ten idle minutes the peer read %q, error %v", got, err)
		}
	})
}

// TestRelayPartition has a partition heal in time: only what was on its way is sent again.
func TestRelayPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, l, end := joinedByLink(1, faults{})
		defer end()
		const size = 20 << 20
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := a.Write(noise(1, size)); err != nil {
				t.Errorf("write: %v", err)
			}
		})
		lose := func(n int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.faults.lose = n
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(b, got[:size/2]); err != nil {
			t.Fatal(err)
		}
		lose(1000)
		wg.Go(func() {
			time.Sleep(20 * time.Second) //nolint:forbidigo // the bubble's clock
			lose(0)
		})
		if _, err := io.ReadFull(b, got[size/2:]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, noise(1, size)) {
			t.Error("other bytes arrived than were sent")
		}
		wg.Wait()
	})
}

// TestRelayLosesTheEnd has the very last frame be lost: a heartbeat tells of it.
func TestRelayLosesTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, l, end := joinedByLink(1, faults{})
		defer end()
		if _, err := a.Write([]byte("all")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.mu.Lock()
		l.faults.lose = 1000
		l.mu.Unlock()
		a.mu.Lock()
		a.out.sealed = true
		a.poke()
		a.mu.Unlock()
		synctest.Wait()
		l.mu.Lock()
		l.faults.lose = 0
		l.mu.Unlock()
		if n, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes, %v; want the end", n, err)
		}
	})
}
