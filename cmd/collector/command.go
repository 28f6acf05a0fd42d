package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
)

// options are the flags of the collector.
type options struct {
	app         app.Options
	site        string
	kube        kube.Settings
	config      string
	nats        natslog.ConnectConfig
	streams     natslog.StreamOptions
	leaderElect bool
	sourceRules bool
	namespace   string
	// link and server are of a log that is held here.
	link      natslog.Link
	server    natslog.ServerConfig
	retention replay.RetentionConfig
	snapshots natslog.SnapshotOptions
	plainLink bool
	// movers serve the data of volumes.
	movers           app.MoverOptions
	privilegedMovers bool
}

// Requests to the API server beside watches are few: one discovery per half minute, and single
// reads after the log was away for so long that the outbox was full. The limit is for those: it
// keeps a production API server from feeling them, and is far above client-go's own 5 per second.
const (
	defaultQPS   = 100
	defaultBurst = 200
)

const serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func defaultOptions() options {
	o := options{
		app: app.DefaultOptions(), kube: kube.Settings{QPS: defaultQPS, Burst: defaultBurst},
		streams: natslog.DefaultStreamOptions(), server: natslog.DefaultServerConfig(), namespace: "dr-syncer", sourceRules: true,
		retention: replay.DefaultRetention(), snapshots: natslog.DefaultSnapshotOptions(),
	}
	o.server.StoreDir = defaultStoreDir
	if text, err := os.ReadFile(serviceAccountNamespace); err == nil {
		o.leaderElect, o.namespace = true, strings.TrimSpace(string(text))
	}
	return o
}

func (o *options) registerFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.site, "site", o.site, "name of this cluster in the log; Replications refer to it (required)")
	fs.StringVar(&o.config, "config", o.config, "file with what to collect (YAML), read again when it changes; everything sensible if not given")

	fs.StringVar(&o.kube.Kubeconfig, "kubeconfig", o.kube.Kubeconfig, "kubeconfig of the cluster to collect from; $KUBECONFIG, ~/.kube/config or the Pod's service account if not given")
	fs.StringVar(&o.kube.Context, "context", o.kube.Context, "context in the kubeconfig; its current one if not given")
	fs.Float32Var(&o.kube.QPS, "qps", o.kube.QPS, "most requests per second to the API server, watches' events apart; 0 leaves it to the server's priority and fairness")
	fs.IntVar(&o.kube.Burst, "burst", o.kube.Burst, "most requests at once beyond --qps")

	app.RegisterConnection(fs, &o.nats, " (required, or --link-url)", "the site's own prefix if not given")
	app.RegisterStreams(fs, &o.streams)
	o.registerLink(fs)

	fs.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "collect only while this process holds a lease in the cluster; needed when several run (default: true in a Pod)")
	fs.BoolVar(&o.sourceRules, "source-rules", o.sourceRules, "run the rules of stage source in the ConfigMaps of --namespace with the label dr-syncer.io/transform: \"true\"; nothing is published unless they can be read and compile")
	fs.StringVar(&o.namespace, "namespace", o.namespace, "namespace of the lease and of the rules, and not collected")
	o.movers.RegisterFlags(fs)
	fs.BoolVar(&o.privilegedMovers, "mover-privileged", o.privilegedMovers, "allow movers that run as root with CAP_DAC_READ_SEARCH, to read the files of all owners")
	o.app.RegisterFlags(fs)
}

var siteName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// validate reports what is wrong with the flags, and completes them. set says
// which the user has given.
func (o *options) validate(set func(flag string) bool) error {
	if err := o.app.Validate(); err != nil {
		return err
	}
	var errs []error
	if !siteName.MatchString(o.site) {
		errs = append(errs, fmt.Errorf("--site %q is no name for a cluster: give up to 63 lower-case letters, digits and -, such as prod-nyc", o.site))
	}
	errs = append(errs, o.validateLog(set), o.movers.Validate())
	if err := o.streams.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("limits of the history: %w", err))
	}
	if o.leaderElect && o.namespace == "" {
		errs = append(errs, errors.New("--namespace is empty: the lease of --leader-elect needs one"))
	}
	if o.sourceRules && o.namespace == "" {
		errs = append(errs, errors.New("--namespace is empty: rules are read from one, or give --source-rules=false"))
	}
	o.nats.Name = "collector of " + o.site
	if o.nats.InboxPrefix == "" && !o.embedded() {
		o.nats.InboxPrefix = natslog.SiteInboxPrefix(o.site)
	}
	return app.Usage(errors.Join(errs...))
}

func newCommand() *cobra.Command {
	o := defaultOptions()
	cmd := &cobra.Command{
		Use:     "collector --site NAME {--nats-url URL | --link-url URL}",
		Short:   "Stream every change of this cluster into the log",
		Version: app.Version(),
		Args:    app.NoArgs,
		Long: `Collector watches a Kubernetes cluster and writes every change of what it holds
into a log on NATS JetStream, from which other clusters are kept ready. The log is at --nats-url, often in the
applier of the other cluster, or with --link-url it is held here and copied there,
so that it goes on while the other cluster cannot be reached.

It writes nothing to the cluster but its own lease and, with --mover-image, the Pods and Secrets of movers that
read the volumes of claims which are collected, for as long as another cluster copies them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(cmd.Flags().Changed); err != nil {
				return err
			}
			return run(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	o.registerFlags(cmd.Flags())
	return cmd
}

// reachTimeout bounds the first contact with the API server.
const reachTimeout = 15 * time.Second

// run runs the collector until it is stopped.
func run(ctx context.Context, o options, stderr io.Writer) error {
	log, err := o.app.Logger(stderr)
	if err != nil {
		return err
	}
	config, err := readConfig(o.config)
	if err != nil {
		return app.Usage(err)
	}
	client, err := kube.Connect(o.kube)
	if err != nil {
		return app.Usage(err)
	}
	defer client.Close()
	reach, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := client.Ping(reach); err != nil {
		return err
	}
	p := &program{options: o, log: log, client: client, config: config, health: &app.Health{}}
	p.readable = &readable{ownNamespace: o.namespace, privileged: o.privilegedMovers}
	if err := p.readable.configure(config.parsed); err != nil {
		return app.Usage(err)
	}
	return p.run(ctx)
}
