package natslog

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
)

// ConnectConfig says which log to connect to and as whom.
type ConnectConfig struct {
	// URL of the NATS servers, several separated by commas.
	URL string
	// CredsFile holds a user's JWT and seed, NKeySeedFile a bare nkey seed. At most one.
	CredsFile    string
	NKeySeedFile string
	// CAFile verifies the server; CertFile and KeyFile present a client certificate.
	CAFile   string
	CertFile string
	KeyFile  string
	// Name identifies the connection to the server's operators.
	Name string
	// InboxPrefix starts the subjects of replies. A user of the embedded server
	// needs SiteInboxPrefix of its site. Empty means NATS's default.
	InboxPrefix string
	// InProcess connects to an embedded server without a network and with full
	// rights; URL and credentials are not used then.
	InProcess *Server
	// Log receives disconnections and refusals. Nil discards them.
	Log *slog.Logger
}

// Validate checks the configuration as far as that is possible without a
// connection. Its errors say what to do.
func (c ConnectConfig) Validate() error {
	var errs []error
	if c.InProcess == nil {
		errs = append(errs, validateURLs(c.URL))
	}
	if c.CredsFile != "" && c.NKeySeedFile != "" {
		errs = append(errs, errors.New("both a credentials file and an nkey seed file are given: keep one of them"))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("a client certificate needs both the certificate and the key file: give the other one too"))
	}
	for _, f := range []struct{ what, path string }{
		{"credentials", c.CredsFile},
		{"nkey seed", c.NKeySeedFile},
		{"CA", c.CAFile},
		{"certificate", c.CertFile},
		{"key", c.KeyFile},
	} {
		errs = append(errs, readable(f.what, f.path))
	}
	if strings.ContainsAny(c.InboxPrefix, " \t\r\n*>") || strings.HasSuffix(c.InboxPrefix, ".") {
		errs = append(errs, fmt.Errorf("inbox prefix %q is not a subject: use letters, digits, '_' and inner dots", c.InboxPrefix))
	}
	return errors.Join(errs...)
}

func validateURLs(list string) error {
	if strings.TrimSpace(list) == "" {
		return errors.New("the NATS URL is missing: give one such as nats://nats.example:4222")
	}
	for s := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			// The cause may repeat a password of the URL.
			return errors.New("a NATS URL cannot be parsed: give it in the form nats://host:4222")
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("NATS URL %q does not start with nats://, tls://, ws:// or wss://", u.Redacted())
		}
		if u.Hostname() == "" {
			return fmt.Errorf("NATS URL %q names no host: give it in the form nats://host:4222", u.Redacted())
		}
	}
	return nil
}

func readable(what, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return fmt.Errorf("the %s file cannot be read: %w", what, err)
	}
	return f.Close()
}

func discardNil(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
