package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Direct carries streams over TCP. Either end may listen; the other dials.
type Direct struct {
	listener net.Listener
	addrs    []string
	// waits: a connection counts once the peer has spoken, who takes one that was
	// dialed to it only when it needs a stream.
	waits  bool
	closed chan struct{}
	once   sync.Once
}

const (
	dialTimeout = 5 * time.Second
	// silence is how long a caller may connect without a word.
	silence = 10 * time.Second
)

// keepAlive finds a dead peer within half a minute, also on an idle connection.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// Listen returns the carrier of the end that listens at an address such as ":4440".
func Listen(ctx context.Context, r Role, address string) (*Direct, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the peer: %w", err)
	}
	return &Direct{listener: l, waits: r == Source, closed: make(chan struct{})}, nil
}

// Dial returns the carrier of the end that dials, the addresses in their order.
func Dial(r Role, addresses ...string) *Direct {
	return &Direct{addrs: addresses, waits: r == Source, closed: make(chan struct{})}
}

// Address is where a listening end is reached; nil for the other.
func (d *Direct) Address() net.Addr {
	if d.listener == nil {
		return nil
	}
	return d.listener.Addr()
}

// Name implements Carrier.
func (d *Direct) Name() string { return "direct" }

// Close stops listening. Connections are not touched: their streams end them.
func (d *Direct) Close() error {
	var err error
	d.once.Do(func() {
		close(d.closed)
		if d.listener != nil {
			err = d.listener.Close()
		}
	})
	return err
}

// Connect implements Carrier.
func (d *Direct) Connect(ctx context.Context) (net.Conn, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect directly: %w", err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := abandonAfter(tcp, 30*time.Second); err != nil {
			_ = conn.Close() // nothing was said on it
			return nil, fmt.Errorf("connect directly: %w", err)
		}
	}
	if !d.waits {
		return conn, nil
	}
	patience := silence
	if d.listener == nil {
		patience = 0 // our own peer will speak when it needs the stream
	}
	heard, err := firstByte(ctx, conn, patience)
	if err != nil {
		_ = conn.Close() // nothing was said on it
		return nil, fmt.Errorf("wait for the peer to speak: %w", err)
	}
	return heard, nil
}

func (d *Direct) connect(ctx context.Context) (net.Conn, error) {
	select {
	case <-d.closed:
		return nil, ErrClosed
	default:
	}
	if d.listener != nil {
		return d.accept(ctx)
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	var errs []error
	for _, a := range d.addrs {
		conn, err := dialer.DialContext(ctx, "tcp", a)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, errors.New("there is no address to dial")
	}
	return nil, errors.Join(errs...)
}

// acceptPoll is how often a waiting accept looks whether it is still wanted.
const acceptPoll = 200 * time.Millisecond

// accept takes the next connection. Several may wait at once, so that none of
// them may move the listener's deadline away from another's: all set one that is
// close.
func (d *Direct) accept(ctx context.Context) (net.Conn, error) {
	for ctx.Err() == nil {
		if l, ok := d.listener.(*net.TCPListener); ok {
			if err := l.SetDeadline(time.Now().Add(acceptPoll)); err != nil {
				return nil, ErrClosed
			}
		}
		conn, err := d.listener.Accept()
		var timeout net.Error
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, net.ErrClosed):
			return nil, ErrClosed
		case !errors.As(err, &timeout) || !timeout.Timeout():
			return nil, err
		}
	}
	return nil, context.Cause(ctx)
}

// firstByte waits until there is something to read. No patience waits for ctx.
func firstByte(ctx context.Context, conn net.Conn, patience time.Duration) (net.Conn, error) {
	if patience > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	heard := &lookahead{Conn: conn, r: bufio.NewReaderSize(conn, 16)}
	_, err := heard.r.Peek(1)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return heard, conn.SetReadDeadline(time.Time{})
}
