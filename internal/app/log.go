package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// ConnectionFlags are the flags of RegisterConnection but --nats-url: what they say is of use for a
// log elsewhere only.
var ConnectionFlags = []string{"nats-creds", "nats-nkey", "nats-ca", "nats-cert", "nats-key", "nats-inbox-prefix"}

// RegisterConnection makes flags of how to connect to the log. noURL and noInbox say what holds if there
// is no address, and no inbox prefix.
func RegisterConnection(fs *pflag.FlagSet, c *natslog.ConnectConfig, noURL, noInbox string) {
	fs.StringVar(&c.URL, "nats-url", c.URL, "address of the log: nats://host:4222, several separated by commas"+noURL)
	fs.StringVar(&c.CredsFile, "nats-creds", c.CredsFile, "file with NATS credentials (JWT and seed), read again at each connection")
	fs.StringVar(&c.NKeySeedFile, "nats-nkey", c.NKeySeedFile, "file with a NATS nkey seed, read again at each connection")
	fs.StringVar(&c.CAFile, "nats-ca", c.CAFile, "file with the CA certificates that the log's certificate is checked against")
	fs.StringVar(&c.CertFile, "nats-cert", c.CertFile, "file with the client certificate for the log")
	fs.StringVar(&c.KeyFile, "nats-key", c.KeyFile, "file with the client certificate's key")
	fs.StringVar(&c.InboxPrefix, "nats-inbox-prefix", c.InboxPrefix, "where answers of the log arrive; "+noInbox)
}

// RegisterStreams makes flags of the limits of a site's streams.
func RegisterStreams(fs *pflag.FlagSet, o *natslog.StreamOptions) {
	fs.Int64Var(&o.MaxBytes, "history-max-bytes", o.MaxBytes, "size of the history at which its oldest events go")
	fs.DurationVar(&o.MaxAge, "history-max-age", o.MaxAge, "age at which events of the history go whatever needs them; 0 leaves it to the applier's --history-window")
	fs.IntVar(&o.Replicas, "history-replicas", o.Replicas, "servers of a NATS cluster that hold each event: 1, 3 or 5; 0 is 3 if the cluster has as many when the stream is made, else 1")
	fs.Int64Var(&o.CurrentMaxBytes, "current-max-bytes", o.CurrentMaxBytes, "size of the current state (the last event of each object) beyond which it is read from the history; it should hold all of it")
	fs.Int64Var(&o.ClaimsMaxBytes, "large-max-bytes", o.ClaimsMaxBytes, "size of the store of objects too large for one message; when it is full they wait for room and the others go on")
}

// StoreFlags are the flags of RegisterStore.
var StoreFlags = []string{"store-dir", "store-max-bytes", "store-min-free", "store-sync-always"}

// RegisterStore makes flags of where an embedded log is kept.
func RegisterStore(fs *pflag.FlagSet, c *natslog.ServerConfig) {
	fs.StringVar(&c.StoreDir, "store-dir", c.StoreDir, "directory of the embedded log, on a disk of its own")
	fs.Int64Var(&c.MaxStore, "store-max-bytes", c.MaxStore, "most that the embedded log may occupy; three quarters of the free disk if 0")
	fs.Int64Var(&c.MinFree, "store-min-free", c.MinFree, "free disk space in bytes below which the embedded log takes nothing more")
	fs.BoolVar(&c.SyncAlways, "store-sync-always", c.SyncAlways, "have every event on disk before it counts as written; without it a power failure costs the last of them")
}

// RetentionFlags are the flags of RegisterRetention.
var RetentionFlags = []string{"history-window", "snapshot-every", "snapshot-events", "snapshots-keep", "snapshots-max-age", "snapshots-max-bytes"}

// RegisterRetention makes flags of how far back a site can be read, and of the store that this takes.
func RegisterRetention(fs *pflag.FlagSet, c *replay.RetentionConfig, store *natslog.SnapshotOptions) {
	fs.DurationVar(&c.Window, "history-window", c.Window, "how far back every moment of a source can be read; nothing that this needs is let go")
	fs.DurationVar(&c.Every, "snapshot-every", c.Every, "how often a snapshot of each source is made at least")
	fs.Uint64Var(&c.Events, "snapshot-events", c.Events, "events of a source after which a snapshot is made before that, of one with fewer objects after as many as it has, but 10,000 at least; bounds what going back reads")
	fs.IntVar(&c.Count, "snapshots-keep", c.Count, "snapshots of a source that are kept at most, beside those kept by hand")
	fs.DurationVar(&c.MaxAge, "snapshots-max-age", c.MaxAge, "age at which a snapshot that --history-window does not need goes")
	fs.Int64Var(&store.MaxBytes, "snapshots-max-bytes", store.MaxBytes, "size of the snapshots of all sources together; when it is reached no more are made and no history is let go for them; raised, never lowered")
}

// InformLinks has readiness say how the links of an embedded log are, at either end. A link that is
// cut makes nobody unready: both sides go on with what they have.
func InformLinks(h *Health, server *natslog.Server) {
	h.Inform(func() []string {
		var lines []string
		for _, l := range server.Links() {
			lines = append(lines, "link of site "+l.Site+": "+l.Text(time.Now()))
		}
		return lines
	})
}

// ConnectLog connects to the log. It waits, and says so, for one that cannot be reached yet; what
// waiting does not mend is an error. It returns ctx's error if that ends.
func ConnectLog(ctx context.Context, cfg natslog.ConnectConfig) (*natslog.Conn, error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var delay Delay
	for {
		conn, err := natslog.Connect(ctx, cfg)
		switch {
		case err == nil:
			return conn, nil
		case !errors.Is(err, natslog.ErrUnreachable):
			return nil, fmt.Errorf("%w: check --nats-url and the credentials and certificates given with --nats-…", err)
		}
		next := delay.Next()
		log.WarnContext(ctx, "waiting for the log: check --nats-url and the network if it should be there",
			telemetry.KeyError, err, telemetry.KeyDuration, next)
		if !Wait(ctx, next) {
			return nil, ctx.Err()
		}
	}
}
