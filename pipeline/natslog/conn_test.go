package natslog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConnectConfig(t *testing.T) {
	cases := map[string]struct {
		cfg  ConnectConfig
		want string
	}{
		"nothing":        {ConnectConfig{}, "URL is missing"},
		"scheme":         {ConnectConfig{URL: "http://x"}, "nats://"},
		"no host":        {ConnectConfig{URL: "nats://"}, "no host"},
		"second URL":     {ConnectConfig{URL: "nats://a:4222,b"}, "nats://"},
		"two identities": {ConnectConfig{URL: "nats://a", CredsFile: os.DevNull, NKeySeedFile: os.DevNull}, "keep one"},
		"half a pair":    {ConnectConfig{URL: "nats://a", CertFile: os.DevNull}, "other one"},
		"missing file":   {ConnectConfig{URL: "nats://a", CredsFile: "/none"}, "credentials file"},
		"inbox":          {ConnectConfig{URL: "nats://a", InboxPrefix: "a.>"}, "inbox prefix"},
		"broken URL":     {ConnectConfig{URL: "nats://user:secret@a:x"}, "cannot be parsed"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(t.Context(), tc.cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("connect: %v, want it to mention %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestConnectToNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Connect(t.Context(), ConnectConfig{URL: "nats://user:secret@" + addr})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "secret") {
		t.Errorf("connect: %v", err)
	}
}

// authority makes certificates for a test.
type authority struct {
	dir    string
	caFile string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	}
	a.cert, a.key = template, nil
	a.caFile, _ = a.issue(t, "ca", template)
	return a
}

func (a *authority) issue(t testing.TB, name string, template *x509.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if template == a.cert {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func (a *authority) leaf(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	return a.issue(t, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ours.leaf(t, "server")
	clientCert, clientKey := ours.leaf(t, "client")
	foreignCert, foreignKey := theirs.leaf(t, "client")
	secure := testServer(t, listening, func(c *ServerConfig) { c.TLSCertFile, c.TLSKeyFile = serverCert, serverKey })
	mutual := testServer(t, listening, func(c *ServerConfig) {
		c.TLSCertFile, c.TLSKeyFile, c.ClientCAFile = serverCert, serverKey, ours.caFile
	})
	plain := testServer(t, listening)
	tlsOf := func(s *Server) string { return strings.Replace(s.URL(), "nats://", "tls://", 1) }
	cases := map[string]struct {
		cfg  ConnectConfig
		want error
	}{
		"trusted":                  {ConnectConfig{URL: secure.URL(), CAFile: ours.caFile}, nil},
		"unknown authority":        {ConnectConfig{URL: secure.URL()}, ErrTLS},
		"other authority":          {ConnectConfig{URL: secure.URL(), CAFile: theirs.caFile}, ErrTLS},
		"server without TLS":       {ConnectConfig{URL: tlsOf(plain), CAFile: ours.caFile}, ErrTLS},
		"client certificate":       {ConnectConfig{URL: mutual.URL(), CAFile: ours.caFile, CertFile: clientCert, KeyFile: clientKey}, nil},
		"no client certificate":    {ConnectConfig{URL: mutual.URL(), CAFile: ours.caFile}, ErrTLS},
		"other client certificate": {ConnectConfig{URL: mutual.URL(), CAFile: ours.caFile, CertFile: foreignCert, KeyFile: foreignKey}, ErrTLS},
		"in process":               {ConnectConfig{InProcess: mutual}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := Connect(t.Context(), tc.cfg)
			if !errors.Is(err, tc.want) {
				t.Errorf("connect: %v, want %v", err, tc.want)
			}
			if err == nil {
				if err := errors.Join(c.Healthy(), c.Close(), c.Close()); err != nil {
					t.Error(err)
				}
				if c.Healthy() == nil {
					t.Error("healthy after close")
				}
			}
		})
	}
}
