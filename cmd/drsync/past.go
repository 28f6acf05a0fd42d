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

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/replay"
)

// pastOf opens the past of a site.
func pastOf(conn *natslog.Conn, site string) *replay.Past {
	return &replay.Past{
		Site: site, History: conn.History(site), Archive: conn.Archive(site),
		Snapshots: conn.Snapshots(site, natslog.DefaultSnapshotOptions()),
	}
}

// siteFlag gives a command the flag that says whose history.
func (c *cli) siteFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.site, "site", c.site, "the source whose history is meant; needed if the log has more than one")
}

// withPast connects to the log and has f read the past of the site that is meant.
func (c *cli) withPast(ctx context.Context, f func(*replay.Past) error) (err error) {
	conn, err := c.connectLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	site := c.site
	if site == "" {
		sites, err := conn.Sites(ctx)
		if err != nil {
			return fmt.Errorf("%w (or give --site)", err)
		}
		if len(sites) != 1 {
			return app.Usage(fmt.Errorf("--site is missing: the log has the histories of %d sites: %s", len(sites), strings.Join(sites, ", ")))
		}
		site = sites[0]
	}
	return f(pastOf(conn, site))
}

// locate resolves what a user says of a moment: a time, an age, a position or the
// name of a snapshot; nothing, or "now", is the present.
func locate(ctx context.Context, past *replay.Past, text string) (pipeline.Moment, error) {
	if text == "" || text == "now" {
		r, err := past.Reach(ctx)
		return r.Newest, err
	}
	if epoch, seq, ok := strings.Cut(text, "/"); ok {
		n, err := strconv.ParseUint(seq, 10, 64)
		if err != nil || epoch == "" {
			return pipeline.Moment{}, app.Usage(fmt.Errorf("%q is not a position of the form EPOCH/SEQUENCE", text))
		}
		return pipeline.Moment{Position: pipeline.Position{Epoch: epoch, Seq: n}}, nil
	}
	t, err := parseMoment(text, time.Now())
	if err == nil {
		return past.Locate(ctx, t)
	}
	m, findErr := past.Find(ctx, text)
	if errors.Is(findErr, pipeline.ErrNoSnapshot) {
		return pipeline.Moment{}, app.Usage(fmt.Errorf("%w, nor a position, nor the name of a snapshot", err))
	}
	return m.Moment, findErr
}

// wantedObject names one object the way users do.
type wantedObject struct{ kind, namespace, name string }

// matches reports whether a record is of the kind that the user means: the resource,
// with its group before or behind it, or the kind.
func (o wantedObject) matches(r pipeline.Record) bool {
	if r.Ref.Name != o.name || r.Ref.Namespace != o.namespace {
		return false
	}
	names := []string{r.Ref.Resource, r.Ref.GroupResource().String(), r.Ref.Resource + "." + r.Ref.Group, r.Kind}
	return slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, o.kind) })
}

// find looks for the object in a state, tombstones included.
func (o wantedObject) find(ctx context.Context, past *replay.Past, at pipeline.Position) (pipeline.Record, error) {
	var found []pipeline.Record
	for rec, err := range past.State(ctx, at, pipeline.Query{}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
		case err != nil:
			return pipeline.Record{}, err
		case o.matches(rec):
			found = append(found, rec)
		}
	}
	switch len(found) {
	case 0:
		where := ""
		if o.namespace != "" {
			where = " in namespace " + o.namespace
		}
		return pipeline.Record{}, fmt.Errorf("site %q had no %s %q%s at %s", past.Site, o.kind, o.name, where, at)
	case 1:
		return found[0], nil
	}
	var kinds []string
	for _, rec := range found {
		kinds = append(kinds, rec.Ref.GroupResource().String())
	}
	return pipeline.Record{}, app.Usage(fmt.Errorf("%q may be any of %s: name one of them", o.kind, strings.Join(kinds, ", ")))
}

// changesOf are the differences between two versions of an object, masked.
func (c *cli) changesOf(kind pipeline.GroupResource, before, after []byte) ([]changeView, error) {
	empty := []byte("{}")
	if before == nil {
		before = empty
	}
	if after == nil {
		after = empty
	}
	changes, err := objectChanges(before, after)
	if err != nil {
		return nil, err
	}
	m := &mask{off: c.showSecrets}
	return changeViews(m.changes(kind, changes)), nil
}
