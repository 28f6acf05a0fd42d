package app

import (
	"errors"
	"net/url"
	"strings"

	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/transfer"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// MoverOptions are the flags about the movers of volumes, the same at both sites.
type MoverOptions struct {
	Image      string
	PullSecret string
	Relay      string
}

// RegisterFlags makes the options flags.
func (o *MoverOptions) RegisterFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Image, "mover-image", o.Image, "image of cmd/rsync, which moves the data of volumes; no volumes are moved if not given")
	fs.StringVar(&o.PullSecret, "mover-pull-secret", o.PullSecret, "Secret to pull --mover-image with, in the namespaces of the claims")
	fs.StringVar(&o.Relay, "mover-relay", o.Relay, "NATS that movers go over where they cannot reach each other, as nats:// or tls:// URL, with user:password@ if it asks for them; only direct connections if not given. Best a server or account of its own: bulk data delays what shares it")
}

// Enabled reports whether volumes are moved.
func (o *MoverOptions) Enabled() bool { return o.Image != "" }

// Validate reports what is wrong with the options. Its errors hold nothing of the URL.
func (o *MoverOptions) Validate() error {
	if o.Image == "" && (o.PullSecret != "" || o.Relay != "") {
		return errors.New("--mover-pull-secret and --mover-relay are for movers: give --mover-image, too")
	}
	for address := range strings.SplitSeq(o.Relay, ",") {
		if u, err := url.Parse(strings.TrimSpace(address)); o.Relay != "" && (err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls") {
			return errors.New("--mover-relay is no list of addresses of the form nats://host:4222 or tls://host:4222")
		}
	}
	return nil
}

// Movers is how the movers of this site run.
func (o *MoverOptions) Movers() transfer.Image {
	i := transfer.Image{Name: o.Image, PullSecret: o.PullSecret}
	if o.Relay != "" {
		i.Relay = &stream.RelayConfig{URL: o.Relay}
	}
	return i
}
