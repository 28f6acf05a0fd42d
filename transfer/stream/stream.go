package stream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is a secure duplex byte stream to the other end. One goroutine may read
// while another writes; closing is safe at any time.
type Stream struct {
	tls     *tls.Conn
	raw     *counted
	carrier string
	ended   atomic.Bool // our direction was ended
	pace    func(n int) error
	close   func() error
}

// handshakeTimeout bounds the handshake once the peer has begun to talk.
const handshakeTimeout = 10 * time.Second

// secure makes a stream of a bare connection, which it owns from here on, also
// when it fails. The stream ends when ctx does.
func (e End) secure(ctx context.Context, raw net.Conn, carrier string) (*Stream, error) {
	s := &Stream{raw: &counted{Conn: raw}, carrier: carrier}
	// Fewer, larger reads: a TLS record is 16 KiB.
	buffered := &lookahead{Conn: s.raw, r: bufio.NewReaderSize(s.raw, 128<<10)}
	if e.Role == Source {
		s.tls = tls.Server(buffered, e.config())
	} else {
		s.tls = tls.Client(buffered, e.config())
	}
	shake, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := s.tls.HandshakeContext(shake); err != nil {
		_ = raw.Close() // nothing was said on it
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("secure the connection with the %s: %w", e.Role.Peer(), err)
	}
	release := context.AfterFunc(ctx, func() { cut(raw, context.Cause(ctx)) })
	s.close = sync.OnceValue(func() error {
		release()
		if s.ended.Load() {
			return s.tls.Close()
		}
		cut(raw, net.ErrClosed)
		return raw.Close() // past TLS, which would say that all is finished
	})
	return s, nil
}

// cut fails what reads and writes on the connection, without an end to the peer.
func cut(raw net.Conn, err error) {
	if c, ok := raw.(interface{ abort(err error) }); ok {
		c.abort(err)
		return
	}
	_ = raw.SetDeadline(time.Unix(1, 0)) // it may be closed already
}

// Read reads what the peer wrote. io.EOF means that the peer has closed its
// direction; a connection that ended without it gives another error.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.tls.Read(p)
	if n > 0 && s.pace != nil {
		if err := s.pace(n); err != nil {
			return n, err
		}
	}
	return n, err
}

// Write writes p. A nil error does not prove that it has arrived.
func (s *Stream) Write(p []byte) (int, error) {
	if s.pace != nil {
		if err := s.pace(len(p)); err != nil {
			return 0, err
		}
	}
	return s.tls.Write(p)
}

// Limit has the limiter pace both directions, until ctx ends. It is called before
// the stream is used. Reading slower holds the peer back, so either end can limit.
func (s *Stream) Limit(ctx context.Context, l *Limiter) {
	s.pace = func(n int) error { return l.Wait(ctx, n) }
}

// CloseWrite ends the direction to the peer, which reads io.EOF after the data.
func (s *Stream) CloseWrite() error {
	err := s.tls.CloseWrite()
	s.ended.Store(err == nil)
	return err
}

// Close gives the stream back. Without CloseWrite before it, the peer's reader gets
// an error: what was given up does not look finished. It waits a few seconds at most
// for what was written to be taken. It may be repeated.
func (s *Stream) Close() error {
	err := s.close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// SetDeadline bounds reads and writes, the zero time unbounds them.
func (s *Stream) SetDeadline(t time.Time) error { return s.tls.SetDeadline(t) }

// Carrier names what carries the stream, as status shows it.
func (s *Stream) Carrier() string { return s.carrier }

// Wire is how many bytes were sent and received so far, encryption included.
func (s *Stream) Wire() (sent, received int64) { return s.raw.sent.Load(), s.raw.received.Load() }

// counted counts what passes a connection.
type counted struct {
	net.Conn
	sent, received atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// lookahead is a connection of which something may have been read already.
type lookahead struct {
	net.Conn
	r *bufio.Reader
}

// errCut is what the end of a connection is to TLS, which would otherwise take one
// between two records for the end of the stream.
var errCut = errors.New("the connection has ended before the stream")

func (l *lookahead) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}
