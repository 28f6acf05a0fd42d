package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
)

const (
	defaultStoreDir = "/var/lib/dr-syncer/log"
	// storeStopTimeout is what the embedded log may take to close its store.
	storeStopTimeout = 30 * time.Second
)

// linkFlags are the flags of RegisterLink.
var linkFlags = []string{"link-nkey", "link-creds", "link-ca", "link-cert", "link-key", "link-no-tls"}

func (o *options) registerLink(fs *pflag.FlagSet) {
	fs.StringVar(&o.link.URL, "link-url", o.link.URL, "hold the log here, in an embedded NATS server, and have it copied by the applier whose --link-listen this is: tls://host:7422, several separated by commas")
	fs.StringVar(&o.link.NKeySeedFile, "link-nkey", o.link.NKeySeedFile, "file with the nkey seed of the link, whose public key the applier's --nats-users-file holds")
	fs.StringVar(&o.link.CredsFile, "link-creds", o.link.CredsFile, "file with NATS credentials (JWT and seed) of the link")
	fs.StringVar(&o.link.CAFile, "link-ca", o.link.CAFile, "file with the CA certificates that the applier's certificate is checked against")
	fs.StringVar(&o.link.CertFile, "link-cert", o.link.CertFile, "file with the client certificate of the link")
	fs.StringVar(&o.link.KeyFile, "link-key", o.link.KeyFile, "file with the client certificate's key")
	fs.BoolVar(&o.plainLink, "link-no-tls", o.plainLink, "send what is replicated, Secrets too, over the link as it is: for a network that encrypts")
	app.RegisterStore(fs, &o.server)
	app.RegisterRetention(fs, &o.retention, &o.snapshots)
}

// embedded reports whether the log is held here.
func (o *options) embedded() bool { return o.link.URL != "" }

// validateLog checks where the log is: elsewhere, or here and linked.
func (o *options) validateLog(set func(flag string) bool) error {
	var errs []error
	refuse := func(flags []string, because string) {
		for _, flag := range flags {
			if set(flag) {
				errs = append(errs, fmt.Errorf("--%s is for %s", flag, because))
			}
		}
	}
	switch {
	case o.embedded() && o.nats.URL != "":
		errs = append(errs, errors.New("--link-url says that the log is held here, and --nats-url that it is elsewhere: leave one of them out"))
	case o.embedded():
		refuse(app.ConnectionFlags, "a log elsewhere: give --nats-url instead of --link-url, or leave it out")
		o.link.Site = o.site
		o.server.Link, o.server.ServerName = &o.link, "collector-"+o.site
		if err := o.server.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("embedded log: %w", err))
		}
		if strings.Contains(o.link.URL, "nats://") && !o.plainLink && o.link.CAFile == "" {
			errs = append(errs, errors.New("--link-url would send what is replicated, Secrets too, over the network as it is: give tls://…, or --link-no-tls if the network encrypts"))
		}
		if err := o.retention.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("keeping history: %w", err))
		}
		if err := o.snapshots.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("--snapshots-max-bytes: %w", err))
		}
		if o.streams.Replicas > 1 {
			errs = append(errs, errors.New("--history-replicas is for a NATS cluster: an embedded log is one server"))
		}
	default:
		refuse(slices.Concat(linkFlags, app.StoreFlags, app.RetentionFlags), "a log that is held here: give --link-url instead of --nats-url, or leave it out")
		if o.nats.URL == "" {
			errs = append(errs, errors.New("--nats-url is missing: give the address of the log, such as nats://dr.example.com:4222, or --link-url to hold it here"))
		} else if err := o.nats.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("connection to the log: %w", err))
		}
	}
	return errors.Join(errs...)
}

// retain looks after the history that is held here, which nobody else can let go of. Its copy at the
// destination is the applier's to look after.
func (p *program) retain(ctx context.Context) error {
	r := &replay.Retention{
		Config: p.options.retention, Log: p.log,
		Sites: func(context.Context) ([]string, error) { return []string{p.options.site}, nil },
		Past: func(site string) *replay.Past {
			return &replay.Past{
				Site: site, History: p.conn.History(site), Archive: p.conn.Archive(site),
				Snapshots: p.conn.Snapshots(site, p.options.snapshots),
			}
		},
	}
	return r.Run(ctx)
}

// serve runs the embedded log.
func (p *program) serve(ctx context.Context, ready func()) error {
	cfg := p.options.server
	cfg.Log = p.log
	server, err := natslog.StartServer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%w (check --store-dir %s)", err, cfg.StoreDir)
	}
	p.server = server
	p.health.Ready("embedded log", func(context.Context) error { return server.Healthz() })
	app.InformLinks(p.health, server)
	ready()
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeStopTimeout)
	defer cancel()
	return server.Shutdown(closing)
}
