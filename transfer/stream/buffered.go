package stream

import (
	"io"
	"net"
	"sync"
	"time"
)

// bufferedSize is what a direction of an in-process connection holds, as a socket would.
const bufferedSize = 256 << 10

// buffered is one end of an in-process connection whose directions hold a little.
type buffered struct {
	in, out *flow
}

func newBuffered() (a, b net.Conn) {
	x, y := newFlow(), newFlow()
	return &buffered{x, y}, &buffered{y, x}
}

// flow is one direction.
type flow struct {
	mu              sync.Mutex
	ring            ring
	eof, broken     bool
	readers, writes *waiting
}

func newFlow() *flow {
	f := &flow{ring: newRing(bufferedSize)}
	f.readers, f.writes = newWaiting(&f.mu), newWaiting(&f.mu)
	return f
}

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.readers.until(func() bool { return f.ring.held() > 0 || f.eof || f.broken }); err != nil {
		return 0, err
	}
	if f.broken {
		return 0, net.ErrClosed
	}
	n := f.ring.read(p)
	f.writes.cond.Broadcast()
	if n == 0 && f.eof {
		return 0, io.EOF
	}
	return n, nil
}

func (f *flow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for {
		if err := f.writes.until(func() bool { return f.ring.room() > 0 || f.eof || f.broken }); err != nil {
			return n, err
		}
		if f.eof || f.broken {
			return n, net.ErrClosed
		}
		n += f.ring.append(p[n:])
		f.readers.cond.Broadcast()
		if n == len(p) {
			return n, nil
		}
	}
}

// end ends the direction: by its writer, after what it holds; by its reader, at once.
func (f *flow) end(byReader bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.eof, f.broken = true, f.broken || byReader
	for _, w := range []*waiting{f.readers, f.writes} {
		w.stop()
		w.cond.Broadcast()
	}
}

func (b *buffered) Read(p []byte) (int, error)  { return b.in.read(p) }
func (b *buffered) Write(p []byte) (int, error) { return b.out.write(p) }

func (b *buffered) Close() error {
	b.in.end(true)
	b.out.end(false)
	return nil
}

func (b *buffered) SetReadDeadline(t time.Time) error {
	b.in.mu.Lock()
	defer b.in.mu.Unlock()
	b.in.readers.set(t)
	return nil
}

func (b *buffered) SetWriteDeadline(t time.Time) error {
	b.out.mu.Lock()
	defer b.out.mu.Unlock()
	b.out.writes.set(t)
	return nil
}

func (b *buffered) SetDeadline(t time.Time) error {
	_ = b.SetReadDeadline(t)  // never fails
	_ = b.SetWriteDeadline(t) // never fails
	return nil
}

func (b *buffered) LocalAddr() net.Addr  { return address("pipe") }
func (b *buffered) RemoteAddr() net.Addr { return address("pipe") }

// address names an end that has no network address.
type address string

func (a address) Network() string { return string(a) }
func (a address) String() string  { return string(a) }
