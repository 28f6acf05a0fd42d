package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// parkedOptions say which dead letters are meant.
type parkedOptions struct {
	destination string
	replication string
}

func (c *cli) parkedCommand() *cobra.Command {
	o := parkedOptions{destination: "default"}
	cmd := &cobra.Command{Use: "parked", Short: "Look after what could not be applied"}
	group(cmd)
	list := &cobra.Command{
		Use:   "list",
		Short: "List the parked objects",
		Args:  app.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.listParked(cmd.Context(), o) },
	}
	show := &cobra.Command{
		Use:     "show KIND [NAMESPACE/]NAME",
		Short:   "Tell why an object is parked",
		Example: "  drsync parked show apps/deployments shop/web --nats-url nats://localhost:4222",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.showParked(cmd.Context(), o, args[0], args[1])
		},
	}
	drop := &cobra.Command{
		Use:   "drop KIND [NAMESPACE/]NAME",
		Short: "Take the dead letter of an object out",
		Long: `Drop takes the dead letter of an object out of the log. The object is not applied by
that: it is tried again when it changes, or when its Replication begins a new run, and
parked again if it fails again. Until then status may still count it.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.dropParked(cmd.Context(), o, args[0], args[1])
		},
	}
	for _, sub := range []*cobra.Command{list, show, drop} {
		sub.Flags().StringVar(&o.destination, "destination", o.destination, "the destination, as its applier was given with --destination")
		sub.Flags().StringVar(&o.replication, "replication", o.replication, "only what this Replication has parked, NAMESPACE/NAME")
		c.logFlags(sub)
	}
	retry := &cobra.Command{
		Use:   "retry NAMESPACE/NAME",
		Short: "Have a Replication go over everything again, what it has parked too",
		Long: `Retry sets the annotation dr-syncer.io/sync-now of the Replication, so that it goes
over the whole present state of the source again. What is equal already is not written.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return c.retryParked(cmd.Context(), args[0]) },
	}
	c.clusterFlags(retry)
	cmd.AddCommand(list, show, retry, drop)
	return cmd
}

// letterView is what is told of a dead letter.
type letterView struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Site      string `json:"site"`
	pipeline.DeadLetter
}

// letters reads dead letters and hands them to use while the log is connected.
func (c *cli) letters(ctx context.Context, o parkedOptions, use func(*natslog.DeadLetters, []pipeline.DeadLetter) error) (err error) {
	conn, err := c.connectLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	letters, err := conn.FindDeadLetters(ctx, o.destination)
	if errors.Is(err, natslog.ErrNoDeadLetters) {
		return app.Usage(fmt.Errorf("%w: check --destination", err))
	}
	if err != nil {
		return err
	}
	all := []pipeline.DeadLetter{}
	for l, err := range letters.List(ctx, o.replication) {
		if err != nil {
			return err
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b pipeline.DeadLetter) int {
		if n := strings.Compare(a.Owner, b.Owner); n != 0 {
			return n
		}
		return a.Ref.Compare(b.Ref)
	})
	return use(letters, all)
}

func viewLetter(l pipeline.DeadLetter) letterView {
	return letterView{Kind: l.Ref.GroupResource().String(), Namespace: l.Ref.Namespace, Name: l.Ref.Name, Site: l.Ref.Site, DeadLetter: l}
}

func objectName(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func (c *cli) listParked(ctx context.Context, o parkedOptions) error {
	return c.letters(ctx, o, func(_ *natslog.DeadLetters, all []pipeline.DeadLetter) error {
		views := make([]letterView, len(all))
		for i, l := range all {
			views[i] = viewLetter(l)
		}
		return c.show(views, func(p *printer) {
			if len(views) == 0 {
				p.printf(plain, "Nothing is parked.\n")
				return
			}
			var rows [][]string
			for _, v := range views {
				message, _, _ := strings.Cut(v.Message, "\n")
				rows = append(rows, []string{v.Owner, v.Kind, objectName(v.Namespace, v.Name), v.Class.String(), strconv.Itoa(v.Attempts), v.Last.UTC().Format(time.RFC3339), message})
			}
			p.table([]string{"REPLICATION", "KIND", "OBJECT", "REASON", "ATTEMPTS", "LAST", "MESSAGE"}, rows)
		})
	})
}

// meant are the letters of one object.
func meant(all []pipeline.DeadLetter, kind, name string) []pipeline.DeadLetter {
	return slices.DeleteFunc(slices.Clone(all), func(l pipeline.DeadLetter) bool {
		return l.Ref.GroupResource() != parseKind(kind) || objectName(l.Ref.Namespace, l.Ref.Name) != name
	})
}

func (c *cli) showParked(ctx context.Context, o parkedOptions, kind, name string) error {
	return c.letters(ctx, o, func(_ *natslog.DeadLetters, all []pipeline.DeadLetter) error {
		found := meant(all, kind, name)
		if len(found) == 0 {
			return c.no("%s %s is not parked", kind, name)
		}
		views := make([]letterView, len(found))
		for i, l := range found {
			views[i] = viewLetter(l)
		}
		return c.show(views, func(p *printer) {
			for _, v := range views {
				p.printf(bold, "%s %s of site %s\n", v.Kind, objectName(v.Namespace, v.Name), v.Site)
				for _, line := range [][2]string{
					{"Replication", v.Owner},
					{"Operation", v.Op.String()},
					{"Position", v.Position.String()},
					{"Reason", v.Class.String()},
					{"Attempts", fmt.Sprintf("%d, from %s to %s", v.Attempts, v.First.UTC().Format(time.RFC3339), v.Last.UTC().Format(time.RFC3339))},
					{"Trace", v.TraceParent},
					{"Message", strings.ReplaceAll(v.Message, "\n", "\n               ")},
				} {
					if line[1] != "" {
						p.printf(plain, "  %-12s %s\n", line[0]+":", line[1])
					}
				}
			}
		})
	})
}

func (c *cli) dropParked(ctx context.Context, o parkedOptions, kind, name string) error {
	return c.letters(ctx, o, func(letters *natslog.DeadLetters, all []pipeline.DeadLetter) error {
		found := meant(all, kind, name)
		if len(found) == 0 {
			return c.no("%s %s is not parked", kind, name)
		}
		views := []letterView{}
		for _, l := range found {
			if err := letters.Remove(ctx, l.Owner, l.Ref); err != nil {
				return err
			}
			views = append(views, viewLetter(l))
		}
		return c.show(views, func(p *printer) {
			for _, v := range views {
				p.printf(plain, "%s %s: dropped from what %s has parked\n", v.Kind, objectName(v.Namespace, v.Name), v.Owner)
			}
		})
	})
}

func (c *cli) retryParked(ctx context.Context, name string) error {
	client, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	namespace, base, err := splitName(name)
	if err != nil {
		return err
	}
	kind, err := client.Kind(ctx, replications)
	if err != nil {
		return err
	}
	o, err := client.Get(ctx, kind, namespace, base)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	if err := annotate(ctx, client, kind, o, v1alpha1.AnnotationSyncNow, now); err != nil {
		return err
	}
	return c.show(map[string]string{"replication": name, "syncNow": now}, func(p *printer) {
		p.printf(plain, "%s goes over everything again\n", name)
	})
}
