package natslog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Link joins the embedded server of a source to that of its destination, over a
// leaf connection that the source's side makes. The log lies at the source, so it
// goes on during a partition of any length; the destination keeps a copy of it.
type Link struct {
	// Site is the source.
	Site string
	// URL of the destination's address for links, several separated by commas:
	// tls://host:7422, or nats://host:7422 where the network encrypts.
	URL string
	// NKeySeedFile holds the seed of the user that the destination knows, CredsFile
	// its JWT and seed. At most one.
	NKeySeedFile string
	CredsFile    string
	// CAFile verifies the destination's server; CertFile and KeyFile present a
	// client certificate.
	CAFile   string
	CertFile string
	KeyFile  string
}

func (l *Link) validate() error {
	c := ConnectConfig{
		URL: l.URL, CredsFile: l.CredsFile, NKeySeedFile: l.NKeySeedFile,
		CAFile: l.CAFile, CertFile: l.CertFile, KeyFile: l.KeyFile,
	}
	errs := []error{c.Validate()}
	if l.Site == "" {
		errs = append(errs, errors.New("the link is of no site: name one"))
	}
	if len(pipeline.EscapeToken(l.Site)) > maxSiteToken {
		errs = append(errs, fmt.Errorf("site name %q is too long", l.Site))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("link to the destination: %w", err)
	}
	return nil
}

// Subjects of a link. At the source they are all that its account for links
// reaches, at the destination all that the source's user may use: neither side
// can ask the other for anything else.

// linkRoot begins the subjects of the link of a site.
func (s site) linkRoot() string { return "link.v1." + s.token }

// linkRecords is where the records of a stream go to its copy.
func (s site) linkRecords(stream string) string { return s.linkRoot() + ".rec." + stream }

// linkAPI stands for "$JS.API" of the source where its destination asks it.
func (s site) linkAPI() string { return s.linkRoot() + ".api" }

// linkInbox begins the subjects of the answers to the source.
func (s site) linkInbox() string { return s.linkRoot() + ".inbox" }

// linkConsumer is the consumer of a history that feeds its copy.
func (s site) linkConsumer() string { return "link_" + s.token }

// consumerReset begins what a copy asks when it begins to read.
const consumerReset = "CONSUMER.RESET."

// linkReset is where the copies ask that of their consumers.
func (s site) linkReset() string { return s.linkAPI() + "." + consumerReset + "*." + s.linkConsumer() }

// linkAcks is where a copy says how far it is.
func (s site) linkAcks() string { return "$JS.FC.*." + s.linkConsumer() + ".>" }

// linkReplies is where the servers expect answers to requests about consumers.
const linkReplies = "$JSC.R.>"

const (
	// sourceDomain and destinationDomain tell the two servers of a link apart.
	sourceDomain      = "source"
	destinationDomain = "destination"

	// linkAccount is the source's account for its link.
	linkAccount = "link"
	leafRetry   = 2 * time.Second
)

// linkPermissions are what the destination permits a source's server.
func (s site) linkPermissions() *natsserver.Permissions {
	return &natsserver.Permissions{
		Publish: &natsserver.SubjectPermission{Allow: []string{
			s.linkRecords("*"), s.control() + "." + verbLink, s.control() + "." + verbVolumes, linkReplies,
		}},
		Subscribe: &natsserver.SubjectPermission{Allow: []string{
			s.linkReset(), s.linkAcks(), s.linkInbox() + ".>",
		}},
	}
}

// leafOptions sets up links in both directions.
func (s *Server) leafOptions(opts *natsserver.Options) error {
	opts.LeafNode.ReconnectInterval = leafRetry
	if port := s.leafPort; port != 0 {
		opts.JetStreamDomain = destinationDomain
		opts.LeafNode.Host, opts.LeafNode.Port = s.cfg.LeafHost, port
		opts.LeafNode.TLSConfig, opts.LeafNode.TLSTimeout = opts.TLSConfig, connectTimeout.Seconds()
		opts.LeafNode.AuthTimeout = connectTimeout.Seconds()
	}
	if s.cfg.Link == nil {
		return nil
	}
	opts.JetStreamDomain = sourceDomain
	remote, err := s.cfg.Link.remote()
	if err != nil {
		return err
	}
	opts.LeafNode.Remotes = []*natsserver.RemoteLeafOpts{remote}
	account := natsserver.NewAccount(linkAccount)
	opts.Accounts = append(opts.Accounts, account)
	public, err := s.linker.PublicKey()
	if err != nil {
		return fmt.Errorf("read the key of the link: %w", err)
	}
	opts.Nkeys = append(opts.Nkeys, &natsserver.NkeyUser{Nkey: public, Account: account})
	return nil
}

// remote is how the source's server connects to the destination's.
func (l *Link) remote() (*natsserver.RemoteLeafOpts, error) {
	remote := &natsserver.RemoteLeafOpts{
		LocalAccount: linkAccount, Credentials: l.CredsFile, DialTimeout: connectTimeout,
		FirstInfoTimeout: connectTimeout, TLSTimeout: connectTimeout.Seconds(),
		// The destination's server tells the address it knows itself by, which is of its own
		// network: only the one that was given leads there.
		IgnoreDiscoveredServers: true,
	}
	for text := range strings.SplitSeq(l.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			return nil, errors.New("parse the address of the destination's log: give it in the form tls://host:7422")
		}
		if u.Scheme == "tls" || u.Scheme == "wss" {
			remote.TLS = true
		}
		remote.URLs = append(remote.URLs, u)
	}
	if l.NKeySeedFile != "" {
		seed, err := os.ReadFile(l.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read the seed of the link: %w", err)
		}
		pair, err := nkeys.ParseDecoratedNKey(seed)
		if err != nil {
			return nil, fmt.Errorf("read the seed of the link in %q: %w", l.NKeySeedFile, err)
		}
		clean, err := pair.Seed()
		if err != nil {
			return nil, fmt.Errorf("read the seed of the link in %q: %w", l.NKeySeedFile, err)
		}
		remote.Nkey = string(clean)
	}
	if l.CAFile == "" && l.CertFile == "" {
		return remote, nil
	}
	remote.TLS = true
	remote.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if l.CAFile != "" {
		pem, err := os.ReadFile(l.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authority of the destination's log: %w", err)
		}
		remote.TLSConfig.RootCAs = x509.NewCertPool()
		if !remote.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authority of the destination's log: %q holds no certificate", l.CAFile)
		}
	}
	if l.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the link: %w", err)
		}
		remote.TLSConfig.Certificates = []tls.Certificate{cert}
	}
	return remote, nil
}

// connectLink lets the link's account reach what the copy of the history needs:
// the records that its consumers send, and where it acknowledges them.
func (s *Server) connectLink(inner *natsserver.Server) error {
	if s.cfg.Link == nil {
		return nil
	}
	of, log := siteOf(s.cfg.Link.Site), inner.GlobalAccount()
	account, err := inner.LookupAccount(linkAccount)
	if err != nil {
		return fmt.Errorf("look up the account of the link: %w", err)
	}
	only := []*natsserver.Account{account}
	if err := log.AddStreamExport(of.linkRecords("*"), only); err != nil {
		return fmt.Errorf("export the records of site %q: %w", of.name, err)
	}
	if err := account.AddStreamImport(log, of.linkRecords("*"), ""); err != nil {
		return fmt.Errorf("import the records of site %q: %w", of.name, err)
	}
	if err := log.AddServiceExport(of.linkAcks(), only); err != nil {
		return fmt.Errorf("export what a copy of site %q says: %w", of.name, err)
	}
	if err := account.AddServiceImport(log, of.linkAcks(), of.linkAcks()); err != nil {
		return fmt.Errorf("import what a copy of site %q says: %w", of.name, err)
	}
	return nil
}
