package faults

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// TestKilledAtRandom changes a cluster, 5,000 times with the default log, while
// collector, applier and log are killed at random moments, and wants equality in the end.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		options world.Options
		changes int
		reason  string
	}{
		{"EmbeddedLog", world.Options{}, 5000, "killing the applier kills the log with it"},
		{"ExternalLog", world.Options{ExternalLog: filepath.Join(bin, "nats-server")}, 2000, "log and applier die separately"},
		{"LinkedLogs", world.Options{Linked: true}, 2000, "killing either kills one end of the link, with the log that it holds"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := random(t)
			w := start(t, c.options)
			replicate(t, w, "all", `"app-*"`, anyDeletions)
			done := make(chan struct{})
			var wg sync.WaitGroup
			changes := rand.New(rand.NewPCG(r.Uint64(), 1))
			wg.Go(func() {
				defer close(done)
				churn(t, w, changes, c.changes)
			})
			kills := killAround(t, w, r, done)
			wg.Wait()
			for _, p := range []*world.Process{w.Log, w.Applier, w.Collector} {
				if p != nil && !p.Alive() {
					if err := p.Start(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			result := converges(t, w, same("app-0", "app-1", "app-2"))
			t.Logf("%d changes, %d kills: %s", c.changes, kills, result)
			if kills < 5 {
				t.Errorf("only %d kills: the run proves little", kills)
			}
		})
	}
}

// churn makes random changes: creates, updates and deletes over three namespaces.
func churn(t *testing.T, w *world.World, r *rand.Rand, changes int) {
	for i := range 3 {
		put(t, w, world.Namespace(fmt.Sprintf("app-%d", i)))
	}
	alive := make(map[string]world.Object)
	var work sync.WaitGroup
	limit := make(chan struct{}, 8)
	busy := make(map[string]*sync.Mutex) // per object, so that its changes keep their order
	for i := range changes {
		if t.Failed() {
			break
		}
		namespace := fmt.Sprintf("app-%d", r.IntN(3))
		o := world.Mixed(r, namespace, r.IntN(300))
		key := o.Ref(world.Site).String()
		_, exists := alive[key]
		del := exists && r.IntN(4) == 0
		if !del && exists && o.Kind.Resource != "configmaps" && o.Kind.Resource != "secrets" {
			// Only configuration changes at will; workloads have fields that cannot change.
			o = world.ConfigMap(r, namespace, fmt.Sprintf("extra-%d", r.IntN(50)), 100+r.IntN(2000), i)
			key = o.Ref(world.Site).String()
		}
		if del {
			delete(alive, key)
		} else {
			alive[key] = o
		}
		if busy[key] == nil {
			busy[key] = new(sync.Mutex)
		}
		lock := busy[key]
		limit <- struct{}{}
		lock.Lock()
		work.Go(func() {
			defer func() { lock.Unlock(); <-limit }()
			var err error
			if del {
				err = w.Prod.Client().Delete(t.Context(), o.Kind, o.Namespace, o.Name, "")
			} else {
				_, _, err = w.Prod.Client().Apply(t.Context(), o.Kind, o.Namespace, o.Name, o.Body)
			}
			if err != nil {
				t.Errorf("change %d of %s: %v", i, o.Ref(world.Site), err)
			}
		})
	}
	work.Wait()
}

// killAround kills a random part every second or so and starts it again after a
// while, until done. It returns the number of kills.
func killAround(t *testing.T, w *world.World, r *rand.Rand, done <-chan struct{}) int {
	parts := []*world.Process{w.Collector, w.Applier}
	if w.Log != nil {
		parts = append(parts, w.Log)
	}
	kills := 0
	for {
		select {
		case <-done:
			if kills >= 5 {
				return kills
			}
		case <-time.After(time.Duration(200+r.IntN(1200)) * time.Millisecond):
		}
		p := parts[r.IntN(len(parts))]
		p.Kill()
		kills++
		wait(t, time.Duration(r.IntN(800))*time.Millisecond)
		if err := p.Launch(); err != nil {
			t.Error(err)
			return kills
		}
	}
}
