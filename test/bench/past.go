package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
)

const (
	asofObjects = 20_000
	// asofEvents is the longer history; a tenth of it is the shorter.
	asofEvents = 1_000_000
	asofRounds = 5

	snapshotObjects = 50_000
)

// benchAsOf measures how long rebuilding the state of a past moment takes, in the
// middle of a history and of one ten times longer. Both are kept as the product
// keeps them, by a Retention that looks at them all the time.
func benchAsOf(ctx context.Context, dir string) (_ []Figure, err error) {
	_, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	sizes := []int{asofEvents / 10, asofEvents}
	pasts, moments := map[int]*replay.Past{}, map[int]pipeline.Position{}
	for _, events := range sizes {
		if pasts[events], moments[events], err = writePast(ctx, conn, fmt.Sprintf("past-%d", events), events); err != nil {
			return nil, err
		}
	}
	// In turn, so that what else the machine does meets both alike.
	took, spent := map[int]time.Duration{}, map[int]time.Duration{}
	for round := range asofRounds {
		for _, events := range sizes {
			begun, cpu, n := time.Now(), processTime(), 0
			for _, err := range pasts[events].State(ctx, moments[events], pipeline.Query{}) {
				if err != nil {
					return nil, err
				}
				n++
			}
			d, cpu := time.Since(begun), processTime()-cpu
			if n != asofObjects {
				return nil, fmt.Errorf("the state has %d objects, not %d", n, asofObjects)
			}
			if round == 0 || d < took[events] {
				took[events] = d
			}
			if round == 0 || cpu < spent[events] {
				spent[events] = cpu
			}
			progress("%d objects as of a moment of %d events: %s, %s of CPU time", asofObjects, events, d.Round(time.Millisecond), cpu.Round(time.Millisecond))
		}
	}
	begun := time.Now()
	for _, err := range pasts[asofEvents].History.Current(ctx, pipeline.Query{}) {
		if err != nil {
			return nil, err
		}
	}
	yardstick := time.Since(begun)
	seconds := took[asofEvents].Seconds()
	beside := fmt.Sprintf("%.2f s of CPU time; reading the present state takes %.2f s", spent[asofEvents].Seconds(), yardstick.Seconds())
	return []Figure{
		atMost("asof-seconds", seconds, 2, "s", beside),
		atMost("asof-longer-history-ratio", seconds/took[asofEvents/10].Seconds(), 1.2, "ratio",
			fmt.Sprintf("a tenth of the history: %.2f s; of the CPU times: %.2f", took[asofEvents/10].Seconds(), spent[asofEvents].Seconds()/spent[asofEvents/10].Seconds())),
	}, nil
}

// writePast writes events of so many objects, with the snapshots that retention makes meanwhile, and
// returns the position that costs most to go back to: the last one before a snapshot. How far
// that is from the snapshot before follows from the number of objects, not from that of events.
func writePast(ctx context.Context, conn *natslog.Conn, site string, events int) (*replay.Past, pipeline.Position, error) {
	past := &replay.Past{
		Site: site, History: conn.History(site), Archive: conn.Archive(site),
		Snapshots: conn.Snapshots(site, natslog.DefaultSnapshotOptions()),
	}
	var at, before pipeline.Position
	w, err := conn.Writer(ctx, site, natslog.DefaultStreamOptions())
	if err != nil {
		return nil, at, err
	}
	keep := replay.Retention{
		Config: replay.DefaultRetention(), Log: slog.New(slog.DiscardHandler),
		Sites: func(context.Context) ([]string, error) { return []string{site}, nil },
		Past:  func(string) *replay.Past { return past },
	}
	made, all := 0, []pipeline.Manifest(nil)
	rng := rand.New(rand.NewPCG(11, 11))
	for n := 0; n < events; {
		batch := make([]pipeline.Event, 0, pipeline.MaxBatch)
		for range pipeline.MaxBatch {
			i := n // every object once, then any
			if n >= asofObjects {
				i = rng.IntN(asofObjects)
			}
			batch = append(batch, deployment(rng, site, i, n))
			n++
		}
		last, err := w.Append(ctx, batch)
		if err != nil {
			return nil, at, err
		}
		if err := keep.Once(ctx); err != nil {
			return nil, at, err
		}
		if all, err = past.Snapshots.List(ctx); err != nil {
			return nil, at, err
		}
		if len(all) > made {
			made, at = len(all), before
		}
		before = last
	}
	if made < 2 {
		return nil, at, fmt.Errorf("%d snapshots were made of %d events", made, events)
	}
	stretch := at.Seq - all[made-2].Position.Seq
	progress("%d snapshots of %d events; %d are to be read after the last one before", made, events, stretch)
	return past, at, nil
}

// benchSnapshot measures making a snapshot, until it is stored and read back.
func benchSnapshot(ctx context.Context, dir string) (_ []Figure, err error) {
	_, conn, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	w, err := conn.Writer(ctx, "nyc", natslog.DefaultStreamOptions())
	if err != nil {
		return nil, err
	}
	past := &replay.Past{
		Site: "nyc", History: conn.History("nyc"), Archive: conn.Archive("nyc"),
		Snapshots: conn.Snapshots("nyc", natslog.DefaultSnapshotOptions()),
	}
	rng, bytes := rand.New(rand.NewPCG(12, 12)), 0
	for n := 0; n < snapshotObjects; {
		batch := make([]pipeline.Event, 0, pipeline.MaxBatch)
		for range pipeline.MaxBatch {
			e := deployment(rng, "nyc", n, n)
			bytes += len(e.Body)
			batch = append(batch, e)
			n++
		}
		if _, err := w.Append(ctx, batch); err != nil {
			return nil, err
		}
	}
	best := time.Duration(0)
	var m pipeline.Manifest
	for round := range asofRounds {
		begun := time.Now()
		if m, err = past.Snapshot(ctx); err != nil {
			return nil, err
		}
		d := time.Since(begun)
		if round == 0 || d < best {
			best = d
		}
		progress("snapshot of %d objects: %s, %d KiB", m.Total(), d.Round(time.Millisecond), m.Size>>10)
		if err := past.Snapshots.Delete(ctx, m.Name); err != nil {
			return nil, err
		}
	}
	return []Figure{
		atMost("snapshot-seconds", best.Seconds(), 5, "s", fmt.Sprintf("%d objects, stored durably and read back", m.Total())),
		atMost("snapshot-size-ratio", float64(m.Size)/float64(bytes), 0.15, "ratio", fmt.Sprintf("%.1f MiB of JSON", float64(bytes)/(1<<20))),
	}, nil
}

// deployment makes the n-th event, of object i: a Deployment as charts make them, with
// names, images, digests, resources and checksums that differ from object to object.
func deployment(rng *rand.Rand, site string, i, n int) pipeline.Event {
	name, namespace := fmt.Sprintf("service-%d", i), fmt.Sprintf("team-%d", i%97)
	labels := map[string]string{
		"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name, "app.kubernetes.io/managed-by": "Helm",
		"app.kubernetes.io/part-of": namespace, "app.kubernetes.io/version": fmt.Sprintf("%d.%d.%d", rng.IntN(5), rng.IntN(30), rng.IntN(30)),
		"helm.sh/chart": fmt.Sprintf("service-%d.%d.%d", rng.IntN(5), rng.IntN(30), rng.IntN(30)),
	}
	probe := func(path string) map[string]any {
		return map[string]any{
			"httpGet":             map[string]any{"path": path, "port": "http", "scheme": "HTTP"},
			"initialDelaySeconds": rng.IntN(30), "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
		}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{
			"name": name, "namespace": namespace, "labels": labels,
			"annotations": map[string]string{"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace, "revision": fmt.Sprint(n)},
		},
		"spec": map[string]any{
			"replicas": rng.IntN(9), "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
			"selector": map[string]any{"matchLabels": map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name}},
			"strategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]string{"maxSurge": "25%", "maxUnavailable": "25%"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels, "annotations": map[string]string{"checksum/config": fmt.Sprintf("%016x%016x%016x%016x", rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())}},
				"spec": map[string]any{
					"serviceAccountName": name, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
					"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": 1000 + rng.IntN(60000), "seccompProfile": map[string]string{"type": "RuntimeDefault"}},
					"containers": []any{map[string]any{
						"name": name, "image": fmt.Sprintf("registry.example.com/%s/%s@sha256:%016x%016x%016x%016x", namespace, name, rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64()),
						"imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
						"ports": []any{map[string]any{"name": "http", "containerPort": 8000 + rng.IntN(1000), "protocol": "TCP"}},
						"env": []any{
							map[string]any{"name": "DATABASE_URL", "valueFrom": map[string]any{"secretKeyRef": map[string]string{"name": name + "-db", "key": "url"}}},
							map[string]any{"name": "LOG_LEVEL", "value": "info"},
							map[string]any{"name": "CACHE_SIZE", "value": fmt.Sprint(rng.IntN(1 << 20))},
						},
						"resources": map[string]any{
							"requests": map[string]string{"cpu": fmt.Sprintf("%dm", rng.IntN(4000)), "memory": fmt.Sprintf("%dMi", rng.IntN(8000))},
							"limits":   map[string]string{"memory": fmt.Sprintf("%dMi", rng.IntN(16000))},
						},
						"livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
						"securityContext": map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []string{"ALL"}}},
						"volumeMounts":    []any{map[string]any{"name": "config", "mountPath": "/etc/" + name, "readOnly": true}},
					}},
					"volumes": []any{map[string]any{"name": "config", "configMap": map[string]any{"name": name + "-config", "defaultMode": 420}}},
				},
			},
		},
	})
	if err != nil { // not for what is in it
		return pipeline.Event{}
	}
	return pipeline.Event{
		Ref: pipeline.Ref{Site: site, Group: "apps", Resource: "deployments", Namespace: namespace, Name: name},
		Op:  pipeline.OpPut, UID: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.Uint32()&0xffff, rng.Uint32()&0xfff, rng.Uint32()&0xfff, rng.Uint64()&(1<<48-1)),
		Version: fmt.Sprint(1_000_000 + n), APIVersion: "apps/v1", Kind: "Deployment", Manager: "helm",
		Observed: time.Now(), Digest: pipeline.DigestOf(body), Body: body,
	}
}
