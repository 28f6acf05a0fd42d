package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/transform"
)

// objectChanges are the differences between two objects.
var objectChanges = transform.Changes

func (c *cli) historyCommand() *cobra.Command {
	var o wantedObject
	cmd := &cobra.Command{
		Use:   "history KIND NAME",
		Short: "Show every change of an object of the source: when, what, by whom",
		Long: `History shows every change of one object that the log still holds: when it was
observed, which fields changed, the field manager that did it, the position in the
history and the trace of the change. What Secrets hold is masked.`,
		Example: "  drsync history deployment web -n shop --nats-url nats://dr.example.com:4222",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.kind, o.name = args[0], args[1]
			return c.withPast(cmd.Context(), func(past *replay.Past) error { return c.history(cmd.Context(), past, o) })
		},
	}
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of the object; none for one of the whole cluster")
	c.siteFlag(cmd)
	c.logFlags(cmd)
	c.secretsFlag(cmd)
	return cmd
}

// versionView is what `history` tells of one change.
type versionView struct {
	Time     time.Time    `json:"time"`
	Op       string       `json:"op"`
	Evidence string       `json:"evidence,omitempty"`
	Manager  string       `json:"manager,omitempty"`
	Position string       `json:"position"`
	Version  string       `json:"resourceVersion,omitempty"`
	UID      string       `json:"uid,omitempty"`
	TraceID  string       `json:"traceID,omitempty"`
	Changes  []changeView `json:"changes,omitempty"`
	Problem  string       `json:"problem,omitempty"`
}

func (c *cli) history(ctx context.Context, past *replay.Past, o wantedObject) error {
	now, err := locate(ctx, past, "")
	if err != nil {
		return err
	}
	object, err := o.find(ctx, past, now.Position)
	if err != nil {
		return err
	}
	views := []versionView{}
	var before []byte
	for rec, err := range past.Versions(ctx, object.Ref) {
		if err != nil && !errors.Is(err, pipeline.ErrForeign) {
			return err
		}
		view := versionView{
			Time: rec.Observed, Op: rec.Op.String(), Evidence: rec.Evidence.String(), Manager: rec.Manager,
			Position: rec.Position.String(), Version: rec.Version, UID: rec.UID, TraceID: traceID(rec),
		}
		if err != nil {
			view.Time, view.Op, view.Problem = rec.Stored, "foreign", "not a record of ours"
		} else if view.Changes, err = c.changesOf(rec.Ref.GroupResource(), before, rec.Body); err != nil {
			view.Problem = "the body cannot be compared"
		}
		if rec.Op != pipeline.OpPut {
			view.Changes = nil // it is all gone
		}
		before = rec.Body
		views = append(views, view)
	}
	return c.show(views, func(p *printer) {
		for _, v := range views {
			v.print(p)
		}
	})
}

func (v versionView) print(p *printer) {
	what := v.Op
	if v.Evidence != "" {
		what += " (" + v.Evidence + ")"
	}
	p.printf(bold, "%s  %s", v.Time.UTC().Format(time.RFC3339), what)
	for _, part := range [...]struct{ name, value string }{{"by", v.Manager}, {"at", v.Position}, {"trace", v.TraceID}} {
		if part.value != "" {
			p.printf(dim, "  %s %s", part.name, part.value)
		}
	}
	p.printf(plain, "\n")
	if v.Problem != "" {
		p.printf(red, "    %s\n", v.Problem)
	}
	printChanges(p, v.Changes)
}

// traceID is the trace in which the change was observed.
func traceID(r pipeline.Record) string {
	parts := strings.Split(r.Trace.Parent, "-")
	if len(parts) != 4 {
		return ""
	}
	return parts[1]
}

func (c *cli) momentsCommand() *cobra.Command {
	var from, to, against string
	o := againstOptions{destination: "default"}
	exitCode := false
	cmd := &cobra.Command{
		Use:   "diff {--from MOMENT [--to MOMENT] | --against destination --replication NAMESPACE/NAME}",
		Short: "Compare the source at two moments, or a destination with what it should be",
		Long: `Diff compares what the source was at two moments: which objects were created, deleted
or changed between them, and in which fields. What Secrets hold is masked.

With --against destination it compares what a Replication should have made of the source,
by its selection, mapping and rules, with what is there: copies that are missing, that
differ in what we apply, or that the source has nothing for. Nothing is written. What
changes meanwhile may be told too. The exit code is 3 if anything differs.

A moment is a time such as 2006-01-02T15:04:05Z, an age such as 90m, a position
EPOCH/SEQUENCE or the name of a snapshot.`,
		Example: "  drsync diff --from 24h --to 1h --nats-url nats://dr.example.com:4222\n" +
			"  drsync diff --against destination --replication default/shop --nats-url nats://dr.example.com:4222",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if against != "" {
				if err := checkAgainst(against, from, to, o); err != nil {
					return err
				}
				return c.against(cmd.Context(), o)
			}
			if from == "" {
				return app.Usage(errors.New("--from is missing: give the earlier moment, such as 24h"))
			}
			return c.withPast(cmd.Context(), func(past *replay.Past) error { return c.moments(cmd.Context(), past, from, to, exitCode) })
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the earlier moment (required)")
	cmd.Flags().StringVar(&to, "to", "", "the later moment; now if not given")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "end with exit code 3 if there is a difference between two moments")
	cmd.Flags().StringVar(&against, "against", "", `compare with what is there: "destination"`)
	cmd.Flags().StringVar(&o.replication, "replication", "", "the Replication whose copies are meant, NAMESPACE/NAME")
	cmd.Flags().StringVar(&o.at, "at", "", "the moment of the source that the destination is compared with; now if not given")
	cmd.Flags().StringVar(&o.destination, "destination", o.destination, "the destination, as its applier was given with --destination")
	c.siteFlag(cmd)
	c.clusterFlags(cmd)
	c.logFlags(cmd)
	c.secretsFlag(cmd)
	return cmd
}

// momentsReport is what `diff` tells.
type momentsReport struct {
	From        pipeline.Moment `json:"from"`
	To          pipeline.Moment `json:"to"`
	Differences []momentView    `json:"differences"`
}

// momentView is one object that differs.
type momentView struct {
	Object string `json:"object"`
	// Action is "create", "delete" or "change".
	Action  string       `json:"action"`
	Manager string       `json:"manager,omitempty"`
	Changes []changeView `json:"changes,omitempty"`
}

func (c *cli) moments(ctx context.Context, past *replay.Past, from, to string, exitCode bool) error {
	r := momentsReport{Differences: []momentView{}}
	var err error
	if r.From, err = locate(ctx, past, from); err != nil {
		return err
	}
	if r.To, err = locate(ctx, past, to); err != nil {
		return err
	}
	for d, err := range past.Differences(ctx, r.From.Position, r.To.Position) {
		if err != nil {
			return err
		}
		view := momentView{Object: strings.TrimPrefix(d.Ref.String(), d.Ref.Site+" "), Action: "change"}
		switch {
		case d.Before == nil:
			view.Action, view.Manager = "create", d.After.Manager
		case d.After == nil:
			view.Action = "delete"
		default:
			view.Manager = d.After.Manager
			if view.Changes, err = c.changesOf(d.Ref.GroupResource(), d.Before.Body, d.After.Body); err != nil {
				return fmt.Errorf("compare %s: %w", d.Ref, err)
			}
		}
		r.Differences = append(r.Differences, view)
	}
	if err := c.show(r, func(p *printer) {
		for _, d := range r.Differences {
			d.print(p)
		}
		p.printf(bold, "%s between %s and %s\n", counted(len(r.Differences), "object differs", "objects differ"), r.From, r.To)
	}); err != nil {
		return err
	}
	if exitCode && len(r.Differences) > 0 {
		return c.no("%s", counted(len(r.Differences), "object differs", "objects differ"))
	}
	return nil
}

func (v momentView) print(p *printer) {
	s, sign := yellow, "~"
	switch v.Action {
	case "create":
		s, sign = green, "+"
	case "delete":
		s, sign = red, "-"
	}
	by := ""
	if v.Manager != "" {
		by = " by " + v.Manager
	}
	p.printf(s, "%s %s%s\n", sign, v.Object, by)
	printChanges(p, v.Changes)
}
