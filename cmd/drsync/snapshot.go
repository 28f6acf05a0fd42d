package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
)

func (c *cli) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snapshots"},
		Short:   "Make, list, verify, export, import and delete snapshots of a source",
		Long: `A snapshot is the state of a source at one position of its history: one compressed
file that needs nothing else. Snapshots are made by schedule (see the applier's
--snapshot-every) and by hand; those made by hand and imported ones stay until they
are deleted by hand.`,
	}
	group(cmd)
	cmd.AddCommand(
		c.snapshotCreate(),
		c.overSnapshots("list", "List the snapshots of a source, and how far back it can be read", cobra.NoArgs,
			func(ctx context.Context, past *replay.Past, _ []string) error { return c.listSnapshots(ctx, past) }),
		c.overSnapshots("verify [NAME...]", "Read snapshots back and compare them with what was written; all if none is named", cobra.ArbitraryArgs, c.verifySnapshots),
		c.overSnapshots("export NAME FILE", "Write a snapshot into a file, to be kept anywhere", cobra.ExactArgs(2), c.exportSnapshot),
		c.overSnapshots("import FILE", "Take up a snapshot from a file: its source may be long gone", cobra.ExactArgs(1), c.importSnapshot),
		c.overSnapshots("delete NAME...", "Delete snapshots, whatever needs them", cobra.MinimumNArgs(1), c.deleteSnapshots),
	)
	return cmd
}

// overSnapshots makes a command that works on the snapshots of a site.
func (c *cli) overSnapshots(use, short string, check cobra.PositionalArgs, run func(context.Context, *replay.Past, []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args(check),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withPast(cmd.Context(), func(past *replay.Past) error { return run(cmd.Context(), past, args) })
		},
	}
	c.siteFlag(cmd)
	c.logFlags(cmd)
	return cmd
}

func (c *cli) snapshotCreate() *cobra.Command {
	at := ""
	cmd := c.overSnapshots("create", "Make a snapshot of a source, now or as of a moment in the past", cobra.NoArgs,
		func(ctx context.Context, past *replay.Past, _ []string) error { return c.createSnapshot(ctx, past, at) })
	cmd.Flags().StringVar(&at, "at", "", "the moment in the past: a time, an age such as 90m, or a position EPOCH/SEQUENCE; now if not given")
	return cmd
}

func (c *cli) createSnapshot(ctx context.Context, past *replay.Past, at string) error {
	var m pipeline.Manifest
	var err error
	if at == "" {
		m, err = past.Snapshot(ctx)
	} else {
		var moment pipeline.Moment
		if moment, err = locate(ctx, past, at); err == nil {
			m, err = past.SnapshotAt(ctx, moment)
		}
	}
	if err == nil {
		m, err = past.Keep(ctx, m.Name)
	}
	if err != nil {
		return err
	}
	return c.show(m, func(p *printer) {
		p.printf(plain, "snapshot %s of site %s: %s as of %s\n", m.Name, m.Site, counted(m.Total(), "object", "objects"), m.Moment)
	})
}

// snapshotList is what `snapshot list` tells.
type snapshotList struct {
	Site string `json:"site"`
	// Oldest is the first of the moments of which every one can be read.
	Oldest    pipeline.Moment     `json:"oldest"`
	Newest    pipeline.Moment     `json:"newest"`
	Snapshots []pipeline.Manifest `json:"snapshots"`
}

func (c *cli) listSnapshots(ctx context.Context, past *replay.Past) error {
	r, err := past.Reach(ctx)
	if err != nil {
		return err
	}
	list := snapshotList{Site: past.Site, Oldest: r.Oldest, Newest: r.Newest, Snapshots: r.Snapshots}
	return c.show(list, func(p *printer) {
		var rows [][]string
		for _, m := range r.Snapshots {
			kept := ""
			if m.Kept {
				kept = "yes"
			}
			rows = append(rows, []string{
				m.Name, m.Time.UTC().Format(time.RFC3339), m.Position.String(),
				strconv.Itoa(m.Total()), strconv.FormatInt(m.Size>>10, 10) + " KiB", kept,
			})
		}
		if rows != nil {
			p.table([]string{"NAME", "TIME", "POSITION", "OBJECTS", "SIZE", "KEPT"}, rows)
		}
		p.printf(dim, "every moment since %s can be read\n", list.Oldest)
	})
}

// verified is what `snapshot verify` tells of one.
type verified struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
}

func (c *cli) verifySnapshots(ctx context.Context, past *replay.Past, names []string) error {
	if len(names) == 0 {
		list, err := past.Snapshots.List(ctx)
		if err != nil {
			return err
		}
		for _, m := range list {
			names = append(names, m.Name)
		}
	}
	results, bad := []verified{}, 0
	for _, name := range names {
		r := verified{Name: name, OK: true}
		if _, err := past.Verify(ctx, name); err != nil {
			if !errors.Is(err, pipeline.ErrDamaged) {
				return err
			}
			r.OK, r.Problem = false, err.Error()
			bad++
		}
		results = append(results, r)
	}
	if err := c.show(results, func(p *printer) {
		for _, r := range results {
			if r.OK {
				p.printf(green, "ok     ")
				p.printf(plain, " %s\n", r.Name)
				continue
			}
			p.printf(red, "DAMAGED")
			p.printf(plain, " %s: %s\n", r.Name, r.Problem)
		}
	}); err != nil {
		return err
	}
	if bad > 0 {
		return c.no("%d of %d snapshots are damaged", bad, len(results))
	}
	return nil
}

// exportSnapshot writes the file beside its place and moves it there when it is whole.
func (c *cli) exportSnapshot(ctx context.Context, past *replay.Past, args []string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(args[1]), ".drsync-*")
	if err != nil {
		return app.Usage(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	m, err := past.Export(ctx, args[0], f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), args[1]); err != nil {
		return fmt.Errorf("write %s: %w", args[1], err)
	}
	return c.show(m, func(p *printer) {
		p.printf(plain, "%s: %s as of %s\n", args[1], counted(m.Total(), "object", "objects"), m.Moment)
	})
}

func (c *cli) importSnapshot(ctx context.Context, past *replay.Past, args []string) (err error) {
	f, err := os.Open(args[0])
	if err != nil {
		return app.Usage(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	m, err := past.Import(ctx, f)
	if err != nil {
		return err
	}
	return c.show(m, func(p *printer) {
		p.printf(plain, "snapshot %s of site %s: %s as of %s\n", m.Name, m.Site, counted(m.Total(), "object", "objects"), m.Moment)
	})
}

func (c *cli) deleteSnapshots(ctx context.Context, past *replay.Past, names []string) error {
	for _, name := range names {
		if _, err := past.Find(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := past.Snapshots.Delete(ctx, name); err != nil {
			return err
		}
	}
	return c.show(names, func(p *printer) {
		for _, name := range names {
			p.printf(plain, "deleted snapshot %s\n", name)
		}
	})
}
