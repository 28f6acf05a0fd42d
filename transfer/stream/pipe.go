package stream

import (
	"context"
	"net"
	"sync"
)

// Pipe carries streams between two ends in one process. NewPipe makes both.
type Pipe struct {
	source bool
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

// NewPipe returns the carriers of the two ends. Closing one closes both.
func NewPipe() (source, destination *Pipe) {
	conns, closed, once := make(chan net.Conn), make(chan struct{}), &sync.Once{}
	return &Pipe{true, conns, closed, once}, &Pipe{false, conns, closed, once}
}

// Name implements Carrier.
func (p *Pipe) Name() string { return "pipe" }

// Close implements Carrier.
func (p *Pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Connect implements Carrier.
func (p *Pipe) Connect(ctx context.Context) (net.Conn, error) {
	if p.source {
		select {
		case c := <-p.conns:
			return c, nil
		case <-p.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	// Each direction holds a little, as a socket does: both ends may write first.
	a, b := newBuffered()
	select {
	case p.conns <- a:
		return b, nil
	case <-p.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
