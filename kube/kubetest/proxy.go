package kubetest

import (
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// Proxy is a TCP proxy in front of the API server whose line can be cut,
// frozen, or made to break in the middle of an answer. Its methods are safe for
// concurrent use.
type Proxy struct {
	kubeconfig string
	target     string
	addr       string
	breakAfter atomic.Int64 // bytes per connection; 0: never

	mu       sync.Mutex
	listener net.Listener // nil while cut
	conns    map[net.Conn]struct{}
	thawed   chan struct{} // closed unless frozen
	stop     chan struct{}
	closed   bool
	wg       sync.WaitGroup
}

// Proxy starts a proxy to the cluster; Proxy.Kubeconfig leads through it. It is
// closed with the cluster.
func (c *Cluster) Proxy() *Proxy {
	p, err := c.newProxy()
	_ = c.report(err)
	return p
}

func (p *plane) newProxy() (*Proxy, error) {
	addr, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	cert, key, err := p.ca.issue(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	path := filepath.Join(p.cfg.Dir, "proxy-"+port+".kubeconfig")
	if err := writeFiles(map[string][]byte{path: p.kubeconfigFor(addr, cert, key)}); err != nil {
		return nil, err
	}
	x := &Proxy{
		kubeconfig: path, target: p.serverAddr, addr: addr,
		conns: map[net.Conn]struct{}{}, thawed: make(chan struct{}), stop: make(chan struct{}),
	}
	close(x.thawed)
	if err := x.Heal(); err != nil {
		return nil, err
	}
	p.usersMu.Lock()
	defer p.usersMu.Unlock()
	p.proxies = append(p.proxies, x)
	return x, nil
}

// Kubeconfig is the path of the administrator's kubeconfig through the proxy.
func (x *Proxy) Kubeconfig() string { return x.kubeconfig }

// Cut closes all connections and refuses new ones until Heal.
func (x *Proxy) Cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.listener != nil {
		_ = x.listener.Close()
		x.listener = nil
	}
	for conn := range x.conns {
		_ = conn.Close()
	}
}

// Heal undoes Cut, Freeze and BreakAfter.
func (x *Proxy) Heal() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return errors.New("heal proxy: it is closed")
	}
	x.breakAfter.Store(0)
	select {
	case <-x.thawed:
	default:
		close(x.thawed)
	}
	if x.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", x.addr)
	if err != nil {
		return fmt.Errorf("heal proxy: %w", err)
	}
	x.listener = l
	x.wg.Add(1)
	go x.accept(l)
	return nil
}

// Freeze lets no byte pass in either direction until Heal. Connections stay
// open and new ones are accepted: the peer is silent, as in a partition.
func (x *Proxy) Freeze() {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.thawed:
		x.thawed = make(chan struct{})
	default:
	}
}

// BreakAfter closes each connection made from now on as soon as it has carried
// so many bytes of answers, until Heal. Present connections are closed.
func (x *Proxy) BreakAfter(bytes int64) {
	x.breakAfter.Store(bytes)
	x.mu.Lock()
	defer x.mu.Unlock()
	for conn := range x.conns {
		_ = conn.Close()
	}
}

// Close ends the proxy and waits for its connections. Closing again does nothing.
func (x *Proxy) Close() {
	x.Cut()
	x.mu.Lock()
	if !x.closed {
		x.closed = true
		close(x.stop)
	}
	x.mu.Unlock()
	x.wg.Wait()
}

func (x *Proxy) accept(l net.Listener) {
	defer x.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			return // cut
		}
		x.wg.Add(1)
		go x.serve(conn)
	}
}

func (x *Proxy) serve(client net.Conn) {
	defer x.wg.Done()
	server, err := net.Dial("tcp", x.target)
	if err != nil {
		_ = client.Close()
		return
	}
	x.mu.Lock()
	if x.listener == nil { // cut meanwhile
		x.mu.Unlock()
		_, _ = client.Close(), server.Close()
		return
	}
	x.conns[client], x.conns[server] = struct{}{}, struct{}{}
	x.mu.Unlock()

	var both sync.WaitGroup
	limit := x.breakAfter.Load()
	both.Go(func() { x.pass(server, client, 0) })
	both.Go(func() { x.pass(client, server, limit) })
	both.Wait()
	x.mu.Lock()
	delete(x.conns, client)
	delete(x.conns, server)
	x.mu.Unlock()
}

// pass copies until one side ends or, if limit is set, so many bytes have
// passed; then it closes both.
func (x *Proxy) pass(dst, src net.Conn, limit int64) {
	defer func() { _, _ = dst.Close(), src.Close() }()
	buf := make([]byte, 32<<10)
	var passed int64
	for {
		n, err := src.Read(buf)
		x.mu.Lock()
		thawed := x.thawed
		x.mu.Unlock()
		select {
		case <-thawed:
		case <-x.stop:
			return
		}
		if limit > 0 && passed+int64(n) >= limit {
			_, _ = dst.Write(buf[:limit-passed])
			return
		}
		passed += int64(n)
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return
			}
			return
		}
	}
}
