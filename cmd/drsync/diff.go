package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/transform"
)

// diffOptions are the flags of `transform diff`.
type diffOptions struct {
	former   ruleSource
	next     []string
	objects  []string
	at       string
	position string
	exitCode bool
	env      transform.Env
}

func (c *cli) diffCommand() *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff -f NEW-RULES... --replication NAMESPACE/NAME",
		Short: "Tell which copies other rules would change, and how",
		Long: `Diff runs the rules of a Replication and new ones over the objects that it selects,
as the log holds them now or held them at a moment in the past, and tells which copies
would come out differently. Nothing is written anywhere.

A manifest of a ConfigMap given with --filename stands for the one of that name;
documents of rules and .jq modules stand for all ConfigMaps of the Replication.
Standby and mapping stay as they are.

With --objects and --rules it works on files alone.`,
		Example: "  drsync transform diff -f new-rules.yaml --replication default/shop --nats-url nats://dr.example.com:4222\n" +
			"  drsync transform diff -f new-rules.yaml --replication default/shop --nats-url nats://localhost:4222 --at 2h\n" +
			"  drsync transform diff -f new-rules.yaml -r rules.yaml --objects objects.yaml",
		Args: app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.diff(cmd.Context(), o) },
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&o.next, "filename", "f", nil, "file with new rules; may be repeated (required)")
	fs.StringArrayVar(&o.objects, "objects", nil, "file with the source's objects, in place of the log; may be repeated")
	fs.StringVar(&o.at, "at", "", "the moment in the past, as 2006-01-02T15:04:05Z or as an age such as 90m; now if not given")
	fs.StringVar(&o.position, "position", "", "the moment in the past as a position, EPOCH/SEQUENCE")
	fs.BoolVar(&o.exitCode, "exit-code", false, "end with exit code 3 if there is a difference")
	fs.StringVar(&o.env.DestinationSite, "destination", "default", "$destination.site: what the applier was given with --destination")
	fs.StringVar(&o.env.SourceSite, "site", "source", "$source.site; that of --replication if given")
	o.former.flags(cmd)
	c.clusterFlags(cmd)
	c.logFlags(cmd)
	c.secretsFlag(cmd)
	return cmd
}

// difference is what new rules do to one copy.
type difference struct {
	// Copy is the object at the destination, Source what it is a copy of.
	Copy   string `json:"copy"`
	Source string `json:"source"`
	// Action is "change", "add", "remove", "park" or "hold".
	Action  string       `json:"action"`
	Changes []changeView `json:"changes,omitempty"`
	Error   string       `json:"error,omitempty"`
}

// diffReport is what `transform diff` tells.
type diffReport struct {
	// Position is where the objects were read, empty for files and for the present.
	Position    string       `json:"position,omitempty"`
	Objects     int          `json:"objects"`
	Differences []difference `json:"differences"`
}

func (o *diffOptions) validate() error {
	switch {
	case len(o.next) == 0:
		return app.Usage(errors.New("--filename is missing: give the file with the new rules"))
	case len(o.objects) == 0 && o.former.replication == "":
		return app.Usage(errors.New("--replication is missing: name the Replication whose copies are meant, or give --objects"))
	case o.at != "" && o.position != "":
		return app.Usage(errors.New("--at and --position say the same: leave one of them out"))
	case len(o.objects) > 0 && (o.at != "" || o.position != ""):
		return app.Usage(errors.New("files have no past: leave out --at and --position, or --objects"))
	}
	return o.former.validate()
}

func (c *cli) diff(ctx context.Context, o diffOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	former, err := c.readRules(ctx, o.former)
	if err != nil {
		return err
	}
	next, err := c.newRules(ctx, o, former)
	if err != nil {
		return err
	}
	d := differ{former: former, next: next, env: former.env(o.env), place: func(t transform.Target) transform.Target { return t }}
	if d.a, err = former.compile(o.former.stage); err != nil {
		return fmt.Errorf("the present rules: %w", c.problems(err))
	}
	if d.b, err = next.compile(o.former.stage); err != nil {
		return c.problems(err)
	}
	if len(o.objects) > 0 {
		objects, err := c.readObjects(o.objects, "")
		if err != nil {
			return app.Usage(err)
		}
		for _, object := range objects {
			d.compare(ctx, object)
		}
	} else if err := c.diffLog(ctx, o, &d); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.reportDiff(&d, o.exitCode)
}

// newRules are the former ones with what the files say in their place.
func (c *cli) newRules(ctx context.Context, o diffOptions, former *ruleBook) (*ruleBook, error) {
	next := &ruleBook{
		documents: slices.Clone(former.documents), builtIn: former.builtIn, values: maps.Clone(former.values), mask: former.mask,
		replication: former.replication,
	}
	given := &ruleBook{values: map[string]map[string]string{}, mask: former.mask, everyConfigMap: true}
	for _, file := range o.next {
		text, err := c.readFile(file)
		if err != nil {
			return nil, app.Usage(err)
		}
		if err := given.addFile(file, text); err != nil {
			return nil, app.Usage(err)
		}
	}
	maps.Copy(next.values, given.values)
	plain := slices.ContainsFunc(given.documents, func(d transform.Document) bool { return d.ConfigMap == "" })
	if plain {
		next.documents = given.documents
	} else {
		for name := range given.configMaps() {
			known := slices.ContainsFunc(former.documents, func(d transform.Document) bool { return d.ConfigMap == name })
			if !known && former.replication != nil {
				return nil, app.Usage(fmt.Errorf("configmap %s is none that the Replication uses: name it in spec.transforms first", name))
			}
			next.replace(name, given.documentsOf(name))
		}
	}
	if former.replication == nil {
		return next, nil
	}
	client, err := c.cluster(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return next, next.addReferences(ctx, client)
}

// diffLog compares what the log holds of the source.
func (c *cli) diffLog(ctx context.Context, o diffOptions, d *differ) (err error) {
	conn, err := c.connectLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	selector, err := apply.NewSelector(d.former.replication.Spec)
	if err != nil {
		return err
	}
	d.place = func(t transform.Target) transform.Target {
		if t.Namespace != "" {
			t.Namespace = selector.MapNamespace(t.Namespace)
		} else if t.Kind == namespaces {
			t.Name = selector.MapNamespace(t.Name)
		}
		return t
	}
	read, err := c.moment(ctx, conn, o, d)
	if err != nil {
		return err
	}
	// Namespaces first: others are selected by the labels of theirs.
	for r, err := range read(pipeline.Query{Kind: &namespaces}) {
		if err == nil {
			selector.Observe(r)
		} else if !errors.Is(err, pipeline.ErrForeign) {
			return err
		}
	}
	for r, err := range read(pipeline.Query{}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
		case err != nil:
			return err
		case r.Op == pipeline.OpPut && selector.Selects(r.Ref, r.Body):
			d.compare(ctx, transform.Object{Kind: r.Ref.GroupResource(), Body: r.Body})
		}
	}
	return nil
}

var namespaces = pipeline.GroupResource{Resource: "namespaces"}

// moment returns how to read the site at the moment that is asked for.
func (c *cli) moment(ctx context.Context, conn *natslog.Conn, o diffOptions, d *differ) (func(pipeline.Query) iter.Seq2[pipeline.Record, error], error) {
	site := d.env.SourceSite
	past := &replay.Past{Site: site, History: conn.History(site), Archive: conn.Archive(site), Snapshots: conn.Snapshots(site, natslog.DefaultSnapshotOptions())}
	var at pipeline.Position
	switch {
	case o.position != "":
		epoch, seq, ok := strings.Cut(o.position, "/")
		n, err := strconv.ParseUint(seq, 10, 64)
		if !ok || epoch == "" || err != nil {
			return nil, app.Usage(fmt.Errorf("--position %q is not of the form EPOCH/SEQUENCE", o.position))
		}
		at = pipeline.Position{Epoch: epoch, Seq: n}
	case o.at != "" && o.at != "now":
		t, err := parseMoment(o.at, time.Now())
		if err != nil {
			return nil, app.Usage(fmt.Errorf("--at %w", err))
		}
		m, err := past.Locate(ctx, t)
		if err != nil {
			return nil, err
		}
		at = m.Position
	default:
		return func(q pipeline.Query) iter.Seq2[pipeline.Record, error] { return past.History.Current(ctx, q) }, nil
	}
	d.report.Position = at.String()
	return func(q pipeline.Query) iter.Seq2[pipeline.Record, error] { return past.State(ctx, at, q) }, nil
}

// parseMoment reads a time, or an age.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time such as 2006-01-02T15:04:05Z nor an age such as 90m", text)
	}
	return t, nil
}

// differ runs two sets of rules over objects.
type differ struct {
	former, next *ruleBook
	a, b         *transform.Set
	env          transform.Env
	// place is where the copy is of what rules have made.
	place  func(transform.Target) transform.Target
	report diffReport
}

// compare notes in what the copies of an object differ.
func (d *differ) compare(ctx context.Context, o transform.Object) {
	d.report.Objects++
	if !d.a.Matches(o) && !d.b.Matches(o) {
		return
	}
	before, was := d.run(ctx, d.a, o)
	after, is := d.run(ctx, d.b, o)
	source := transform.TargetOf(o)
	note := func(t transform.Target, action string) *difference {
		d.report.Differences = append(d.report.Differences, difference{Copy: t.String(), Source: source.String(), Action: action})
		return &d.report.Differences[len(d.report.Differences)-1]
	}
	switch {
	case after == nil && before == nil && was == is:
		return
	case is != "":
		note(d.place(source), "park").Error = d.next.mask.text(is)
		return
	case after == nil:
		note(d.place(source), "hold")
		return
	}
	for t, body := range before {
		if _, there := after[t]; !there {
			note(t, "remove")
			continue
		}
		changes, err := transform.Changes(body, after[t])
		if err != nil {
			note(t, "park").Error = d.next.mask.text(err.Error())
		} else if len(changes) > 0 {
			note(t, "change").Changes = changeViews(d.next.mask.changes(o.Kind, changes))
		}
	}
	for t := range after {
		if _, there := before[t]; !there {
			note(t, "add")
		}
	}
}

// run returns the copies that rules make of an object; nil if they leave things as they
// are, with the reason why it is parked if it is.
func (d *differ) run(ctx context.Context, set *transform.Set, o transform.Object) (copies map[transform.Target][]byte, parked string) {
	result, err := set.Run(ctx, d.env, o)
	if err != nil {
		return nil, err.Error()
	}
	if result.Skipped {
		return nil, ""
	}
	copies = map[transform.Target][]byte{}
	for _, out := range result.Objects {
		copies[d.place(transform.TargetOf(out))] = out.Body
	}
	return copies, ""
}

// reportDiff shows what was found.
func (c *cli) reportDiff(d *differ, exitCode bool) error {
	r := &d.report
	slices.SortFunc(r.Differences, func(a, b difference) int { return strings.Compare(a.Copy+" "+a.Source, b.Copy+" "+b.Source) })
	if r.Differences == nil {
		r.Differences = []difference{}
	}
	if err := c.show(r, func(p *printer) {
		for _, x := range r.Differences {
			x.print(p)
		}
		at := ""
		if r.Position != "" {
			at = " as of " + r.Position
		}
		p.printf(bold, "%s%s, %s\n", counted(r.Objects, "object", "objects"), at, counted(len(r.Differences), "copy differs", "copies differ"))
	}); err != nil {
		return err
	}
	if exitCode && len(r.Differences) > 0 {
		return c.no("%s", counted(len(r.Differences), "copy differs", "copies differ"))
	}
	return nil
}

func (x *difference) print(p *printer) {
	of := ""
	if x.Copy != x.Source {
		of = " (of " + x.Source + ")"
	}
	switch x.Action {
	case "add":
		p.printf(green, "+ %s%s\n", x.Copy, of)
	case "remove":
		p.printf(red, "- %s%s: as the deletion policy says\n", x.Copy, of)
	case "park":
		p.printf(red, "! %s%s: would be parked: %s\n", x.Copy, of, x.Error)
	case "hold":
		p.printf(yellow, "= %s%s: would stay as it is, whatever changes: a rule that fails says so\n", x.Copy, of)
	default:
		p.printf(yellow, "~ %s%s\n", x.Copy, of)
		printChanges(p, x.Changes)
	}
}
