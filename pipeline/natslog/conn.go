package natslog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Why a connection to the log fails. The errors of Connect wrap one of them
// where the reason is known.
var (
	// ErrUnreachable: nothing answers there.
	ErrUnreachable = errors.New("the log cannot be reached")
	// ErrUnauthorized: the server answers and refuses the credentials.
	ErrUnauthorized = errors.New("the log refuses the credentials")
	// ErrTLS: the two sides do not agree on TLS, or a certificate is not accepted.
	ErrTLS = errors.New("no secure connection to the log")
	// ErrDenied: the server does not permit this user to do that.
	ErrDenied = errors.New("the log denies permission")
)

const (
	connectTimeout   = 5 * time.Second
	reconnectWait    = 250 * time.Millisecond
	maxReconnectWait = 10 * time.Second
	// pingEvery and pingsOut bound how long a dead peer stays unnoticed.
	pingEvery = 15 * time.Second
	pingsOut  = 2
	// reconnectBuffer is off: a publish during a disconnection fails at once
	// instead of being sent later, when nobody waits for it.
	reconnectBuffer = -1
)

// Conn is a connection to the log. It heals by itself. All methods are safe for
// concurrent use.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	waits  waits
	admin  admin
	direct *local
	server *Server // of an in-process connection
	closed chan struct{}
	close  func() error
	redial atomic.Pointer[nats.Conn] // nc, for the client's own goroutines

	mu       sync.Mutex
	watchers map[*func()]struct{} // called after a reconnection
	// appended is, by site, how far this connection's writers know the history to reach.
	appended map[string]pipeline.Position
}

// Connect connects to the log. It fails if the first attempt does, with the
// reason (ErrUnreachable, ErrUnauthorized, ErrTLS); afterwards the connection is
// made again for ever, with increasing delay and jitter. Close it.
func Connect(ctx context.Context, cfg ConnectConfig) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("connect to the log: %w", err)
	}
	c := &Conn{log: discardNil(cfg.Log), server: cfg.InProcess, closed: make(chan struct{})}
	opts, err := c.options(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the log: %w", err)
	}
	c.nc, err = nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the log at %s: %w", place(cfg), classify(err))
	}
	c.redial.Store(c.nc)
	c.close = sync.OnceValue(func() error {
		c.nc.Close()
		<-c.closed
		return nil
	})
	c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the log at %s: %w", place(cfg), err), c.close())
	}
	c.direct = &local{conn: c}
	if cfg.InProcess != nil {
		c.admin = c.direct
	} else {
		c.admin = &remote{conn: c, direct: c.direct}
	}
	return c, nil
}

// Close ends the connection and waits until it is gone. It may be repeated.
func (c *Conn) Close() error { return c.close() }

// Healthy returns nil while the connection stands, else the reason.
func (c *Conn) Healthy() error {
	if c.nc.IsConnected() {
		return nil
	}
	if err := c.nc.LastError(); err != nil && !c.nc.IsClosed() {
		return fmt.Errorf("the connection to the log is down (%s): %w", c.nc.Status(), classify(err))
	}
	return fmt.Errorf("%w: the connection is %s", ErrUnreachable, strings.ToLower(c.nc.Status().String()))
}

func (c *Conn) options(ctx context.Context, cfg ConnectConfig) ([]nats.Option, error) {
	timeout := connectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // keys are rotated on one side first
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			c.rekey(cfg.NKeySeedFile)
			return reconnectDelay(attempts)
		}),
		nats.ReconnectBufSize(reconnectBuffer),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsOut),
		nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(c.onError),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectHandler(c.onReconnect),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if cfg.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	if cfg.InProcess != nil {
		return append(opts, cfg.InProcess.door()...), nil
	}
	switch {
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

// rekey has the next attempt to connect present the key whose seed the file holds now: the client reads the
// file again to sign, but keeps the public key that it began with. It is called by the client's
// goroutine that connects again, the only one to read the option.
func (c *Conn) rekey(seedFile string) {
	nc := c.redial.Load()
	if seedFile == "" || nc == nil {
		return
	}
	read, err := nats.NkeyOptionFromSeed(seedFile)
	if err == nil {
		err = read(&nc.Opts)
	}
	if err != nil {
		c.log.Warn("cannot read the nkey seed file again", slog.String(telemetry.KeyPath, seedFile), slog.Any(telemetry.KeyError, err))
	}
}

// reconnectDelay grows by half per attempt, with jitter, up to maxReconnectWait.
func reconnectDelay(attempts int) time.Duration {
	wait := float64(reconnectWait)
	for range min(attempts, 16) {
		wait *= 1.5
	}
	wait = min(wait, float64(maxReconnectWait))
	return time.Duration(wait * (0.5 + rand.Float64()/2)) //nolint:gosec // G404: jitter, not a secret
}

func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		c.waits.denied(err)
	}
	attrs := []any{slog.Any(telemetry.KeyError, err)}
	if sub != nil {
		attrs = append(attrs, slog.String(telemetry.KeyName, sub.Subject))
	}
	c.log.Warn("the log reports an error", attrs...)
}

func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	c.waits.broken(err)
	if nc.IsClosed() {
		return
	}
	c.log.Warn("disconnected from the log", slog.Any(telemetry.KeyError, err))
}

func (c *Conn) onReconnect(*nats.Conn) {
	telemetry.Add(context.Background(), telemetry.MetricLogReconnects, 1)
	c.log.Info("connected to the log again")
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.watchers {
		(*f)()
	}
}

// reached notes that a history has come to a position, and returns the farthest
// one noted.
func (c *Conn) reached(siteName string, at pipeline.Position) pipeline.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.appended == nil {
		c.appended = make(map[string]pipeline.Position)
	}
	if at.Compare(c.appended[siteName]) > 0 {
		c.appended[siteName] = at
	}
	return c.appended[siteName]
}

// onceReconnected has f called after each reconnection, until forget is called.
// f must not block.
func (c *Conn) onceReconnected(f func()) (forget func()) {
	key := &f
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers == nil {
		c.watchers = make(map[*func()]struct{})
	}
	c.watchers[key] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, key)
	}
}

// do bounds a call of the JetStream API and explains its failure.
func (c *Conn) do(ctx context.Context, call func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ctx, explain, stop := c.waits.watch(ctx, apiPrefix)
	defer stop()
	return explainAPI(explain(call(ctx)))
}

// place names where a configuration connects to, without secrets.
func place(cfg ConnectConfig) string {
	if cfg.InProcess != nil {
		return "the embedded server"
	}
	var places []string
	for s := range strings.SplitSeq(cfg.URL, ",") {
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil {
			places = append(places, u.Redacted())
		}
	}
	return strings.Join(places, ", ")
}

// classify tells what stands behind an error of the NATS client.
func classify(err error) error {
	var (
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported), errors.Is(err, nkeys.ErrInvalidSeed):
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case errors.Is(err, nats.ErrTLS), errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted),
		errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &invalid),
		errors.As(err, &verify), errors.As(err, &record), errors.As(err, &alert),
		strings.Contains(err.Error(), "tls: "), strings.Contains(err.Error(), "tls error"):
		return fmt.Errorf("%w: %w", ErrTLS, err)
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrStaleConnection), isDial(err):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// History reads the history of a site, whether it exists yet or not.
func (c *Conn) History(siteName string) *History {
	return &History{conn: c, site: siteOf(siteName)}
}

var (
	_ pipeline.Writer      = (*Writer)(nil)
	_ pipeline.History     = (*History)(nil)
	_ pipeline.DeadLetters = (*DeadLetters)(nil)
)
