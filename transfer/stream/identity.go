package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Role is the end of a transfer that somebody plays.
type Role uint8

const (
	// Source serves the data, and only reads it.
	Source Role = iota + 1
	// Destination opens the streams and writes the copy.
	Destination
)

// Peer is the other role.
func (r Role) Peer() Role {
	if r == Source {
		return Destination
	}
	return Source
}

// String is the role as it stands in names and certificates.
func (r Role) String() string {
	switch r {
	case Source:
		return "source"
	case Destination:
		return "destination"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Session names one attempt at one transfer. Both ends hold the same.
type Session struct {
	// ID is 32 random hex digits, see NewSessionID.
	ID string `json:"id"`
	// Claim is what the session opens: site/namespace/name.
	Claim string `json:"claim"`
	// Epoch counts the attempts. A higher one makes all that is said in a lower one void.
	Epoch uint64 `json:"epoch"`
	// Expires is when the session's identities stop opening streams. Streams that are
	// open then are not cut.
	Expires time.Time `json:"expires"`
}

var (
	sessionID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	claimName = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,3}$`)
)

// NewSessionID returns a new random session ID.
func NewSessionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Validate says what is wrong with the session.
func (s Session) Validate() error {
	var errs []error
	if !sessionID.MatchString(s.ID) {
		errs = append(errs, errors.New("the session ID is not 32 lower-case hex digits"))
	}
	if !claimName.MatchString(s.Claim) {
		errs = append(errs, fmt.Errorf("the claim %q is not of the form site/namespace/name", s.Claim))
	}
	if s.Expires.IsZero() {
		errs = append(errs, errors.New("the session has no time at which it expires"))
	}
	return errors.Join(errs...)
}

// name is what the certificate of an end says of the session.
func (s Session) name(r Role) *url.URL {
	return &url.URL{Scheme: "dr-syncer", Host: r.String(), Path: fmt.Sprintf("/%s/%d/%s", s.ID, s.Epoch, s.Claim)}
}

// Pin identifies a certificate: its SHA-256.
type Pin [sha256.Size]byte

const pinPrefix = "sha256:"

// String is the pin as it is handed around.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// MarshalText writes what String says.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *Pin) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), pinPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(p) {
		return errors.New("a pin is \"sha256:\" and 64 hex digits")
	}
	copy(p[:], b)
	return nil
}

// Identity is the key of one end for one session, with its certificate. The key
// is made where it is used; only the Pin has to reach the other end.
type Identity struct {
	cert tls.Certificate
	pin  Pin
}

// clockSkew is how far the clocks of the two sites may differ.
const clockSkew = 10 * time.Minute

// NewIdentity makes the identity of one end of a session.
func NewIdentity(s Session, r Role) (Identity, error) {
	if err := s.Validate(); err != nil {
		return Identity{}, fmt.Errorf("make an identity: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make an identity: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-clockSkew),
		NotAfter:     s.Expires,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{s.name(r)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Identity{}, fmt.Errorf("make an identity: %w", err)
	}
	return Identity{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pin: sha256.Sum256(der)}, nil
}

// Pin is what the other end needs to know this one.
func (i Identity) Pin() Pin { return i.pin }

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// MarshalPEM writes the certificate and the key. It is a secret.
func (i Identity) MarshalPEM() ([]byte, error) {
	if i.cert.PrivateKey == nil {
		return nil, errors.New("write an identity: it is empty")
	}
	key, err := x509.MarshalPKCS8PrivateKey(i.cert.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("write an identity: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: i.cert.Certificate[0]})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: key})...), nil
}

// ParseIdentity reads what MarshalPEM writes. Its errors tell nothing of the content.
func ParseIdentity(text []byte) (Identity, error) {
	cert, err := tls.X509KeyPair(text, text)
	if err != nil || len(cert.Certificate) != 1 {
		return Identity{}, errors.New("read an identity: not one certificate and its key in PEM")
	}
	return Identity{cert: cert, pin: sha256.Sum256(cert.Certificate[0])}, nil
}

// ErrRefused marks a peer that could not show that it is the other end of the session.
var ErrRefused = errors.New("the peer is not the other end of this session")

// End is one end of a session: who it is and whom it expects.
type End struct {
	Session  Session
	Role     Role
	Identity Identity
	// Peer is the pin of the other end's identity.
	Peer Pin
}

// Validate says what is wrong with the end; an expired session is an error.
func (e End) Validate() error {
	if err := e.Session.Validate(); err != nil {
		return err
	}
	switch {
	case e.Role != Source && e.Role != Destination:
		return fmt.Errorf("%s is no end of a session", e.Role)
	case e.Identity.cert.PrivateKey == nil:
		return errors.New("the end has no identity")
	case e.Peer == Pin{}:
		return errors.New("the pin of the other end is missing")
	}
	leaf, err := x509.ParseCertificate(e.Identity.cert.Certificate[0])
	if err != nil {
		return errors.New("the end's own certificate cannot be read")
	}
	if err := e.Session.check(leaf, e.Role, time.Now()); err != nil {
		return fmt.Errorf("the end's own identity: %w", err)
	}
	return nil
}

// check holds a certificate to the session: name and time.
func (s Session) check(leaf *x509.Certificate, r Role, now time.Time) error {
	switch {
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != s.name(r).String():
		return fmt.Errorf("%w: it was made for another session, claim, attempt or role", ErrRefused)
	case now.After(leaf.NotAfter) || now.After(s.Expires):
		return fmt.Errorf("%w: it expired at %s", ErrRefused, s.Expires.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%w: it is not valid yet; compare the clocks of the two sites", ErrRefused)
	}
	return nil
}

// verify is what TLS asks about the certificate that the peer showed.
func (e End) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) != 1 {
		return fmt.Errorf("%w: it shows not one certificate", ErrRefused)
	}
	leaf := state.PeerCertificates[0]
	pin := sha256.Sum256(leaf.Raw)
	if subtle.ConstantTimeCompare(pin[:], e.Peer[:]) != 1 {
		return fmt.Errorf("%w: its key is not the pinned one", ErrRefused)
	}
	return e.Session.check(leaf, e.Role.Peer(), time.Now())
}

// config is the TLS configuration of the end. Resumption is off: each stream is
// authenticated anew.
func (e End) config() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{e.Identity.cert},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, //nolint:gosec // G402: VerifyConnection checks the pin, which is more than a chain
		VerifyConnection:            e.verify,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}
