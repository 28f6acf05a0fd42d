package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// program is an applier put together.
type program struct {
	options options
	log     *slog.Logger
	client  *kube.Client
	health  *app.Health

	server  *natslog.Server
	conn    *natslog.Conn
	letters *natslog.DeadLetters
	results *natslog.Results
	// keeper looks after the histories; made with the connection.
	keeper *replay.Retention
	// board holds what is wished of the volumes of sources.
	board *transfer.Board
}

const (
	// pingTimeout bounds one look at the API server.
	pingTimeout = 15 * time.Second
	// storeStopTimeout is what the embedded log may take to close its store.
	storeStopTimeout = 30 * time.Second
	// runsStopTimeout is what the runs may take to end their attempts.
	runsStopTimeout = 40 * time.Second

	// knownWithin is how long Replications may be unknown to the API server,
	// knownAfterStart to one that did not answer before.
	knownWithin     = 3 * time.Second
	knownAfterStart = time.Minute
)

// run runs the parts in order: the log, then what applies from it. An embedded log
// serves the sources whatever becomes of this cluster's API server; so the rest is
// started over beside it, and readiness speaks of the log.
func (p *program) run(ctx context.Context) error {
	connection := app.Unit{Name: "connection to the log", Run: p.connect}
	var units []app.Unit
	if p.options.embedded() {
		applying := app.Restarting("applier", p.log, p.applying)
		applying.Standby, applying.StopTimeout = true, runsStopTimeout+10*time.Second
		// The history is looked after beside the log, whatever becomes of this cluster.
		units = []app.Unit{{Name: "embedded log", Run: p.serve, StopTimeout: storeStopTimeout}, connection, p.retention(), applying}
	} else {
		p.health.Ready("api server", p.client.Ping)
		units = append([]app.Unit{connection}, append(p.applying(), p.retention())...)
	}
	return app.Run(ctx, app.Settings{Name: "applier", Options: p.options.app, Log: p.log, Health: p.health}, units...)
}

// applying makes what stands on the log: the destination, the lead, the runs.
func (p *program) applying() []app.Unit {
	units := []app.Unit{{Name: "API server", Run: p.reach, Standby: p.options.embedded()}}
	if p.options.leaderElect {
		units = append(units, app.Leading(func(ctx context.Context, elected func()) error {
			return p.client.Lead(ctx, p.options.namespace, "dr-syncer-applier", elected)
		}))
	}
	inventory := apply.NewInventory(p.client, p.log)
	if p.options.movers.Enabled() {
		p.board = transfer.NewBoard()
		units = append(units, app.Simple("volumes", p.answerSources))
	}
	return append(units,
		app.Simple("inventory", inventory.Run),
		app.Unit{Name: "replications", StopTimeout: runsStopTimeout, Run: func(ctx context.Context, ready func()) error {
			engine := &control.Replays{
				Client: p.client, Inventory: inventory, DeadLetters: p.letters, Results: p.results, Destination: p.options.destination,
				History: func(site string) pipeline.History { return p.conn.History(site) }, Past: p.past,
				Protected: []string{p.options.namespace}, Log: p.log,
			}
			return control.Run(ctx, control.Settings{
				Client: p.client, Log: p.log, Namespace: p.options.namespace, Engine: engine, Replayer: engine, Oldest: p.keeper.Oldest, Volumes: p.volumes(),
			}, ready)
		}},
	)
}

// past is what the log keeps of a site's past.
func (p *program) past(site string) *replay.Past {
	return &replay.Past{
		Site: site, History: p.conn.History(site), Archive: p.conn.Archive(site),
		Snapshots: p.conn.Snapshots(site, p.options.snapshots),
	}
}

// retention looks after the histories: beside an embedded log, or by who leads.
func (p *program) retention() app.Unit {
	return app.Simple("retention of history", func(ctx context.Context) error { return p.keeper.Run(ctx) })
}

// serve runs the embedded log.
func (p *program) serve(ctx context.Context, ready func()) error {
	cfg := p.options.server
	cfg.Log = p.log
	for flag, address := range map[string]string{"--nats-listen": p.options.listen, "--link-listen": p.options.linkListen} {
		if err := free(ctx, address); err != nil {
			return fmt.Errorf("start the embedded log: %w (choose another address with %s)", err, flag)
		}
	}
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

// free reports whether somebody listens at the address already: the embedded
// server would only wait for it to become free.
func free(ctx context.Context, address string) error {
	if address == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// connect connects to the log and holds the connection until ctx ends. It waits for a log that cannot
// be reached yet.
func (p *program) connect(ctx context.Context, ready func()) (err error) {
	if err := p.nameDestination(ctx); err != nil {
		return err
	}
	cfg := p.options.nats
	cfg.Name, cfg.Log, cfg.InProcess = "applier of "+p.options.destination, p.log, p.server
	if p.conn, err = app.ConnectLog(ctx, cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.conn.Close()) }()
	p.health.Ready("log", func(context.Context) error { return p.conn.Healthy() })
	if p.letters, err = p.conn.DeadLetters(ctx, p.options.destination, p.options.deadLetters); err != nil {
		return fmt.Errorf("open the dead letters of destination %q: %w", p.options.destination, err)
	}
	if p.results, err = p.conn.Results(ctx, p.options.destination, natslog.DefaultResultOptions()); err != nil {
		return fmt.Errorf("open the results of destination %q: %w", p.options.destination, err)
	}
	p.keeper = &replay.Retention{Config: p.options.retention, Sites: p.conn.Sites, Past: p.past, Log: p.log}
	ready()
	<-ctx.Done()
	return nil
}

// nameDestination gives this cluster a name that no other has, unless it has one.
func (p *program) nameDestination(ctx context.Context) error {
	if p.options.destination != "" {
		return nil
	}
	if err := p.ping(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	uid, err := p.client.ClusterUID(ctx)
	if err != nil {
		return fmt.Errorf("name the destination: %w (or give --destination)", err)
	}
	p.options.destination = "cluster-" + uid
	return nil
}

// reach sees to it that the API server answers, lets us in and knows Replications.
// Beside an embedded log it waits for one that does not answer.
func (p *program) reach(ctx context.Context, ready func()) error {
	grace := knownWithin
	var delay app.Delay
	for {
		err := p.ping(ctx)
		if err == nil {
			break
		}
		if !p.options.embedded() || pipeline.ClassOf(err) != pipeline.Transient || kube.IsUnauthorized(err) {
			return err
		}
		next := delay.Next()
		p.log.WarnContext(ctx, "waiting for the API server; the log goes on", telemetry.KeyError, err, telemetry.KeyDuration, next)
		grace = knownAfterStart
		if !app.Wait(ctx, next) {
			return nil
		}
	}
	if err := p.checkInstalled(ctx, grace); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (p *program) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return p.client.Ping(ctx)
}

// checkInstalled finds out whether our custom resources can be listed here. It looks again
// for a while if they are unknown: a server that has just started does not tell
// at once what it knows.
func (p *program) checkInstalled(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout+grace)
	defer cancel()
	kinds := [][2]string{{"Replication", "replications"}, {"Replay", "replays"}}
	if p.options.movers.Enabled() {
		kinds = append(kinds, [2]string{"VolumeTransfer", "volumetransfers"})
	}
	for _, kind := range kinds {
		if err := p.checkKind(ctx, kind[0], kind[1], grace); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) checkKind(ctx context.Context, name, resource string, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gr := pipeline.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: resource}
	kind, err := p.client.Kind(ctx, gr)
	for begin := time.Now(); pipeline.ClassOf(err) == pipeline.Dependency && time.Since(begin) < grace && app.Wait(ctx, time.Second); {
		p.client.ForgetKinds()
		kind, err = p.client.Kind(ctx, gr)
	}
	if pipeline.ClassOf(err) == pipeline.Dependency {
		return app.Usage(fmt.Errorf("this cluster does not know the custom resource %s: "+
			"install it with: kubectl apply --server-side -f charts/dr-syncer/crds", name))
	}
	if err != nil {
		return fmt.Errorf("look for the custom resource %s: %w", name, err)
	}
	look := &look{end: cancel}
	p.client.Watch(ctx, kind, kube.WatchOptions{MetadataOnly: true, OnError: look.failed}, look)
	switch {
	case look.listed:
		return nil
	case pipeline.ClassOf(look.err) == pipeline.Forbidden:
		return app.Usage(fmt.Errorf("list %s: %w: grant the permissions in docs/rbac.md", resource, look.err))
	case look.err != nil:
		return fmt.Errorf("list %s: %w", resource, look.err)
	}
	return fmt.Errorf("list %s: no answer within %s", resource, pingTimeout)
}

// look is a Handler that ends its watch with the first list or error.
type look struct {
	end    context.CancelFunc
	listed bool
	err    error
}

func (l *look) Observe(kube.Object)           {}
func (l *look) Delete(kube.Object)            {}
func (l *look) Progress(string)               {}
func (l *look) Replace([]kube.Object, string) { l.listed = true; l.end() }

func (l *look) failed(err error) {
	if err != nil && pipeline.ClassOf(err) != pipeline.Transient {
		l.err = err
		l.end()
	}
}
