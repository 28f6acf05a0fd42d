package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// replays are the kind.
var replays = pipeline.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "replays"}

func (c *cli) deletionsCommand() *cobra.Command {
	namespace := ""
	cmd := &cobra.Command{
		Use:   "deletions",
		Short: "Decide about deletions that are held back",
		Long: `Deletions that are too many at once are held back until somebody decides, and so are those
that only a reset or an empty list of the source tells of. Approved, they are made;
discarded, the copies stay. A decision is about what is held when it is carried out, not
about later deletions.`,
	}
	group(cmd)
	list := &cobra.Command{
		Use:   "list",
		Short: "List the Replications and Replays that hold deletions back; the exit code is 3 if any does",
		Args:  app.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.listDeletions(cmd.Context(), namespace) },
	}
	list.Flags().StringVarP(&namespace, "namespace", "n", namespace, "only those of this namespace; all if not given")
	c.clusterFlags(list)
	cmd.AddCommand(list,
		c.deletionsDecision("approve", "Have the deletions made that are held back", v1alpha1.AnnotationApproveDeletions),
		c.deletionsDecision("discard", "Keep the copies whose deletion is held back", v1alpha1.AnnotationDiscardDeletions))
	return cmd
}

func (c *cli) deletionsDecision(use, short, annotation string) *cobra.Command {
	replay := false
	cmd := &cobra.Command{
		Use: use + " NAMESPACE/NAME", Short: short, Args: args(cobra.ExactArgs(1)),
		Long: fmt.Sprintf(`%s.

It sets the annotation %s to a value that it did not have.`, short, annotation),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := replications
			if replay {
				kind = replays
			}
			return c.decideDeletions(cmd.Context(), kind, args[0], use, annotation)
		},
	}
	cmd.Flags().BoolVar(&replay, "replay", replay, "the name is that of a Replay")
	c.clusterFlags(cmd)
	return cmd
}

// heldView is what `deletions list` tells.
type heldView struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Held      int64  `json:"held"`
	// AfterReset and Emptied are how many of them are held because the source was reset, or lists nothing of their kind or namespace.
	AfterReset int64                `json:"afterReset,omitempty"`
	Emptied    int64                `json:"emptied,omitempty"`
	Scopes     []v1alpha1.HeldScope `json:"scopes,omitempty"`
}

// why says for people what the deletions are held for.
func (v heldView) why() string {
	var all []string
	for _, cause := range []struct {
		n    int64
		text string
	}{
		{v.Held - v.AfterReset - v.Emptied, "too many at once"},
		{v.AfterReset, "the source was reset"},
		{v.Emptied, "the source lists nothing of the kind or namespace"},
	} {
		switch {
		case cause.n == v.Held:
			return cause.text
		case cause.n > 0:
			all = append(all, fmt.Sprintf("%s (%d)", cause.text, cause.n))
		}
	}
	return strings.Join(all, ", ")
}

// holder is what Replications and Replays have in common.
type holder struct {
	Status struct {
		Deletions *v1alpha1.DeletionsStatus `json:"deletions"`
	} `json:"status"`
}

func (c *cli) listDeletions(ctx context.Context, namespace string) error {
	client, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	views := []heldView{}
	for _, gr := range []pipeline.GroupResource{replications, replays} {
		objects, err := listObjects(ctx, client, gr, namespace)
		if err != nil {
			return err
		}
		for _, o := range objects {
			v, err := viewHeld(gr, o)
			if err != nil {
				return err
			}
			if v.Held > 0 {
				views = append(views, v)
			}
		}
	}
	if err := c.show(views, func(p *printer) { printHeld(p, views) }); err != nil {
		return err
	}
	if len(views) > 0 {
		return c.no("deletions are held back by %d: approve or discard them", len(views))
	}
	return nil
}

func viewHeld(gr pipeline.GroupResource, o kube.Object) (heldView, error) {
	v := heldView{Kind: "Replication", Namespace: o.Namespace, Name: o.Name}
	var h holder
	if err := json.Unmarshal(o.Raw, &h); err != nil {
		return v, fmt.Errorf("read %s %s/%s: %w", gr, o.Namespace, o.Name, err)
	}
	if gr == replays {
		v.Kind = "Replay"
	}
	if d := h.Status.Deletions; d != nil {
		v.Held, v.AfterReset, v.Emptied, v.Scopes = d.Held, d.AfterReset, d.Emptied, d.Scopes
	}
	return v, nil
}

func printHeld(p *printer, views []heldView) {
	if len(views) == 0 {
		p.printf(plain, "No deletions are held back.\n")
		return
	}
	var rows [][]string
	for _, v := range views {
		var where []string
		for _, s := range v.Scopes {
			what := s.Kind
			if what == "" {
				what = "namespace " + s.Namespace
			}
			where = append(where, fmt.Sprintf("%s (%d)", what, s.Held))
		}
		rows = append(rows, []string{v.Kind, v.Namespace + "/" + v.Name, strconv.FormatInt(v.Held, 10), strings.Join(where, ", "), v.why()})
	}
	p.table([]string{"KIND", "NAME", "HELD", "WHERE", "WHY"}, rows)
}

// decideDeletions sets the annotation of a decision.
func (c *cli) decideDeletions(ctx context.Context, gr pipeline.GroupResource, full, decision, annotation string) error {
	namespace, name, err := splitName(full)
	if err != nil {
		return err
	}
	client, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	kind, err := client.Kind(ctx, gr)
	if err != nil {
		return fmt.Errorf("%w: is this the destination, with DR-Syncer installed?", err)
	}
	o, err := client.Get(ctx, kind, namespace, name)
	if err != nil {
		return err
	}
	v, err := viewHeld(gr, o)
	if err != nil {
		return err
	}
	if v.Held == 0 {
		return c.no("%s %s holds no deletions back", strings.ToLower(v.Kind), full)
	}
	if err := annotate(ctx, client, kind, o, annotation, time.Now().UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	return c.show(map[string]any{"kind": v.Kind, "name": full, "decision": decision, "held": v.Held}, func(p *printer) {
		what := counted(v.Held, "deletion is made", "deletions are made")
		if annotation == v1alpha1.AnnotationDiscardDeletions {
			what = counted(v.Held, "deletion is not made, the copy stays", "deletions are not made, the copies stay")
		}
		p.printf(plain, "%s: %s\n", full, what)
	})
}

// annotations are those that drsync sets. It applies all that it has set, or the server would take
// those away that it leaves out.
var annotations = []string{v1alpha1.AnnotationSyncNow, v1alpha1.AnnotationApproveDeletions, v1alpha1.AnnotationDiscardDeletions}

// annotate sets one annotation of a custom resource, and nothing else.
func annotate(ctx context.Context, client *kube.Client, kind kube.Kind, o kube.Object, annotation, value string) error {
	m, err := kube.MetaOf(o)
	if err != nil {
		return err
	}
	set := map[string]string{}
	for name, v := range m.Annotations {
		if slices.Contains(annotations, name) {
			set[name] = v
		}
	}
	set[annotation] = value
	body, err := json.Marshal(map[string]any{
		"apiVersion": kind.APIVersion(), "kind": kind.Kind,
		"metadata": map[string]any{"namespace": o.Namespace, "name": o.Name, "uid": m.UID, "annotations": set},
	})
	if err != nil {
		return fmt.Errorf("set %s: %w", annotation, err)
	}
	_, _, err = client.Apply(ctx, kind, o.Namespace, o.Name, body)
	return err
}
