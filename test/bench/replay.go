package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// benchReplay measures a Replay of 10,000 mixed objects into an empty cluster, results and all,
// beside a bare loop of the same server-side applies, in turns, each in a new cluster; then one of which none
// changed.
func benchReplay(ctx context.Context, dir string) (_ []Figure, err error) {
	_, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	objects := mixture()
	if err := fill(ctx, conn, objects); err != nil {
		return nil, err
	}
	ratio, err := besideBareLoop(ctx, dir, "replay-ratio", "replay", objects, func(client *kube.Client, round int) (cost, error) {
		c, n, err := replayOnce(ctx, client, conn, "replay-", round)
		if err == nil && int(n.Created) != len(objects) {
			err = fmt.Errorf("a replay of %d objects has done %+v", len(objects), n)
		}
		return c, err
	})
	if err != nil {
		return nil, err
	}
	unchanged, err := replayUnchanged(ctx, filepath.Join(dir, "fresh"), conn, len(objects))
	return append([]Figure{ratio}, unchanged...), err
}

// replayUnchanged measures Replays of what is there already.
func replayUnchanged(ctx context.Context, dir string, conn *natslog.Conn, objects int) (_ []Figure, err error) {
	cluster, err := launch(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	client := cluster.Client()
	if _, _, err := replayOnce(ctx, client, conn, "same-", 100); err != nil {
		return nil, err
	}
	var took, lists []float64
	var sent float64
	for round := range copyRounds {
		before, err := writes(ctx, client)
		if err != nil {
			return nil, err
		}
		t, n, err := replayOnce(ctx, client, conn, "same-", 101+round)
		if err != nil {
			return nil, err
		}
		if int(n.Unchanged) != objects {
			return nil, fmt.Errorf("a replay of %d objects that are there has done %+v", objects, n)
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
		atMost("replay-unchanged-writes", sent, 0, "requests", fmt.Sprintf("the API server's own count of writes, over %d replays", copyRounds)),
		atMost("replay-unchanged-seconds", median(took), 3, "s", fmt.Sprintf("bare metadata lists of the same kinds: %.2f s", median(lists))),
	}, nil
}

// replayOnce runs a Replay in a process of its own: its inventory knows nothing yet.
func replayOnce(ctx context.Context, client *kube.Client, conn *natslog.Conn, prefix string, number int) (cost, v1alpha1.ReplayCounts, error) {
	log := slog.New(slog.DiscardHandler)
	results, err := conn.Results(ctx, "bench", natslog.DefaultResultOptions())
	if err != nil {
		return cost{}, v1alpha1.ReplayCounts{}, err
	}
	begun := start()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	inventory := apply.NewInventory(client, log)
	wg.Go(func() { _ = inventory.Run(ctx) })
	engine := &control.Replays{
		Client: client, Inventory: inventory, Results: results, Destination: "bench", Log: log,
		Past: func(site string) *replay.Past {
			return &replay.Past{
				Site: site, History: conn.History(site), Archive: conn.Archive(site),
				Snapshots: conn.Snapshots(site, natslog.DefaultSnapshotOptions()),
			}
		},
	}
	at, err := engine.Resolve(ctx, world.Site, nil, false)
	if err != nil {
		return cost{}, v1alpha1.ReplayCounts{}, err
	}
	run, err := engine.Replay(control.ReplayWish{
		Name: types.NamespacedName{Namespace: "default", Name: prefix + "bench"}, UID: types.UID(fmt.Sprint(prefix, number)), At: at,
		Spec: v1alpha1.ReplicationSpec{
			Source: v1alpha1.Source{Site: world.Site}, Kinds: []string{"*"}, NamespaceMapping: &v1alpha1.NamespaceMapping{Prefix: prefix}, Workers: copyWorkers,
		},
	})
	if err != nil {
		return cost{}, v1alpha1.ReplayCounts{}, err
	}
	if err := run.Run(ctx); err != nil {
		return cost{}, v1alpha1.ReplayCounts{}, err
	}
	took, err := begun.stop(ctx)
	if err != nil {
		return cost{}, v1alpha1.ReplayCounts{}, err
	}
	listed := map[pipeline.Ref]bool{}
	for one, err := range results.List(ctx, fmt.Sprint(prefix, number)) {
		if err != nil {
			return cost{}, v1alpha1.ReplayCounts{}, err
		}
		listed[one.Ref] = true
	}
	n := run.Progress().Counts
	if int64(len(listed)) != n.Total {
		return cost{}, n, fmt.Errorf("%d results are listed of %d", len(listed), n.Total)
	}
	return took, n, nil
}
