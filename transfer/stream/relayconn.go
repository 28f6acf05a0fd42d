package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ErrPeerLost is the end of a relayed stream whose peer says nothing any more.
var ErrPeerLost = errors.New("the peer has gone silent")

// errReset is the end of a relayed stream of which the peer knows nothing.
var errReset = errors.New("the peer has given the stream up")

// relayed is one stream over the relay. The subscription feeds it frames (handle),
// its own goroutine (run) sends them.
type relayed struct {
	id    string
	epoch uint64
	// publish hands a frame to NATS, which copies it.
	publish func(id string, b []byte) error
	timing  timing
	opener  bool
	forget  func(final uint64)

	mu       sync.Mutex
	out      sender
	in       receiver
	readers  *waiting
	writers  *waiting
	err      error // why the stream is over
	closing  bool
	closed   bool // by our side, for reads and writes
	answered bool // the peer has said something
	heard    time.Time
	// missing is what was asked for again, and when.
	missing  uint64
	asked    time.Time
	asks     int
	answer   frameType // what to say next, 0 for nothing
	wake     chan struct{}
	finished chan struct{}
}

// timing is how a relayed stream counts time.
type timing struct {
	heartbeat time.Duration // between states of an idle stream
	dead      time.Duration // without a word from the peer
	again     time.Duration // before asking again for what is missing; doubles
	linger    time.Duration // how long Close waits for the peer to have everything
}

func defaultTiming() timing {
	return timing{heartbeat: 5 * time.Second, dead: 30 * time.Second, again: 200 * time.Millisecond, linger: 5 * time.Second}
}

func newRelayed(id string, epoch uint64, opener bool, t timing, publish func(string, []byte) error, forget func(uint64)) *relayed {
	c := &relayed{
		id: id, epoch: epoch, opener: opener, timing: t, publish: publish, forget: forget,
		out: sender{ring: newRing(maxWindow), credit: firstWindow}, in: newReceiver(time.Now()),
		heard: time.Now(), wake: make(chan struct{}, 1), finished: make(chan struct{}),
	}
	c.readers, c.writers = newWaiting(&c.mu), newWaiting(&c.mu)
	c.answer = frameState
	if opener {
		c.answer = frameOpen
	}
	c.poke()
	return c
}

// poke has run look at what there is to send.
func (c *relayed) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// fail ends the stream; the first reason stays.
func (c *relayed) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.readers.cond.Broadcast()
	c.writers.cond.Broadcast()
	c.poke()
}

// abort ends the stream at once; the peer is told that it is gone, not that it is finished.
func (c *relayed) abort(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(err)
}

// handle takes in a frame of the peer. It never blocks.
func (c *relayed) handle(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard, c.answered = time.Now(), true
	if f.kind == frameReset {
		if c.in.ended && c.out.sealed && c.out.next == c.out.ring.end {
			c.out.done = true // it has gone after everything was said
		} else {
			c.fail(errReset)
		}
	}
	c.out.learn(f.ack, f.credit)
	gap := false
	switch f.kind {
	case frameData:
		gap = c.in.accept(f.offset, f.payload)
		if !gap && c.in.ring.end < f.offset+uint64(len(f.payload)) {
			gap = true // beyond the credit: it will have to come again
		}
	case frameFin:
		gap = c.in.finish(f.offset)
		c.answer = max(c.answer, frameState)
	case frameRewind:
		c.out.rewind()
	case frameOpen:
		c.answer = max(c.answer, frameState)
	case frameState:
		gap = f.offset > c.in.ring.end && !c.in.ended
	case frameReset:
	}
	if gap {
		c.miss()
	}
	c.readers.cond.Broadcast()
	c.writers.cond.Broadcast()
	if c.answer != 0 || c.out.ready() || c.closing {
		c.poke()
	}
}

// miss asks for what is missing, again only after a while: what was asked for is
// on its way behind everything that was sent before.
func (c *relayed) miss() {
	now := time.Now()
	if c.missing != c.in.ring.end || c.asks == 0 {
		c.missing, c.asks = c.in.ring.end, 0
	} else if now.Sub(c.asked) < c.timing.again<<min(c.asks-1, 4) {
		return
	}
	c.asked, c.asks = now, c.asks+1
	c.answer = max(c.answer, frameRewind)
}

// reconnected says that frames may have been lost in both directions.
func (c *relayed) reconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now() // the silence was ours
	c.out.rewind()
	c.answer = max(c.answer, frameRewind)
	c.poke()
}

// run sends until the stream is over.
func (c *relayed) run() {
	defer close(c.finished)
	beat := time.NewTicker(c.timing.heartbeat)
	defer beat.Stop()
	open := time.NewTicker(c.timing.again)
	defer open.Stop()
	buf := make([]byte, headerSize+maxPayload)
	for {
		select {
		case <-c.wake:
		case <-open.C:
			c.mu.Lock()
			if c.opener && !c.answered {
				c.answer = max(c.answer, frameOpen)
			}
			// The answer to a rewind may be lost as well.
			if c.asks > 0 && c.missing == c.in.ring.end && !c.in.ended {
				c.miss()
			} else {
				c.asks = 0
			}
			c.mu.Unlock()
		case now := <-beat.C:
			c.mu.Lock()
			c.answer = max(c.answer, frameState)
			if now.Sub(c.heard) > c.timing.dead {
				c.fail(fmt.Errorf("%w for %s", ErrPeerLost, c.timing.dead))
			}
			c.mu.Unlock()
		}
		for {
			n, over := c.next(buf)
			if n > 0 {
				_ = c.publish(c.id, buf[:n]) // a loss like any other: the peer will miss it
			}
			if over {
				return
			}
			if n == 0 {
				break
			}
		}
	}
}

// next writes the next frame to buf; nothing to send gives 0.
func (c *relayed) next(buf []byte) (n int, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.closing:
	case c.err != nil, c.out.done && !c.in.ended && c.in.ring.held() > 0: // what the peer still says, nobody reads
		return c.state(buf, frameReset), true
	case c.out.done && c.in.ended:
		return c.state(buf, frameState), true
	}
	if c.err == nil && c.out.ready() && c.answer < frameRewind {
		off, n, fin := c.out.fill(buf[headerSize:])
		switch {
		case n > 0:
			c.answer = 0
			return c.header(buf[:headerSize+n], frameData, off), false
		case fin:
			c.answer = 0
			return c.header(buf[:headerSize], frameFin, off), false
		}
	}
	if c.in.due() {
		c.answer = max(c.answer, frameState)
	}
	if c.answer == 0 || c.err != nil {
		return 0, false
	}
	kind := c.answer
	c.answer = 0
	return c.state(buf, kind), false
}

func (c *relayed) state(buf []byte, kind frameType) int {
	return c.header(buf[:headerSize], kind, c.out.sent())
}

func (c *relayed) header(b []byte, kind frameType, off uint64) int {
	putHeader(b, frame{kind: kind, epoch: c.epoch, offset: off, ack: c.in.ack(), credit: c.in.grant(time.Now())})
	return len(b)
}

func (c *relayed) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.readers.until(func() bool { return c.in.ring.held() > 0 || c.in.ended || c.err != nil || c.closed }); err != nil {
		return 0, err
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.in.ring.held() > 0:
		n := c.in.ring.read(p)
		if c.in.due() {
			c.poke()
		}
		return n, nil
	case c.in.ended:
		return 0, io.EOF
	}
	return 0, c.err
}

func (c *relayed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(p) {
		if err := c.writers.until(func() bool { return c.out.ring.room() > 0 || c.err != nil || c.closed || c.out.sealed }); err != nil {
			return n, err
		}
		switch {
		case c.err != nil:
			return n, c.err
		case c.closed, c.out.sealed:
			return n, net.ErrClosed
		}
		n += c.out.write(p[n:])
		if c.out.ready() {
			c.poke()
		}
	}
	return n, nil
}

// Close ends both directions and waits, not for long, until the peer has everything.
func (c *relayed) Close() error {
	c.mu.Lock()
	first := !c.closing
	if first {
		c.closing, c.closed, c.out.sealed = true, true, true
		for _, w := range []*waiting{c.readers, c.writers} {
			w.stop()
			w.cond.Broadcast()
		}
		c.poke()
	}
	c.mu.Unlock()
	if !first {
		<-c.finished
		return nil
	}
	linger := time.NewTimer(c.timing.linger)
	defer linger.Stop()
	select {
	case <-c.finished:
	case <-linger.C:
		c.mu.Lock()
		c.fail(ErrPeerLost)
		c.mu.Unlock()
		<-c.finished
	}
	c.mu.Lock()
	final := c.in.ack()
	c.mu.Unlock()
	c.forget(final)
	return nil
}

func (c *relayed) SetReadDeadline(t time.Time) error  { return c.deadline(t, c.readers) }
func (c *relayed) SetWriteDeadline(t time.Time) error { return c.deadline(t, c.writers) }
func (c *relayed) SetDeadline(t time.Time) error      { return c.deadline(t, c.readers, c.writers) }

func (c *relayed) deadline(t time.Time, of ...*waiting) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range of {
		w.set(t)
	}
	return nil
}

func (c *relayed) LocalAddr() net.Addr  { return address("relay") }
func (c *relayed) RemoteAddr() net.Addr { return address("relay") }
