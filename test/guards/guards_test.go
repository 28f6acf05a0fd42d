package guards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play is one schedule: both clusters, what runs between them, and what the source truly has.
type play struct {
	t      *testing.T
	r      *rand.Rand
	guard  *v1alpha1.DeletionGuard
	source *cluster
	dest   *cluster
	log    *memlog.Log

	collector, applier func() // stop them
	run                control.Runner
	status             v1alpha1.DeletionsStatus
	names              int
	story              []string
	wrong              []string
	restored           bool
	deleted            int
}

// strict is a guard that fits clusters as small as these.
var strict = &v1alpha1.DeletionGuard{MinCount: new(int32(0)), MaxPercent: new(int32(50)), MaxCount: new(int32(30))}

func newPlay(t *testing.T, r *rand.Rand, guard *v1alpha1.DeletionGuard) *play {
	p := &play{t: t, r: r, guard: guard, source: newCluster("one"), dest: newCluster("dr"), log: memlog.New()}
	p.dest.onDelete = func(i id) {
		if os.Getenv("DRS_SCHEDULE") != "" {
			p.t.Logf("%v: %v is deleted, the log has %s", p.story, i, p.logged(i))
		}
		if p.deleted++; p.source.has(i) {
			p.wrong = append(p.wrong, fmt.Sprint(i))
		}
	}
	for n := range 3 {
		ns := fmt.Sprint("ns", n)
		p.source.put(namespaces, "", ns, "")
		for range 10 {
			p.create(ns)
		}
	}
	p.startCollector()
	p.startApplier()
	p.pass(10 * time.Second)
	return p
}

func (p *play) create(ns string) {
	p.names++
	k := []kube.Kind{configMaps, configMaps, secrets, widgets}[p.r.IntN(4)]
	p.source.put(k, ns, fmt.Sprint("o", p.names), strconv.Itoa(p.r.IntN(100)))
}

// pass lets time go by.
func (p *play) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (p *play) startCollector() {
	cfg := collect.Default()
	cfg.Heartbeat, cfg.Discovery = collect.Duration(time.Second), collect.Duration(2*time.Second)
	c, err := collect.New(collect.Settings{
		Site: "prod", Source: p.source, History: p.log.History("prod"), Config: cfg, Log: slog.New(slog.DiscardHandler),
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) { return p.log.Writer(ctx, "prod") },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			p.t.Errorf("collector: %v", err)
		}
	})
	p.collector = func() { cancel(); wg.Wait() }
}

// startApplier starts the destination side from what a status would tell.
func (p *play) startApplier() {
	quiet := slog.New(slog.DiscardHandler)
	inventory := apply.NewInventory(p.dest, quiet)
	engine := &control.Replays{
		Client: p.dest, Inventory: inventory, DeadLetters: p.log.DeadLetters("dr"), Destination: "dr", Log: quiet, History: p.log.History,
	}
	var err error
	if p.run, err = engine.New(control.Wish{
		Owner: types.NamespacedName{Namespace: "dr", Name: "all"}, Deletions: &p.status,
		Spec: v1alpha1.ReplicationSpec{Source: v1alpha1.Source{Site: "prod"}, DeletionGuard: p.guard},
	}); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = inventory.Run(ctx) })
	run := p.run
	wg.Go(func() { _ = run.Run(ctx) })
	p.applier = func() { cancel(); wg.Wait() }
}

// remember keeps what the controller would have written into the status.
func (p *play) remember() {
	held := p.run.Snapshot().Deletions
	p.status = v1alpha1.DeletionsStatus{Held: int64(held.Held), Scopes: held.Scopes}
	for to, from := range map[**v1alpha1.Position]pipeline.Position{&p.status.ApprovedThrough: held.ApprovedThrough, &p.status.DiscardedThrough: held.DiscardedThrough} {
		if !from.IsZero() {
			*to = &v1alpha1.Position{Epoch: from.Epoch, Sequence: int64(from.Seq)}
		}
	}
}

func (p *play) some() (id, bool) {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	all := slices.SortedFunc(maps.Keys(p.source.objects), compare)
	all = slices.DeleteFunc(all, func(i id) bool { return i.kind == namespaces.GroupResource })
	if len(all) == 0 {
		return id{}, false
	}
	return all[p.r.IntN(len(all))], true
}

func (p *play) kind() pipeline.GroupResource {
	return kinds[p.r.IntN(len(kinds))].GroupResource
}

// acts are what can happen, by name.
func acts() map[string]func(p *play) {
	return map[string]func(p *play){
		"change": func(p *play) {
			for range 1 + p.r.IntN(5) {
				i, ok := p.some()
				switch n := p.r.IntN(4); {
				case n == 0 || !ok:
					if ns := fmt.Sprint("ns", p.r.IntN(3)); p.source.has(id{namespaces.GroupResource, "", ns}) {
						p.create(ns)
					}
				case n == 1:
					p.source.remove(i)
				default:
					k, _ := p.source.Kind(context.Background(), i.kind)
					p.source.put(k, i.namespace, i.name, strconv.Itoa(p.r.IntN(100)))
				}
			}
		},
		"collector restart": func(p *play) {
			p.collector()
			p.pass(time.Duration(p.r.IntN(5000)) * time.Millisecond)
			p.startCollector()
		},
		"applier restart": func(p *play) {
			p.remember()
			p.applier()
			p.pass(time.Duration(p.r.IntN(5000)) * time.Millisecond)
			p.startApplier()
		},
		"410":       func(p *play) { p.source.change(func() { p.source.session++ }) },
		"403":       func(p *play) { p.refuse(errForbidden) },
		"kind gone": func(p *play) { p.refuse(errGone) },
		"empty list": func(p *play) {
			k := p.kind()
			p.lie(func(i id) bool { return i.kind == k }, p.r.IntN(2) == 0)
		},
		"short list": func(p *play) {
			k, part := p.kind(), p.r.IntN(3)
			p.lie(func(i id) bool { return i.kind == k && len(i.name)%3 != part }, false)
		},
		"namespace unseen": func(p *play) {
			ns := fmt.Sprint("ns", p.r.IntN(3))
			p.lie(func(i id) bool { return i.namespace == ns || i == id{namespaces.GroupResource, "", ns} }, true)
		},
		"restored": func(p *play) {
			p.pass(30 * time.Second) // what was deleted before is settled
			var objects map[id]thing
			var version uint64
			p.source.change(func() { objects, version = maps.Clone(p.source.objects), p.source.version })
			acts()["change"](p)
			p.pass(30 * time.Second)
			p.source.change(func() {
				p.source.objects, p.source.version = objects, version
				p.source.session++
			})
			p.pass(5 * time.Second)
			p.source.change(func() { p.source.version += 1000 })
			p.restored = true
		},
		"replaced": func(p *play) {
			p.pass(30 * time.Second)
			before := p.source.values()
			maps.DeleteFunc(before, func(i id, _ any) bool { return !p.dest.has(i) })
			p.source.change(func() {
				p.source.uid += "+"
				p.source.version += uint64(p.r.IntN(2000))
				p.source.session++
				for _, i := range slices.SortedFunc(maps.Keys(p.source.objects), compare) {
					o := p.source.objects[i]
					o.uid, o.version = p.source.nextUID(), p.source.version
					p.source.objects[i] = o
					if i.kind != namespaces.GroupResource && p.r.IntN(2) == 0 {
						delete(p.source.objects, i)
					}
				}
			})
			p.pass(20 * time.Second)
			for i := range before {
				if !p.dest.has(i) {
					p.wrong = append(p.wrong, fmt.Sprintf("%v is deleted since another cluster lacks it", i))
				}
			}
		},
		"namespace wiped": func(p *play) {
			p.source.remove(id{namespaces.GroupResource, "", fmt.Sprint("ns", p.r.IntN(3))})
		},
	}
}

// refuse has a kind not be readable for a while.
func (p *play) refuse(why error) {
	k := p.kind()
	p.source.change(func() { p.source.refused[k] = why; p.source.session++ })
	p.pass(time.Duration(1+p.r.IntN(20)) * time.Second)
	if p.r.IntN(2) == 0 {
		acts()["change"](p)
	}
	p.source.change(func() { delete(p.source.refused, k); p.source.session++ })
}

// lie has lists leave something out for a while, in which other things may happen; what is left out is not there
// by name either if it is unseen.
func (p *play) lie(about func(id) bool, unseen bool) {
	p.source.change(func() { p.source.lie, p.source.unseen = about, unseen; p.source.version++; p.source.session++ })
	p.pass(time.Duration(1+p.r.IntN(20)) * time.Second)
	for _, act := range []string{"change", "410", "collector restart", "applier restart"} {
		if p.r.IntN(4) == 0 {
			p.story = append(p.story, "("+act+")")
			acts()[act](p)
			p.pass(time.Duration(p.r.IntN(10)) * time.Second)
		}
	}
	p.source.change(func() { p.source.lie, p.source.unseen = nil, false; p.source.version++; p.source.session++ })
}

// heal ends all faults, approves what is held, and compares.
func (p *play) heal() {
	p.source.change(func() { p.source.session++ })
	p.pass(time.Minute)
	for range 2 {
		if by, ok := p.run.(interface{ Approve() }); ok {
			by.Approve()
		}
		p.pass(time.Minute)
	}
	want, got := p.source.values(), p.dest.values()
	for i, v := range want {
		if fmt.Sprint(got[i]) != fmt.Sprint(v) {
			p.wrong = append(p.wrong, fmt.Sprintf("%v is %v, want %v", i, got[i], v))
		}
	}
	for i := range got {
		if _, exists := want[i]; !exists {
			p.wrong = append(p.wrong, fmt.Sprintf("%v is still there, the log has %s", i, p.logged(i)))
		}
	}
}

// logged is the last record of an object.
func (p *play) logged(i id) string {
	for r, err := range p.log.History("prod").Current(p.t.Context(), pipeline.Query{HeadersOnly: true}) {
		if err == nil && r.Ref.GroupResource() == i.kind && r.Ref.Namespace == i.namespace && r.Ref.Name == i.name {
			return fmt.Sprintf("%s %s at %s of version %s", r.Op, r.Evidence, r.Position, r.Version)
		}
	}
	return "nothing"
}

// schedules is how many are played: DRS_SCHEDULE=n plays just that one.
func schedules(t *testing.T) []int {
	t.Helper()
	if s := os.Getenv("DRS_SCHEDULE"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("DRS_SCHEDULE: %v", err)
		}
		return []int{n}
	}
	out := make([]int, 500)
	for n := range out {
		out[n] = n
	}
	return out
}

// TestMatrix plays 500 random schedules of faults, half of them with the guard that is the default: nothing that
// exists is ever deleted, and after the faults have ended and what is held was approved nothing is left that the
// source does not have.
func TestMatrix(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("DRS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("DRS_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("DRS_SEED=%d", seed)
	var held, deleted atomic.Int64
	t.Run("schedules", func(t *testing.T) {
		for _, n := range schedules(t) {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := newPlay(t, rand.New(rand.NewPCG(seed, uint64(n))), []*v1alpha1.DeletionGuard{strict, nil}[n%2])
					p.act(&held)
					p.heal()
					p.collector()
					p.applier()
					deleted.Add(int64(p.deleted))
					if len(p.wrong) > 0 {
						t.Errorf("%s: %d wrong: %s", strings.Join(p.story, ", "), len(p.wrong), strings.Join(p.wrong[:min(5, len(p.wrong))], "; "))
					}
				})
			})
		}
	})
	t.Logf("%d objects were deleted and %d deletions held at the looks taken; no false delete, none missed after heal", deleted.Load(), held.Load())
	if (held.Load() == 0 || deleted.Load() == 0) && len(schedules(t)) > 1 {
		t.Error("nothing was ever held, or deleted: the matrix proves little")
	}
}

// act has some of what can happen happen.
func (p *play) act(held *atomic.Int64) {
	all := acts()
	names := slices.Sorted(maps.Keys(all))
	for range 3 + p.r.IntN(5) {
		act := names[p.r.IntN(len(names))]
		if act == "restored" && p.restored {
			continue // one future at a time
		}
		p.story = append(p.story, act)
		all[act](p)
		p.pass(time.Duration(p.r.IntN(20)) * time.Second)
		held.Add(int64(p.run.Snapshot().Deletions.Held))
	}
}
