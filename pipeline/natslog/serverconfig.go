package natslog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// ServerConfig describes an embedded server.
type ServerConfig struct {
	// StoreDir keeps the log; it is locked while the server runs. It belongs on a
	// real block device: no NFS, no overlay.
	StoreDir string
	// ServerName is stable over restarts; it is shown to clients.
	ServerName string
	// Host and Port to listen on. Port -1 takes a free one (see Server.URL), 0
	// does not listen: only connections from this process are possible then.
	Host string
	Port int
	// MaxStore bounds what all streams together may occupy, in bytes; 0 is
	// three quarters of what the disk has free and the store already uses.
	MaxStore int64
	// MaxPayload is the largest message, in bytes; larger bodies go in pieces.
	MaxPayload int32
	// SyncAlways has every write on disk before it is acknowledged. Without it a
	// power failure costs the last seconds.
	SyncAlways bool
	// TLSCertFile and TLSKeyFile make connections encrypted. With ClientCAFile
	// clients must present a certificate of that authority.
	TLSCertFile  string
	TLSKeyFile   string
	ClientCAFile string
	// Users that may connect. Without any, whoever reaches the port may do
	// everything.
	Users []User
	// LeafHost and LeafPort are where embedded servers of sources link themselves
	// to this one (see Link), as the Users whose Leaf is set. The port's special
	// values are those of Port.
	LeafHost string
	LeafPort int
	// Link, if not nil, links this server, which holds the log of a source, to
	// the embedded server of the destination.
	Link *Link
	// MinFree is the free disk space, in bytes, below which writes are refused.
	MinFree int64
	// Log receives what the server has to say. Nil discards it.
	Log *slog.Logger

	// probe replaces the look at the disk in tests.
	probe func(dir string) (diskSpace, error)
}

// User is somebody who may connect to the embedded server, proven by an nkey.
type User struct {
	// NKey is the user's public key; it starts with "U".
	NKey string
	// Site restricts the user to what the collector of that site needs: append
	// to its history and read it back. Empty permits everything except
	// destroying history; that is for appliers and operators.
	Site string
	// Leaf makes it the user of a source's embedded server, which links itself to
	// this one; Site is needed then. All it may do is have its history copied.
	Leaf bool
}

// DefaultServerConfig is durable, listens nowhere and accepts the API server's
// largest objects. StoreDir is left to be set.
func DefaultServerConfig() ServerConfig {
	return ServerConfig{
		ServerName: "dr-syncer",
		Host:       "0.0.0.0",
		MaxPayload: 8 << 20,
		SyncAlways: true,
		MinFree:    512 << 20,
	}
}

// Validate checks the configuration. Its errors say what to do.
func (c ServerConfig) Validate() error {
	var errs []error
	if c.StoreDir == "" {
		errs = append(errs, errors.New("the store directory is missing: name a directory on a disk of its own"))
	}
	if c.ServerName == "" {
		errs = append(errs, errors.New("the server name is missing: give one that stays the same over restarts, such as the pod's name"))
	}
	if c.Port < -1 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d does not exist: give one up to 65535, -1 for any or 0 for none", c.Port))
	}
	if c.MaxPayload < 64<<10 || c.MaxPayload > 64<<20 {
		errs = append(errs, fmt.Errorf("largest message of %d bytes: give between 64 KiB and 64 MiB", c.MaxPayload))
	}
	if c.MaxStore < 0 || c.MinFree < 0 {
		errs = append(errs, errors.New("sizes must not be negative"))
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		errs = append(errs, errors.New("TLS needs both the certificate and the key file: give the other one too"))
	}
	if c.ClientCAFile != "" && c.TLSCertFile == "" {
		errs = append(errs, errors.New("client certificates need TLS: give the server's certificate and key files too"))
	}
	if c.LeafPort < -1 || c.LeafPort > 65535 {
		errs = append(errs, fmt.Errorf("port %d for links does not exist: give one up to 65535, -1 for any or 0 for none", c.LeafPort))
	}
	if linked := slices.ContainsFunc(c.Users, func(u User) bool { return u.Leaf }); linked != (c.LeafPort != 0) {
		errs = append(errs, errors.New("a server that others link themselves to needs an address for links and users for them: give both or none"))
	}
	if c.Link != nil {
		errs = append(errs, c.Link.validate())
	}
	seen := map[string]bool{}
	for _, u := range c.Users {
		if !nkeys.IsValidPublicUserKey(u.NKey) {
			errs = append(errs, fmt.Errorf("the key of the user for site %q is not a public user nkey: it starts with U and is made by `nk -gen user -pubout`", u.Site))
		}
		if seen[u.NKey] {
			errs = append(errs, fmt.Errorf("user %s is given twice: keep one entry per key", u.NKey))
		}
		seen[u.NKey] = true
		if u.Leaf && u.Site == "" {
			errs = append(errs, fmt.Errorf("the link of user %s is of no site: name one", u.NKey))
		}
		if len(pipeline.EscapeToken(u.Site)) > maxSiteToken {
			errs = append(errs, fmt.Errorf("site name %q is too long", u.Site))
		}
	}
	return errors.Join(errs...)
}

// maxSiteToken keeps stream names, which are names of directories, below 255 bytes.
const maxSiteToken = 200

// tlsConfig is nil when connections are not encrypted.
func (c ServerConfig) tlsConfig() (*tls.Config, error) {
	if c.TLSCertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("load the server's certificate: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.ClientCAFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("load the clients' authority: %w", err)
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load the clients' authority: %q holds no certificate", c.ClientCAFile)
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

// Times of the embedded server.
const (
	readyTimeout = 2 * time.Minute // recovery reads the whole store in the worst case
	guardEvery   = 2 * time.Second
	reviveEvery  = 30 * time.Second
	slowSync     = 20 * time.Millisecond
)
