package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// options are the flags of the applier.
type options struct {
	app         app.Options
	destination string
	kube        kube.Settings
	nats        natslog.ConnectConfig
	deadLetters natslog.DeadLetterOptions
	server      natslog.ServerConfig
	retention   replay.RetentionConfig
	snapshots   natslog.SnapshotOptions
	listen      string
	linkListen  string
	usersFile   string
	open        bool
	plain       bool
	leaderElect bool
	namespace   string
	movers      app.MoverOptions
	caps        transfer.Caps
}

const (
	// defaultListen lets a collector on this machine in, and nobody else.
	defaultListen   = "127.0.0.1:4222"
	defaultStoreDir = "/var/lib/dr-syncer/log"

	// defaultTransfers are how many volumes are copied at once, defaultPerNode on one node.
	defaultTransfers = 10
	defaultPerNode   = 3

	serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

func defaultOptions() options {
	o := options{
		app: app.DefaultOptions(), namespace: "dr-syncer",
		deadLetters: natslog.DefaultDeadLetterOptions(), server: natslog.DefaultServerConfig(), listen: defaultListen,
		retention: replay.DefaultRetention(), snapshots: natslog.DefaultSnapshotOptions(), caps: transfer.Caps{Total: defaultTransfers, PerNode: defaultPerNode},
	}
	o.server.StoreDir = defaultStoreDir
	if text, err := os.ReadFile(serviceAccountNamespace); err == nil {
		o.leaderElect, o.namespace = true, strings.TrimSpace(string(text))
	}
	return o
}

func (o *options) registerFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.destination, "destination", o.destination, "name of this cluster in the log, for dead letters and subscriptions; different for every destination that shares a log (default: \"default\" with an embedded log; with --nats-url cluster- and the UID of this cluster's namespace kube-system)")

	fs.StringVar(&o.kube.Kubeconfig, "kubeconfig", o.kube.Kubeconfig, "kubeconfig of the cluster to apply to; $KUBECONFIG, ~/.kube/config or the Pod's service account if not given")
	fs.StringVar(&o.kube.Context, "context", o.kube.Context, "context in the kubeconfig; its current one if not given")
	fs.Float32Var(&o.kube.QPS, "qps", o.kube.QPS, "most requests per second to the API server; 0 leaves it to the workers of the Replications and the server's priority and fairness")
	fs.IntVar(&o.kube.Burst, "burst", o.kube.Burst, "most requests at once beyond --qps")

	app.RegisterConnection(fs, &o.nats, "; the log is embedded here if not given", "NATS's default if not given")
	fs.DurationVar(&o.deadLetters.MaxAge, "dead-letters-max-age", o.deadLetters.MaxAge, "age at which a dead letter that nobody cared for goes")
	fs.IntVar(&o.deadLetters.Replicas, "dead-letters-replicas", o.deadLetters.Replicas, "servers of a NATS cluster that hold each dead letter: 1, 3 or 5; 0 is 3 if the cluster has as many when the stream is made, else 1")

	app.RegisterRetention(fs, &o.retention, &o.snapshots)
	app.RegisterStore(fs, &o.server)
	fs.StringVar(&o.linkListen, "link-listen", o.linkListen, "address at which collectors that hold their log themselves (--link-url) have it copied to here; empty for none")
	fs.StringVar(&o.listen, "nats-listen", o.listen, "address at which collectors reach the embedded log; empty for none")
	fs.StringVar(&o.usersFile, "nats-users-file", o.usersFile, "file with who may connect to the embedded log: a line \"SITE NKEY\" per collector, \"SITE NKEY link\" per link, \"* NKEY\" for operators")
	fs.BoolVar(&o.open, "nats-no-auth", o.open, "let everybody who reaches --nats-listen write to the embedded log")
	fs.BoolVar(&o.plain, "nats-no-tls", o.plain, "send what is replicated, Secrets too, over the network as it is: for --nats-listen at an address of a network that encrypts")
	fs.StringVar(&o.server.TLSCertFile, "nats-tls-cert", o.server.TLSCertFile, "file with the embedded log's certificate")
	fs.StringVar(&o.server.TLSKeyFile, "nats-tls-key", o.server.TLSKeyFile, "file with the certificate's key")
	fs.StringVar(&o.server.ClientCAFile, "nats-tls-client-ca", o.server.ClientCAFile, "file with the CA certificates that collectors' certificates are checked against")

	fs.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "apply only while this process holds a lease in the cluster; needed when several run (default: true in a Pod)")
	fs.StringVar(&o.namespace, "namespace", o.namespace, "namespace of the lease and of DR-Syncer itself: nothing is replicated into it")
	o.movers.RegisterFlags(fs)
	fs.IntVar(&o.caps.Total, "volumes-at-once", o.caps.Total, "most VolumeTransfers under way at once; 0 for no limit")
	fs.IntVar(&o.caps.PerNode, "volumes-per-node", o.caps.PerNode, "most of them at once on one node, as far as it is known before; 0 for no limit")
	fs.IntVar(&o.caps.PerClass, "volumes-per-class", o.caps.PerClass, "most of them at once into one storage class; 0 for no limit")
	o.app.RegisterFlags(fs)
}

// embedded reports whether the log lives in this process.
func (o *options) embedded() bool { return o.nats.URL == "" }

// ofEmbedded are the flags that mean something for an embedded log only.
var ofEmbedded = append([]string{
	"nats-listen", "link-listen", "nats-users-file", "nats-no-auth", "nats-no-tls", "nats-tls-cert", "nats-tls-key", "nats-tls-client-ca",
}, app.StoreFlags...)

var destinationName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// validate reports what is wrong with the flags, and completes them. set says
// which the user has given.
func (o *options) validate(set func(flag string) bool) error {
	if err := o.app.Validate(); err != nil {
		return err
	}
	var errs []error
	if o.destination == "" && o.embedded() && !set("destination") {
		o.destination = "default"
	}
	if o.destination == "" && set("destination") || o.destination != "" && !destinationName.MatchString(o.destination) {
		errs = append(errs, fmt.Errorf("--destination %q is no name for a cluster: give up to 63 lower-case letters, digits and -, such as dr-fra", o.destination))
	}
	if err := o.retention.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("keeping history: %w", err))
	}
	if err := o.snapshots.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("--snapshots-max-bytes: %w", err))
	}
	errs = append(errs, o.movers.Validate())
	if o.caps.Total < 0 || o.caps.PerNode < 0 || o.caps.PerClass < 0 {
		errs = append(errs, errors.New("--volumes-at-once, --volumes-per-node and --volumes-per-class are numbers, 0 for no limit"))
	}
	if o.namespace == "" {
		errs = append(errs, errors.New("--namespace is empty: give the namespace of DR-Syncer itself"))
	}
	if o.embedded() {
		errs = append(errs, o.completeServer())
		for _, flag := range app.ConnectionFlags {
			if set(flag) {
				errs = append(errs, fmt.Errorf("--%s is for a log elsewhere: give --nats-url too, or leave it out", flag))
			}
		}
	} else {
		if err := o.nats.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("connection to the log: %w", err))
		}
		for _, flag := range ofEmbedded {
			if set(flag) {
				errs = append(errs, fmt.Errorf("--%s is for the embedded log, and --nats-url says that the log is elsewhere: leave one of them out", flag))
			}
		}
	}
	return app.Usage(errors.Join(errs...))
}

// completeServer makes the configuration of the embedded server.
func (o *options) completeServer() error {
	var err error
	if o.server.Host, o.server.Port, err = parseListen("nats-listen", o.listen); err != nil {
		return err
	}
	if o.server.LeafHost, o.server.LeafPort, err = parseListen("link-listen", o.linkListen); err != nil {
		return err
	}
	if o.usersFile != "" {
		text, err := os.ReadFile(o.usersFile)
		if err != nil {
			return fmt.Errorf("read the users of the log: %w (check --nats-users-file)", err)
		}
		if o.server.Users, err = parseUsers(string(text)); err != nil {
			return fmt.Errorf("%s: %w", o.usersFile, err)
		}
	}
	if o.listen != "" && !isLocal(o.server.Host) && len(o.server.Users) == 0 && o.server.ClientCAFile == "" && !o.open {
		return fmt.Errorf("--nats-listen %s lets everybody who reaches it write to the log: give --nats-users-file or --nats-tls-client-ca, "+
			"or --nats-no-auth if the network keeps strangers out", o.listen)
	}
	if o.listen != "" && !isLocal(o.server.Host) && o.server.TLSCertFile == "" && !o.open && !o.plain {
		return fmt.Errorf("--nats-listen %s would send what is replicated, Secrets too, over the network as it is: give --nats-tls-cert and --nats-tls-key, "+
			"or --nats-no-tls if the network encrypts", o.listen)
	}
	links := slices.ContainsFunc(o.server.Users, func(u natslog.User) bool { return u.Leaf })
	switch {
	case o.linkListen != "" && !links:
		return errors.New("--link-listen lets nobody in: give a --nats-users-file with a line \"SITE NKEY link\" per collector that links itself")
	case o.linkListen == "" && links:
		return fmt.Errorf("%s names links: give --link-listen, the address for them", o.usersFile)
	case o.linkListen != "" && !isLocal(o.server.LeafHost) && o.server.TLSCertFile == "" && !o.plain:
		return fmt.Errorf("--link-listen %s would send what is replicated, Secrets too, over the network as it is: give --nats-tls-cert and --nats-tls-key, "+
			"or --nats-no-tls if the network encrypts", o.linkListen)
	}
	if err := o.server.Validate(); err != nil {
		return fmt.Errorf("embedded log: %w", err)
	}
	return nil
}

// parseListen reads an address to listen at; none is port 0.
func parseListen(flag, address string) (host string, port int, err error) {
	if address == "" {
		return "", 0, nil
	}
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("--%s %q is not of the form host:port: %w", flag, address, err)
	}
	if port, err = strconv.Atoi(number); err != nil || port < 1 {
		return "", 0, fmt.Errorf("--%s %q: the port is not a number from 1 to 65535", flag, address)
	}
	return host, port, nil
}

func isLocal(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// everySite is the site of users who are not held to one.
const everySite = "*"

// parseUsers reads who may connect: "SITE NKEY" per line, and "link" behind it for
// one who links a log of its own; "#" begins a comment.
func parseUsers(text string) ([]natslog.User, error) {
	var users []natslog.User
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		link := len(words) == 3 && words[2] == "link"
		if link {
			words = words[:2]
		}
		switch {
		case len(words) == 0:
			continue
		case len(words) != 2:
			return nil, fmt.Errorf("line %d: write a site and its public nkey, such as \"prod-nyc UAB…\"", n)
		case words[0] == everySite && link:
			return nil, fmt.Errorf("line %d: a link is of one site, not of %s", n, everySite)
		case words[0] == everySite:
			users = append(users, natslog.User{NKey: words[1]})
		case destinationName.MatchString(words[0]):
			users = append(users, natslog.User{Site: words[0], NKey: words[1], Leaf: link})
		default:
			return nil, fmt.Errorf("line %d: %q is no name of a site: write up to 63 lower-case letters, digits and -, or * for operators", n, words[0])
		}
	}
	if len(users) == 0 {
		return nil, errors.New("the file names nobody: write a line \"SITE NKEY\" per collector")
	}
	return users, nil
}

func newCommand() *cobra.Command {
	o := defaultOptions()
	cmd := &cobra.Command{
		Use:     "applier [--store-dir DIR | --nats-url URL]",
		Short:   "Keep this cluster in step with others, as its Replications ask",
		Version: app.Version(),
		Args:    app.NoArgs,
		Long: `Applier keeps a Kubernetes cluster in step with the logs of other clusters, as the
Replications in it ask. Unless --nats-url names one, it holds the log itself, in
an embedded NATS server, to which the collectors of the other clusters connect.

The cluster must know our custom resources (charts/dr-syncer/crds). The
applier needs to list, watch, create, patch and delete what is replicated;
docs/rbac.md holds the role.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(cmd.Flags().Changed); err != nil {
				return err
			}
			return run(cmd.Context(), o)
		},
	}
	o.registerFlags(cmd.Flags())
	return cmd
}

// run runs the applier until it is stopped.
func run(ctx context.Context, o options) error {
	log, err := o.app.Logger(os.Stderr)
	if err != nil {
		return err
	}
	client, err := kube.Connect(o.kube)
	if err != nil {
		return app.Usage(err)
	}
	defer client.Close()
	p := &program{options: o, log: log, client: client, health: &app.Health{}}
	return p.run(ctx)
}
