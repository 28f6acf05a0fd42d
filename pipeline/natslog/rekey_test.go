package natslog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	natsjwt "github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// keyed is a real server whose users' keys a test changes.
type keyed struct {
	// revoke takes the present user's rights, admit gives a new one's credentials; both put nothing else out.
	revoke func(t *testing.T)
	admit  func(t *testing.T)
	cfg    ConnectConfig
}

func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	next := path + ".next" // as a mounted Secret changes: at once
	if err := errors.Join(os.WriteFile(next, text, 0o600), os.Rename(next, path)); err != nil {
		t.Fatal(err)
	}
}

// withNKeys is a server that knows its users by their nkeys.
func withNKeys(t *testing.T) keyed {
	key, file := testUser(t)
	opts := &natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30,
		Nkeys: []*natsserver.NkeyUser{{Nkey: key}},
	}
	s := run(t, opts)
	know := func(t *testing.T, key string) {
		t.Helper()
		next := opts.Clone()
		next.Nkeys = []*natsserver.NkeyUser{{Nkey: key}}
		if err := s.ReloadOptions(next); err != nil {
			t.Fatal(err)
		}
	}
	next, nextFile := testUser(t)
	return keyed{
		cfg:    ConnectConfig{URL: s.ClientURL(), NKeySeedFile: file},
		revoke: func(t *testing.T) { know(t, next) },
		admit: func(t *testing.T) {
			text, err := os.ReadFile(nextFile)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, file, text)
		},
	}
}

// withJWTs is a server that knows its users by what an account's key signed.
func withJWTs(t *testing.T) keyed {
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		t.Helper()
		p, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := p.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return p, public
	}
	operator, operatorKey := pair(nkeys.CreateOperator)
	account, accountKey := pair(nkeys.CreateAccount)
	encoded := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claims := natsjwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = natsjwt.JetStreamLimits{
		MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1, MaxAckPending: -1,
	}
	file := filepath.Join(t.TempDir(), "creds")
	credentials := func(t *testing.T) (public string) {
		t.Helper()
		user, public := pair(nkeys.CreateUser)
		seed, err := user.Seed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := natsjwt.FormatUserConfig(encoded(natsjwt.NewUserClaims(public).Encode(account)), seed)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, file, text)
		return public
	}
	present := credentials(t)
	resolver := &natsserver.MemAccResolver{}
	if err := resolver.Store(accountKey, encoded(claims.Encode(operator))); err != nil {
		t.Fatal(err)
	}
	_, systemKey := pair(nkeys.CreateAccount)
	if err := resolver.Store(systemKey, encoded(natsjwt.NewAccountClaims(systemKey).Encode(operator))); err != nil {
		t.Fatal(err)
	}
	trusted := natsjwt.NewOperatorClaims(operatorKey)
	encoded(trusted.Encode(operator))
	s := run(t, &natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30,
		TrustedOperators: []*natsjwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemKey,
	})
	return keyed{
		cfg: ConnectConfig{URL: s.ClientURL(), CredsFile: file},
		revoke: func(t *testing.T) {
			claims.Revoke(present)
			served, err := s.LookupAccount(accountKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := resolver.Store(accountKey, encoded(claims.Encode(operator))); err != nil {
				t.Fatal(err)
			}
			s.UpdateAccountClaims(served, claims)
		},
		admit: func(t *testing.T) { credentials(t) },
	}
}

func run(t *testing.T, opts *natsserver.Options) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { halt(s) })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

// TestCredentialsChange revokes what a connection uses while it writes and reads, and gives it other
// credentials later: it says what is wrong meanwhile, and goes on by itself.
func TestCredentialsChange(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(*testing.T) keyed{"NKeySeed": withNKeys, "Credentials": withJWTs} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			c := testConn(t, s.cfg)
			w := testWriter(t, c, "a")
			mustAppend(t, w, numbered(1))
			sub, err := c.History("a").Follow(t.Context(), "reader", pipeline.Position{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Close() }()
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.revoke(t)
			eventually(t, "readiness says that it is refused", func() bool { return errors.Is(c.Healthy(), ErrUnauthorized) })
			if _, err := w.Append(t.Context(), []pipeline.Event{numbered(2)}); err == nil {
				t.Fatal("appended without credentials")
			}
			s.admit(t)
			eventually(t, "it goes on", func() bool { return c.Healthy() == nil })
			mustAppend(t, w, numbered(2))
			if d, err := sub.Next(t.Context()); err != nil || d.Position.Seq != 2 {
				t.Errorf("the reader has %s, %v", d.Position, err)
			}
			checkNumbered(t, c, 2)
		})
	}
}
