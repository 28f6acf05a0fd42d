package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// replayCommand is "drsync replay".
func (c *cli) replayCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "replay", Short: "Look at Replays"}
	group(cmd)
	cmd.AddCommand(c.replayResultsCommand())
	return cmd
}

// replayResultsCommand is "drsync replay results".
func (c *cli) replayResultsCommand() *cobra.Command {
	var namespace, destination string
	var failed bool
	cmd := &cobra.Command{
		Use:   "results NAME",
		Short: "Show what a Replay did with each object, or would do",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			results, err := c.results(cmd.Context(), namespace, args[0], destination)
			if err != nil {
				return err
			}
			if failed {
				results = slices.DeleteFunc(results, func(r pipeline.ObjectResult) bool { return !r.Failed() })
			}
			return c.show(results, func(p *printer) { printResults(p, results) })
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&namespace, "namespace", "n", "default", "namespace of the Replay")
	fs.StringVar(&destination, "destination", "default", "name of the cluster in the log, as the applier was given it")
	fs.BoolVar(&failed, "failed", false, "show only what failed")
	c.clusterFlags(cmd)
	c.logFlags(cmd)
	return cmd
}

// results reads those of a Replay, the last one of each object, sorted.
func (c *cli) results(ctx context.Context, namespace, name, destination string) ([]pipeline.ObjectResult, error) {
	client, err := c.cluster(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	kind, err := client.Kind(ctx, pipeline.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "replays"})
	if err != nil {
		return nil, err
	}
	o, err := client.Get(ctx, kind, namespace, name)
	if kube.IsNotFound(err) {
		return nil, app.Usage(fmt.Errorf("there is no Replay %q in namespace %q: give its namespace with -n", name, namespace))
	}
	if err != nil {
		return nil, err
	}
	conn, err := c.connectLog(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // everything is read
	log, err := conn.Results(ctx, destination, natslog.DefaultResultOptions())
	if err != nil {
		return nil, err
	}
	last := map[pipeline.Ref]pipeline.ObjectResult{}
	for r, err := range log.List(ctx, o.UID) {
		if err != nil {
			return nil, err
		}
		last[r.Ref] = r
	}
	results := make([]pipeline.ObjectResult, 0, len(last))
	for _, r := range last {
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b pipeline.ObjectResult) int { return a.Ref.Compare(b.Ref) })
	return results, nil
}

// printResults writes results for people, with what would change below each.
func printResults(p *printer, results []pipeline.ObjectResult) {
	if len(results) == 0 {
		p.printf(plain, "No results.\n")
		return
	}
	rows := make([][]string, 0, len(results))
	for _, r := range results {
		result, reason := string(r.Result), ""
		if r.Failed() {
			result, reason = "failed", r.Class.String()+": "+r.Message
		}
		rows = append(rows, []string{result, r.Ref.GroupResource().String(), r.Ref.Namespace, r.Ref.Name, oneLine(reason)})
	}
	p.tableWith([]string{"RESULT", "KIND", "NAMESPACE", "NAME", "REASON"}, rows, func(row int) {
		for _, change := range results[row].Diff {
			p.printf(yellow, "    %s\n", oneLine(change))
		}
	})
}

// oneLine keeps a text from breaking lines and columns.
func oneLine(text string) string { return strings.NewReplacer("\n", " ", "\t", " ").Replace(text) }
