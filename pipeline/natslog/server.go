package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Server is a NATS server in this process. All methods are safe for concurrent use.
type Server struct {
	cfg      ServerConfig
	log      *slog.Logger
	maxStore int64
	// owner is the key of connections from this process; it exists only in memory.
	owner nkeys.KeyPair
	// linker is the key of the link's own connection; it exists only in memory too.
	linker nkeys.KeyPair
	unlock func() error

	steward *steward
	copies  copies
	stop    context.CancelFunc
	measure func() // ends the metrics of the links
	guard   sync.WaitGroup
	revived time.Time // the guard's last restart
	finish  func() error

	mu    sync.Mutex
	inner *natsserver.Server // replaced when it has to be restarted
	port  int                // kept over restarts, as is leafPort
	full  error              // why writes are refused, while they are
	// leafPort is where others link themselves to this server.
	leafPort int
	link     *linker // set once
}

// StartServer starts an embedded server and waits until it has recovered its
// store and is ready. Shut it down.
func StartServer(ctx context.Context, cfg ServerConfig) (_ *Server, err error) {
	cfg.Log = discardNil(cfg.Log)
	if cfg.probe == nil {
		cfg.probe = probeDisk
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("start the embedded log: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Log, port: cfg.Port, leafPort: cfg.LeafPort}
	s.finish = sync.OnceValue(s.shutdown)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the embedded log: %w", err), s.finish())
		}
	}()
	if s.unlock, err = lockStore(cfg.StoreDir); err != nil {
		return nil, err
	}
	if s.maxStore, err = inspectStore(cfg); err != nil {
		return nil, err
	}
	if err := mendStore(cfg.StoreDir, cfg.Log); err != nil {
		return nil, err
	}
	if s.owner, err = nkeys.CreateUser(); err != nil {
		return nil, err
	}
	if s.linker, err = nkeys.CreateUser(); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.startSteward(ctx); err != nil {
		return nil, err
	}
	if err := s.startLink(ctx); err != nil {
		return nil, err
	}
	if cfg.Port != 0 && len(cfg.Users) == 0 {
		s.log.Warn("the embedded log accepts everybody: give it users", slog.String(telemetry.KeyURL, s.URL()))
	}
	s.measure = s.measureLinks()
	guardCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.guard.Go(func() { s.watchDisk(guardCtx) })
	return s, nil
}

// start starts a NATS server on the store and makes it the current one.
func (s *Server) start(ctx context.Context) error {
	opts, err := s.options()
	if err != nil {
		return err
	}
	inner, err := natsserver.NewServer(opts)
	if err != nil {
		return err
	}
	inner.SetLogger(serverLog{s.log}, false, false)
	if err := errors.Join(s.connectAccounts(inner), s.connectLink(inner)); err != nil {
		return err
	}
	s.mu.Lock()
	s.inner = inner
	s.mu.Unlock()
	inner.Start()
	if err := ready(ctx, inner); err != nil {
		return err
	}
	if err := enableLog(inner); err != nil {
		return err
	}
	if health := inner.Healthz(nil); health.Error != "" {
		return fmt.Errorf("the store is not healthy: %s", health.Error)
	}
	if opts.LeafNode.Port != 0 {
		s.mu.Lock()
		s.leafPort = opts.LeafNode.Port
		s.mu.Unlock()
		s.log.Info("the embedded log takes links", slog.String(telemetry.KeyURL, s.LinkURL()))
	}
	if addr, ok := inner.Addr().(*net.TCPAddr); ok && addr != nil {
		s.mu.Lock()
		s.port = addr.Port
		s.mu.Unlock()
		s.log.Info("the embedded log listens", slog.String(telemetry.KeyURL, s.URL()))
	}
	return nil
}

func ready(ctx context.Context, inner *natsserver.Server) error {
	deadline := time.Now().Add(readyTimeout)
	for !inner.ReadyForConnections(50 * time.Millisecond) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !inner.Running():
			return errors.New("the server has stopped while starting: its log says why")
		case time.Now().After(deadline):
			return fmt.Errorf("the server is not ready after %s", readyTimeout)
		}
	}
	return nil
}

func (s *Server) options() (*natsserver.Options, error) {
	tlsConfig, err := s.cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	port := s.port
	s.mu.Unlock()
	opts := &natsserver.Options{
		ServerName:             s.cfg.ServerName,
		Host:                   s.cfg.Host,
		Port:                   port,
		DontListen:             port == 0,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
		MaxPayload:             s.cfg.MaxPayload,
		PingInterval:           pingEvery,
		MaxPingsOut:            pingsOut,
		JetStream:              true,
		StoreDir:               s.cfg.StoreDir,
		JetStreamMaxStore:      s.maxStore,
		JetStreamMaxMemory:     maxMemory,
		SyncAlways:             s.cfg.SyncAlways,
		SyncInterval:           syncInterval,
	}
	if tlsConfig != nil {
		opts.TLS = true
		opts.TLSConfig = tlsConfig
		opts.TLSVerify = tlsConfig.ClientCAs != nil
		opts.TLSTimeout = connectTimeout.Seconds()
	}
	if err := s.admit(opts); err != nil {
		return nil, err
	}
	return opts, s.leafOptions(opts)
}

const (
	// maxMemory bounds the consumers' state and other streams in memory.
	maxMemory = 256 << 20
	// syncInterval is for servers that do not sync always.
	syncInterval = 100 * time.Millisecond
)

// URL is where clients connect, or "" if the server does not listen.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inner == nil || s.port <= 0 {
		return ""
	}
	return s.inner.ClientURL()
}

// LinkURL is where the embedded servers of sources link themselves to this one,
// or "" if they cannot.
func (s *Server) LinkURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inner == nil || s.leafPort <= 0 {
		return ""
	}
	scheme := "nats://"
	if s.cfg.TLSCertFile != "" {
		scheme = "tls://"
	}
	return scheme + net.JoinHostPort(s.cfg.LeafHost, strconv.Itoa(s.leafPort))
}

// InProcessConn opens a connection from this process. It implements
// nats.InProcessConnProvider, so that connections outlive a restart of the
// server inside.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	inner := s.inner
	s.mu.Unlock()
	if inner == nil {
		return nil, errors.New("the embedded log is shut down")
	}
	return inner.InProcessConn()
}

// door is how a connection of this process gets in.
func (s *Server) door() []nats.Option {
	opts := []nats.Option{nats.InProcessServer(s)}
	if s.guarded() {
		// The key was made by us and is a valid one.
		public, _ := s.owner.PublicKey()
		opts = append(opts, nats.Nkey(public, s.owner.Sign))
	}
	return opts
}

func (s *Server) startSteward(ctx context.Context) error {
	conn, err := Connect(ctx, ConnectConfig{InProcess: s, Name: "steward", Log: s.log})
	if err != nil {
		return err
	}
	if err := conn.direct.liftAll(ctx); err != nil {
		s.log.Warn("cannot look for trimmings that were cut off", slog.Any(telemetry.KeyError, err))
	}
	s.steward, err = startSteward(conn, s.log)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	return nil
}

// Healthz returns nil while the server works in every respect: it runs, all
// streams are there and can be written, and there is disk space.
func (s *Server) Healthz() error {
	s.mu.Lock()
	inner, full := s.inner, s.full
	s.mu.Unlock()
	switch {
	case inner == nil || !inner.Running():
		return errors.New("the embedded log is shut down")
	case full != nil:
		return full
	}
	if health := inner.Healthz(nil); health.Error != "" {
		return fmt.Errorf("the embedded log is not healthy: %s", health.Error)
	}
	return nil
}

// Shutdown stops the server and gives the store free. Connections to it should
// be closed before. It may be repeated; ctx bounds the waiting, not the stopping.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.finish() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("stop the embedded log: %w", ctx.Err())
	}
}

// shutdown stops in the reverse order of starting.
func (s *Server) shutdown() error {
	var errs []error
	if s.stop != nil {
		s.stop()
		s.guard.Wait()
		s.measure()
	}
	if s.link != nil {
		errs = append(errs, s.link.close())
	}
	if s.steward != nil {
		errs = append(errs, s.steward.close())
	}
	s.mu.Lock()
	inner := s.inner
	s.inner = nil
	s.mu.Unlock()
	if inner != nil {
		halt(inner)
	}
	if s.unlock != nil {
		errs = append(errs, s.unlock())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the embedded log: %w", err)
	}
	return nil
}

// halt stops a NATS server and waits. A lame-duck stop would hang a server
// that does not listen. Links are cut first: while it closes its streams a server
// cannot store what the other site still sends, and would all the same answer
// that it has taken it.
func halt(inner *natsserver.Server) {
	if links, err := inner.Leafz(nil); err == nil { // it cannot fail without options
		for _, l := range links.Leafs {
			_ = inner.DisconnectClientByID(l.ID) // gone by itself is as good
		}
	}
	inner.Shutdown()
	inner.WaitForShutdown()
}
