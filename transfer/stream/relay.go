package stream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// DefaultPrefix starts the subjects of the relay.
const DefaultPrefix = "drs.v1.bulk"

// RelayConfig says over which NATS to relay, and as whom. It is a connection of its
// own, by an account of its own where there is one: bulk data in front of control
// events would delay them.
type RelayConfig struct {
	// URL of the NATS servers, several separated by commas.
	URL string `json:"url"`
	// CredsFile holds a user's JWT and seed, NKeySeedFile a bare nkey seed. At most one.
	CredsFile    string `json:"credsFile,omitempty"`
	NKeySeedFile string `json:"nkeySeedFile,omitempty"`
	// CAFile verifies the server; CertFile and KeyFile present a client certificate.
	CAFile   string `json:"caFile,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	// Prefix starts the subjects; DefaultPrefix if empty. What follows is the session,
	// so that permissions can be given for one: Subjects.
	Prefix string `json:"prefix,omitempty"`
	// Log receives disconnections and refusals. Nil discards them.
	Log *slog.Logger `json:"-"`
}

// Subjects are what an end of the session must be permitted to publish and to
// subscribe to, and no more.
func Subjects(prefix, session string, r Role) (publish, subscribe string) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	base := prefix + "." + session + ".*."
	return base + r.Peer().String(), base + r.String()
}

// Bounds of what the relay holds.
const (
	relayBacklog = 16       // streams asked for and not yet taken
	relayGone    = 1024     // streams that are over and still known to be
	pendingBytes = 40 << 20 // frames that NATS has delivered and we have not looked at
	pendingCount = 1 << 16
)

// Relay carries streams over NATS subjects.
type Relay struct {
	role    Role
	session Session
	prefix  string
	log     *slog.Logger
	timing  timing
	nc      *nats.Conn
	sub     *nats.Subscription
	ended   chan struct{} // NATS has closed the connection

	mu      sync.Mutex
	streams map[string]*relayed
	gone    map[string]uint64 // final ack of streams that are over
	order   []string          // of gone
	accepts chan *relayed
	closed  bool
	stopped chan struct{}
	running sync.WaitGroup
}

// NewRelay connects to NATS and serves the session's subjects. It fails if the
// first attempt does; afterwards the connection is made again for ever. Close it.
func NewRelay(ctx context.Context, s Session, r Role, cfg RelayConfig) (*Relay, error) {
	return newRelay(ctx, s, r, cfg, defaultTiming())
}

func newRelay(ctx context.Context, s Session, r Role, cfg RelayConfig, t timing) (*Relay, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("prepare the relay: %w", err)
	}
	relay := &Relay{
		role: r, session: s, prefix: cfg.Prefix, log: cfg.Log, timing: t, ended: make(chan struct{}),
		streams: map[string]*relayed{}, gone: map[string]uint64{},
		accepts: make(chan *relayed, relayBacklog), stopped: make(chan struct{}),
	}
	if relay.prefix == "" {
		relay.prefix = DefaultPrefix
	}
	if relay.log == nil {
		relay.log = slog.New(slog.DiscardHandler)
	}
	opts, err := relay.options(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare the relay: %w", err)
	}
	if relay.nc, err = nats.Connect(cfg.URL, opts...); err != nil {
		return nil, fmt.Errorf("connect the relay: %w", err)
	}
	_, subject := Subjects(relay.prefix, s.ID, r)
	if relay.sub, err = relay.nc.Subscribe(subject, relay.handle); err == nil {
		err = relay.sub.SetPendingLimits(pendingCount, pendingBytes)
	}
	if err == nil {
		err = relay.nc.FlushTimeout(relayConnectTimeout)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe the relay to %s: %w", subject, err), relay.Close())
	}
	return relay, nil
}

const (
	relayConnectTimeout = 5 * time.Second
	relayPingEvery      = 10 * time.Second
)

func (r *Relay) options(ctx context.Context, cfg RelayConfig) ([]nats.Option, error) {
	timeout := relayConnectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	opts := []nats.Option{
		nats.Name("volume transfer, " + r.role.String()),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(attempts int) time.Duration { return backoff(attempts) }),
		nats.ReconnectBufSize(-1), // what cannot be sent now is sent again after the reconnection
		nats.PingInterval(relayPingEvery),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(r.onError),
		nats.ReconnectHandler(r.onReconnect),
		nats.ClosedHandler(func(*nats.Conn) { close(r.ended) }),
	}
	switch {
	case cfg.CredsFile != "" && cfg.NKeySeedFile != "":
		return nil, errors.New("both a credentials file and an nkey seed file are given: keep one of them")
	case cfg.CredsFile != "":
		opts = append(opts, nats.UserCredentials(cfg.CredsFile))
	case cfg.NKeySeedFile != "":
		o, err := nats.NkeyOptionFromSeed(cfg.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed file %q: %w", cfg.NKeySeedFile, err)
		}
		opts = append(opts, o)
	}
	if cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	}
	if cfg.CertFile != "" {
		opts = append(opts, nats.ClientCert(cfg.CertFile, cfg.KeyFile))
	}
	return opts, nil
}

func (r *Relay) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	r.log.Warn("the relay reports an error", telemetry.KeyError, err)
}

func (r *Relay) onReconnect(*nats.Conn) {
	r.log.Info("the relay is connected again")
	for _, c := range r.all() {
		c.reconnected()
	}
}

func (r *Relay) all() []*relayed {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*relayed, 0, len(r.streams))
	for _, c := range r.streams {
		out = append(out, c)
	}
	return out
}

// Name implements Carrier.
func (r *Relay) Name() string { return "relay" }

// handle is called by NATS, frame by frame.
func (r *Relay) handle(m *nats.Msg) {
	f, err := parseFrame(m.Data)
	if err != nil || f.epoch != r.session.Epoch {
		return // damaged, or of another attempt: as if it had not arrived
	}
	parts := strings.Split(m.Subject, ".")
	id := parts[len(parts)-2]
	r.mu.Lock()
	c := r.streams[id]
	final, gone := r.gone[id]
	if c == nil && !gone && f.kind == frameOpen && r.role == Source && !r.closed && len(r.accepts) < cap(r.accepts) {
		c = r.add(id, false)
		r.accepts <- c // there is room: only this callback adds
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	switch {
	case c != nil:
		c.handle(f)
	case gone && f.kind != frameReset:
		_ = r.publish(id, encodeFrame(frame{kind: frameState, epoch: f.epoch, ack: final})) // the peer's last words were heard
	case f.kind != frameOpen && f.kind != frameReset:
		_ = r.publish(id, encodeFrame(frame{kind: frameReset, epoch: f.epoch})) // if it is lost, the next frame brings another
	}
}

// add makes a stream. The caller holds mu.
func (r *Relay) add(id string, opener bool) *relayed {
	c := newRelayed(id, r.session.Epoch, opener, r.timing, r.publish, func(final uint64) { r.forget(id, final) })
	r.streams[id] = c
	r.running.Go(c.run)
	return c
}

func (r *Relay) forget(id string, final uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, id)
	r.gone[id] = final
	r.order = append(r.order, id)
	if len(r.order) > relayGone {
		delete(r.gone, r.order[0])
		r.order = r.order[1:]
	}
}

func (r *Relay) publish(id string, b []byte) error {
	return r.nc.Publish(r.prefix+"."+r.session.ID+"."+id+"."+r.role.Peer().String(), b)
}

// Connect implements Carrier.
func (r *Relay) Connect(ctx context.Context) (net.Conn, error) {
	if r.role == Source {
		select {
		case c := <-r.accepts:
			return c, nil
		case <-r.stopped:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, ErrClosed
	}
	c := r.add(hex.EncodeToString(random[:]), true)
	r.mu.Unlock()
	if err := c.waitAnswer(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the peer over the relay: %w", err), c.Close())
	}
	return c, nil
}

// waitAnswer waits until the peer has taken the stream.
func (c *relayed) waitAnswer(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.answered {
			c.fail(context.Cause(ctx))
		}
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.readers.until(func() bool { return c.answered || c.err != nil }) // there is no deadline yet
	return c.err
}

// Close ends the streams and the connection, and waits until all is gone. It may
// be repeated.
func (r *Relay) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		<-r.ended
		r.running.Wait()
		return nil
	}
	r.closed = true
	close(r.stopped)
	r.mu.Unlock()
	for _, c := range r.all() {
		c.abort(ErrClosed)
		_ = c.Close() // it is over at once
	}
	r.running.Wait()
	r.nc.Close()
	<-r.ended
	return nil
}
