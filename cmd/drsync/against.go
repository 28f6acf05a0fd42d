package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/transform"
)

// againstDestination is the value of --against.
const againstDestination = "destination"

// The retries of a comparison: what waits for something at the destination is told rather than
// waited for.
const (
	againstAttempts = 2
	againstDelay    = 100 * time.Millisecond
)

// againstOptions say what is compared with a destination.
type againstOptions struct {
	replication, at string
	// destination is $destination.site, as the applier was given it.
	destination string
}

// againstReport is what `diff --against destination` tells.
type againstReport struct {
	Replication string          `json:"replication"`
	At          pipeline.Moment `json:"at"`
	// Objects counts those that the Replication selects, and what is too many.
	Objects     int           `json:"objects"`
	Differences []againstView `json:"differences"`
}

// againstView is one object of the source whose copies are not as they should be.
type againstView struct {
	// Object is the source's.
	Object string `json:"object"`
	// Action is "missing", "different", "replaced", "extra" or "blocked": what is there, as compared
	// with what should be.
	Action string `json:"action"`
	// Diff are the fields that differ: "-path: value" as it is, "+path: value" as it should be.
	Diff []string `json:"diff,omitempty"`
	// Reason says what keeps the copy from being made.
	Reason string `json:"reason,omitempty"`
}

// against compares what a Replication should have made with what is there. It is a run that
// writes nothing: the API server is asked what it would make of each copy.
func (c *cli) against(ctx context.Context, o againstOptions) (err error) {
	client, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	book := &ruleBook{values: map[string]map[string]string{}, mask: &mask{}}
	if err := book.addReplication(ctx, client, o.replication, c.namespace); err != nil {
		return err
	}
	rules, err := book.compile(string(transform.AtDestination))
	if err != nil {
		return c.problems(err)
	}
	conn, err := c.connectLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	past := pastOf(conn, book.replication.Spec.Source.Site)
	report := againstReport{Replication: o.replication, Differences: []againstView{}}
	if report.At, err = locate(ctx, past, o.at); err != nil {
		return err
	}
	found, err := rehearse(ctx, rehearsal{client: client, conn: conn, rules: rules, system: c.namespace, destination: o.destination}, book.replication, report.At)
	if err != nil {
		return err
	}
	for _, r := range found {
		report.Objects++
		if v, differs := viewResult(r, book.mask); differs {
			report.Differences = append(report.Differences, v)
		}
	}
	if err := c.show(report, func(p *printer) {
		for _, d := range report.Differences {
			d.print(p)
		}
		p.printf(bold, "%s as of %s, %s at the destination\n",
			counted(report.Objects, "object", "objects"), report.At, counted(len(report.Differences), "differs", "differ"))
	}); err != nil {
		return err
	}
	if n := len(report.Differences); n > 0 {
		return c.no("%s at the destination", counted(n, "object differs", "objects differ"))
	}
	return nil
}

// rehearsal is what a run that writes nothing is made from.
type rehearsal struct {
	client              *kube.Client
	conn                *natslog.Conn
	rules               *transform.Set
	system, destination string
}

// rehearse runs a Replication up to a moment without writing, and returns what would become of
// each object, sorted.
func rehearse(ctx context.Context, h rehearsal, repl *v1alpha1.Replication, at pipeline.Moment) ([]pipeline.ObjectResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	quiet := slog.New(slog.DiscardHandler)
	inventory := apply.NewInventory(h.client, quiet)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { _ = inventory.Run(ctx) }) // it ends with ctx, and only so
	kept := &keptResults{last: map[pipeline.Ref]pipeline.ObjectResult{}}
	engine := &control.Replays{
		Client: h.client, Inventory: inventory, Results: kept, Destination: h.destination, Protected: []string{h.system}, Log: quiet,
		History: func(site string) pipeline.History { return h.conn.History(site) },
		Past:    func(site string) *replay.Past { return pastOf(h.conn, site) },
	}
	owner := types.NamespacedName{Namespace: repl.Namespace, Name: repl.Name}
	spec := *repl.Spec.DeepCopy()
	spec.Retry = &v1alpha1.RetryPolicy{
		Attempts:     againstAttempts,
		InitialDelay: &metav1.Duration{Duration: againstDelay}, MaxDelay: &metav1.Duration{Duration: againstDelay},
	}
	run, err := engine.Replay(control.ReplayWish{
		Name: owner, Owner: owner, UID: repl.UID, Spec: spec, Rules: h.rules, At: at,
		DryRun: true, Approved: true, Prune: spec.DeletionPolicy != v1alpha1.DeletionRetain,
		Orphaned: func(string) bool { return false },
	})
	if err != nil {
		return nil, fmt.Errorf("compare with the destination: %w", err)
	}
	if err := run.Run(ctx); err != nil {
		return nil, fmt.Errorf("compare with the destination: %w", err)
	}
	return kept.sorted(), nil
}

// viewResult tells of what would become of an object; not if it would stay as it is.
func viewResult(r pipeline.ObjectResult, m *mask) (againstView, bool) {
	v := againstView{Object: strings.TrimPrefix(r.Ref.String(), r.Ref.Site+" ")}
	for _, line := range r.Diff {
		v.Diff = append(v.Diff, m.text(line))
	}
	switch {
	case r.Failed():
		v.Action, v.Reason = "blocked", r.Class.String()+": "+m.text(r.Message)
	case r.Result == pipeline.ResultCreated:
		v.Action = "missing"
	case r.Result == pipeline.ResultDeleted:
		v.Action = "extra"
	case r.Result == pipeline.ResultRecreated:
		v.Action = "replaced"
	case r.Result == pipeline.ResultConfigured && len(v.Diff) > 0:
		v.Action = "different"
	default: // it is so, or is to be left alone; or only our own marks differ
		return v, false
	}
	return v, true
}

func (v againstView) print(p *printer) {
	switch v.Action {
	case "missing":
		p.printf(green, "+ %s: is missing\n", v.Object)
	case "extra":
		p.printf(red, "- %s: the source does not have it\n", v.Object)
	case "blocked":
		p.printf(red, "! %s: %s\n", v.Object, oneLine(v.Reason))
	case "replaced":
		p.printf(yellow, "~ %s: differs in what cannot be changed\n", v.Object)
	default:
		p.printf(yellow, "~ %s\n", v.Object)
	}
	for _, line := range v.Diff {
		p.printf(yellow, "    %s\n", oneLine(line))
	}
}

// keptResults is a pipeline.Results in memory, for one run.
type keptResults struct {
	mu   sync.Mutex
	last map[pipeline.Ref]pipeline.ObjectResult
}

// Add implements pipeline.Results.
func (k *keptResults) Add(_ context.Context, _ string, results []pipeline.ObjectResult) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range results {
		k.last[r.Ref] = r
	}
	return nil
}

// List implements pipeline.Results: there is no run before this one.
func (k *keptResults) List(context.Context, string) iter.Seq2[pipeline.ObjectResult, error] {
	return func(func(pipeline.ObjectResult, error) bool) {}
}

// Runs implements pipeline.Results.
func (k *keptResults) Runs(context.Context) ([]string, error) { return nil, nil }

// Remove implements pipeline.Results.
func (k *keptResults) Remove(context.Context, string) error { return nil }

func (k *keptResults) sorted() []pipeline.ObjectResult {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]pipeline.ObjectResult, 0, len(k.last))
	for _, r := range k.last {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b pipeline.ObjectResult) int { return a.Ref.Compare(b.Ref) })
	return out
}

// checkAgainst says what is wrong with the flags of a comparison with a destination.
func checkAgainst(against, from, to string, o againstOptions) error {
	switch {
	case against != againstDestination:
		return app.Usage(fmt.Errorf("--against %q is not %s", against, againstDestination))
	case o.replication == "":
		return app.Usage(errors.New("--replication is missing: name the Replication whose copies are meant"))
	case from != "":
		return app.Usage(errors.New("--from is for two moments of the source: leave it out, or --against"))
	case to != "":
		return app.Usage(errors.New("--to is for two moments of the source: give --at, or leave --against out"))
	}
	return nil
}
