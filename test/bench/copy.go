package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	nethttp "net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/sjson"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/test/world"
	"github.com/dr-syncer/dr-syncer/transform"
)

const (
	copyObjects    = 10_000
	copyNamespaces = 20
	copyWorkers    = 16
	copyRounds     = 5
	restartRounds  = 3
)

// benchFirstCopy measures the first copy of 10,000 mixed objects out of the log,
// beside a bare loop of the same server-side applies by as many workers, in turns,
// each in a new cluster: the inventory lists what is there, so that a server that
// has kept the former rounds would cost the product more with each; then a restart
// over what is there unchanged.
func benchFirstCopy(ctx context.Context, dir string) (_ []Figure, err error) {
	_, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	objects := mixture()
	if err := fill(ctx, conn, objects); err != nil {
		return nil, err
	}
	ratio, err := besideBareLoop(ctx, dir, "first-copy-ratio", "product", objects, func(client *kube.Client, _ int) (cost, error) {
		return copyOnce(ctx, client, conn, "copy-", len(objects))
	})
	if err != nil {
		return nil, err
	}
	restart, err := restartUnchanged(ctx, filepath.Join(dir, "fresh"), conn, len(objects))
	return append([]Figure{ratio}, restart...), err
}

// besideBareLoop measures what brings objects into an empty cluster beside the bare loop that does, in rounds of
// both, each in a cluster of its own. run is told its round.
func besideBareLoop(ctx context.Context, dir, figure, what string, objects []world.Object, run func(*kube.Client, int) (cost, error)) (Figure, error) {
	var product, bare []cost
	runs := []func(*kube.Client) error{
		func(client *kube.Client) error {
			c, err := bareLoop(ctx, client, objects, "bare-")
			bare = append(bare, c)
			return err
		},
		func(client *kube.Client) error {
			c, err := run(client, len(product))
			product = append(product, c)
			return err
		},
	}
	rate := func(c cost) float64 { return float64(len(objects)) / c.wall.Seconds() }
	each := func(c cost) float64 { return c.cpu.Seconds() * 1000 / float64(len(objects)) }
	for round := range copyRounds {
		for i, one := range runs {
			if err := inNewCluster(ctx, filepath.Join(dir, fmt.Sprintf("dr-%d-%d", round, i)), one); err != nil {
				return Figure{}, err
			}
		}
		slices.Reverse(runs) // neither is always the first
		progress("round %d: %s %.0f/s (CPU %.2f ms each), bare loop %.0f/s (CPU %.2f ms each)", round+1, what,
			rate(product[round]), each(product[round]), rate(bare[round]), each(bare[round]))
	}
	return atLeast(figure, pairs(bare, product, wall), 0.85, "ratio", fmt.Sprintf(
		"bare loop, %d workers, %d rounds: %.0f objects/s; %s %.0f objects/s; CPU of server and client together %.2f ms each, %s %.2f ms (ratio %.2f)",
		copyWorkers, copyRounds, medianOf(bare, rate), what, medianOf(product, rate), medianOf(bare, each), what, medianOf(product, each), pairs(bare, product, used))), nil
}

// restartUnchanged measures a restart of the destination side over 10,000 objects
// of which none changed, in a cluster that holds nothing else.
func restartUnchanged(ctx context.Context, dir string, conn *natslog.Conn, objects int) (_ []Figure, err error) {
	cluster, err := launch(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	client := cluster.Client()
	if _, err := copyOnce(ctx, client, conn, "restart-", objects); err != nil {
		return nil, err
	}
	var took, lists []float64
	var sent float64
	for range restartRounds {
		before, err := writes(ctx, client)
		if err != nil {
			return nil, err
		}
		t, err := copyOnce(ctx, client, conn, "restart-", objects)
		if err != nil {
			return nil, err
		}
		after, err := writes(ctx, client)
		if err != nil {
			return nil, err
		}
		list, err := bareLists(ctx, client)
		if err != nil {
			return nil, err
		}
		took, lists, sent = append(took, t.wall.Seconds()), append(lists, list.Seconds()), sent+after-before
	}
	return []Figure{
		atMost("restart-unchanged-writes", sent, 0, "requests", fmt.Sprintf("the API server's own count of writes, over %d restarts", restartRounds)),
		atMost("restart-unchanged-seconds", median(took), 3, "s", fmt.Sprintf("bare metadata lists of the same kinds: %.2f s", median(lists))),
	}, nil
}

// inNewCluster has run measure something in a cluster that holds nothing yet.
func inNewCluster(ctx context.Context, dir string, run func(*kube.Client) error) (err error) {
	cluster, err := launch(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close(), os.RemoveAll(dir)) }()
	if err := quiet(ctx); err != nil {
		return err
	}
	return run(cluster.Client())
}

// launch starts a cluster in a new directory.
func launch(ctx context.Context, dir string) (*kubetest.Cluster, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return kubetest.Launch(ctx, kubetest.Config{Dir: dir})
}

// mixture is the Namespaces and 10,000 objects in them.
func mixture() []world.Object {
	r := rand.New(rand.NewPCG(11, 11))
	var out []world.Object
	for i := range copyNamespaces {
		out = append(out, world.Namespace(fmt.Sprintf("ns-%d", i)))
	}
	for i := range copyObjects {
		out = append(out, world.Mixed(r, fmt.Sprintf("ns-%d", i%copyNamespaces), i/copyNamespaces))
	}
	return out
}

// fill writes the objects into the log as a collector would.
func fill(ctx context.Context, conn *natslog.Conn, objects []world.Object) error {
	w, err := conn.Writer(ctx, world.Site, natslog.DefaultStreamOptions())
	if err != nil {
		return err
	}
	var events []pipeline.Event
	for i, o := range objects {
		events = append(events, pipeline.Event{
			Ref: o.Ref(world.Site), Op: pipeline.OpPut, UID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Version: fmt.Sprint(i + 1),
			APIVersion: o.Kind.APIVersion(), Kind: o.Kind.Kind, Observed: time.Now(), Digest: pipeline.DigestOf(o.Body), Body: o.Body,
		})
		if len(events) == 500 || i == len(objects)-1 {
			if _, err := w.Append(ctx, events); err != nil {
				return err
			}
			events = nil
		}
	}
	return nil
}

// bareLoop applies the objects, marked as the product marks them, Namespaces first.
func bareLoop(ctx context.Context, client *kube.Client, objects []world.Object, prefix string) (cost, error) {
	bodies := make([][]byte, len(objects))
	for i, o := range objects {
		body := o.Body
		for path, value := range map[string]string{
			`metadata.labels.dr-syncer\.io/replication`:                                            "default.bench-of-the-bare-loop",
			`metadata.annotations.dr-syncer\.io/origin`:                                            "prod/01JD0000000000000000000000/12345/00000000-0000-4000-8000-000000000000",
			`metadata.annotations.dr-syncer\.io/digest`:                                            pipeline.DigestOf(o.Body).String(),
			map[bool]string{true: "metadata.namespace", false: "metadata.name"}[o.Kind.Namespaced]: prefix + map[bool]string{true: o.Namespace, false: o.Name}[o.Kind.Namespaced],
		} {
			var err error
			if body, err = sjson.SetBytes(body, path, value); err != nil {
				return cost{}, err
			}
		}
		bodies[i] = body
	}
	begun := start()
	for _, namespaced := range []bool{false, true} {
		var g errgroup.Group
		g.SetLimit(copyWorkers)
		for i, o := range objects {
			if o.Kind.Namespaced != namespaced {
				continue
			}
			g.Go(func() error {
				namespace, name := prefix+o.Namespace, o.Name
				if !namespaced {
					namespace, name = "", prefix+o.Name
				}
				_, _, err := client.Apply(ctx, o.Kind, namespace, name, bodies[i])
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return cost{}, fmt.Errorf("bare loop: %w", err)
		}
	}
	return begun.stop(ctx)
}

// copyOnce runs the destination side of a Replication until everything is in step.
func copyOnce(ctx context.Context, client *kube.Client, conn *natslog.Conn, prefix string, want int) (cost, error) {
	return copyThrough(ctx, client, conn, prefix, want, nil)
}

// copyThrough is copyOnce with rules.
func copyThrough(ctx context.Context, client *kube.Client, conn *natslog.Conn, prefix string, want int, rules *transform.Set) (cost, error) {
	log := slog.New(slog.DiscardHandler)
	begun := start()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	inventory := apply.NewInventory(client, log)
	wg.Go(func() { _ = inventory.Run(ctx) })
	applier, err := apply.New(apply.Settings{
		Namespace: "default", Name: prefix + "bench", Client: client, Inventory: inventory, Rules: rules, Log: log,
		Spec: v1alpha1.ReplicationSpec{
			Source: v1alpha1.Source{Site: world.Site}, Kinds: []string{"*"},
			NamespaceMapping: &v1alpha1.NamespaceMapping{Prefix: prefix},
			Mode:             v1alpha1.ModeContinuous, DeletionPolicy: v1alpha1.DeletionMirror, ConflictPolicy: v1alpha1.ConflictRefuse,
		},
	})
	if err != nil {
		return cost{}, err
	}
	dead, err := conn.DeadLetters(ctx, "bench", natslog.DefaultDeadLetterOptions())
	if err != nil {
		return cost{}, err
	}
	pump := pipeline.DefaultPumpConfig()
	pump.Owner, pump.Workers = "default/"+prefix+"bench", copyWorkers
	run, err := replay.Continuous(replay.Settings{
		History: conn.History(world.Site), DeadLetters: dead, Sink: applier, Waves: apply.Wave, Pump: pump, Consumer: prefix + "bench", Log: log,
	})
	if err != nil {
		return cost{}, err
	}
	wg.Go(func() { _ = run.Run(ctx) })
	for {
		synced := int64(0)
		for _, n := range applier.Synced() {
			synced += n
		}
		if s := run.Stats(); s.Phase == replay.Replicating && synced == int64(want) && s.LagEvents == 0 {
			return begun.stop(ctx)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return cost{}, err
		}
	}
}

// writes is how many writing requests for the kinds in the mixture the API
// server has answered, by its own count.
func writes(ctx context.Context, client *kube.Client) (float64, error) {
	cfg := client.REST()
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return 0, err
	}
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, client.Host()+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || !writing.MatchString(line) {
			continue
		}
		if !slices.ContainsFunc(append([]kube.Kind{world.Namespaces}, world.MixedKinds...), func(k kube.Kind) bool {
			return strings.Contains(line, `resource="`+k.Resource+`"`)
		}) {
			continue
		}
		var n float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:], &n); err != nil {
			return 0, fmt.Errorf("read %q: %w", line, err)
		}
		total += n
	}
	if total == 0 {
		return 0, errors.New("the API server counts no writes at all: its metrics have changed")
	}
	return total, nil
}

var writing = regexp.MustCompile(`verb="(APPLY|PATCH|PUT|POST|DELETE|DELETECOLLECTION)"`)

// bareLists reads the metadata of all objects of the kinds, one list each.
func bareLists(ctx context.Context, client *kube.Client) (time.Duration, error) {
	begun := time.Now()
	var g errgroup.Group
	for _, k := range append([]kube.Kind{world.Namespaces}, world.MixedKinds...) {
		g.Go(func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			client.Watch(ctx, k, kube.WatchOptions{MetadataOnly: true}, untilReplaced(cancel))
			return nil
		})
	}
	err := g.Wait()
	return time.Since(begun), err
}

// untilReplaced ends a watch when its first list is complete.
type untilReplaced context.CancelFunc

func (untilReplaced) Observe(kube.Object)             {}
func (untilReplaced) Delete(kube.Object)              {}
func (u untilReplaced) Replace([]kube.Object, string) { u() }
func (untilReplaced) Progress(string)                 {}
