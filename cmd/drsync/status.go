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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

func (c *cli) statusCommand() *cobra.Command {
	namespace := ""
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what is protected, how fresh it is, and what is wrong",
		Long: `Status tells of every Replication in the cluster how many objects are in step, how
far behind they are, and what is wrong, with the cure. The exit code is 3 if anything is.`,
		Args: app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.status(cmd.Context(), namespace) },
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", namespace, "only the Replications of this namespace; all if not given")
	c.clusterFlags(cmd)
	return cmd
}

// replicationView is what `status` tells of a Replication.
type replicationView struct {
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	Source    string          `json:"source"`
	Phase     v1alpha1.Phase  `json:"phase,omitempty"`
	Counts    v1alpha1.Counts `json:"counts"`
	Lag       *v1alpha1.Lag   `json:"lag,omitempty"`
	// Wrong are the conditions that are not as they should be.
	Wrong     []conditionView     `json:"wrong,omitempty"`
	LastError *v1alpha1.LastError `json:"lastError,omitempty"`
}

type conditionView struct {
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// badWhen is the status in which a condition tells of something wrong.
var badWhen = map[string]metav1.ConditionStatus{
	v1alpha1.ConditionReady:           metav1.ConditionFalse,
	v1alpha1.ConditionSourceAvailable: metav1.ConditionFalse,
	v1alpha1.ConditionTransformsReady: metav1.ConditionFalse,
	v1alpha1.ConditionDegraded:        metav1.ConditionTrue,
	v1alpha1.ConditionDeletionsHeld:   metav1.ConditionTrue,
}

func (c *cli) status(ctx context.Context, namespace string) error {
	client, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	objects, err := listObjects(ctx, client, replications, namespace)
	if err != nil {
		return err
	}
	views, wrong := []replicationView{}, 0
	for _, o := range objects {
		var r v1alpha1.Replication
		if err := json.Unmarshal(o.Raw, &r); err != nil {
			return fmt.Errorf("read replication %s/%s: %w", o.Namespace, o.Name, err)
		}
		v := viewOf(&r)
		if len(v.Wrong) > 0 {
			wrong++
		}
		views = append(views, v)
	}
	if err := c.show(views, func(p *printer) { printStatus(p, views) }); err != nil {
		return err
	}
	if wrong > 0 {
		return c.no("%d of %d Replications need attention", wrong, len(views))
	}
	return nil
}

func viewOf(r *v1alpha1.Replication) replicationView {
	v := replicationView{
		Namespace: r.Namespace, Name: r.Name, Source: r.Spec.Source.Site, Phase: r.Status.Phase,
		Counts: r.Status.Counts, Lag: r.Status.Lag, LastError: r.Status.LastError,
	}
	for _, c := range r.Status.Conditions {
		if bad, known := badWhen[c.Type]; known && c.Status == bad {
			v.Wrong = append(v.Wrong, conditionView{c.Type, c.Reason, c.Message})
		}
	}
	if len(r.Status.Conditions) == 0 {
		v.Wrong = append(v.Wrong, conditionView{v1alpha1.ConditionReady, "Unknown", "no applier has taken it up: is one running in this cluster?"})
	}
	return v
}

func printStatus(p *printer, views []replicationView) {
	if len(views) == 0 {
		p.printf(plain, "There are no Replications.\n")
		return
	}
	var rows [][]string
	for _, v := range views {
		lag := "-"
		if v.Lag != nil {
			lag = (time.Duration(v.Lag.Seconds) * time.Second).String()
		}
		count := func(n int64) string { return strconv.FormatInt(n, 10) }
		rows = append(rows, []string{
			v.Namespace + "/" + v.Name, v.Source, string(v.Phase), count(v.Counts.Synced), count(v.Counts.Pending),
			count(v.Counts.Failed), count(v.Counts.Parked), lag,
		})
	}
	p.table([]string{"REPLICATION", "SOURCE", "PHASE", "SYNCED", "PENDING", "FAILED", "PARKED", "LAG"}, rows)
	for _, v := range views {
		for _, w := range v.Wrong {
			p.printf(red, "\n%s/%s: %s, %s\n", v.Namespace, v.Name, w.Type, w.Reason)
			p.printf(plain, "    %s\n", strings.ReplaceAll(w.Message, "\n", "\n    "))
		}
	}
}

// listObjects lists our custom resources of a kind and a namespace, or of all for "", by name.
func listObjects(ctx context.Context, client *kube.Client, gr pipeline.GroupResource, namespace string) ([]kube.Object, error) {
	kind, err := client.Kind(ctx, gr)
	if err != nil {
		return nil, fmt.Errorf("%w: is this the destination, with DR-Syncer installed?", err)
	}
	ctx, end := context.WithTimeout(ctx, reachTimeout)
	defer end()
	l := &listing{end: end}
	client.Watch(ctx, kind, kube.WatchOptions{Namespace: namespace, OnError: l.failed}, l)
	switch {
	case l.listed:
		slices.SortFunc(l.objects, func(a, b kube.Object) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
		return l.objects, nil
	case l.err != nil:
		return nil, l.err
	}
	return nil, fmt.Errorf("list %s: %w", gr.Resource, context.Cause(ctx))
}

// listing is a kube.Handler that ends its watch with the first list or error.
type listing struct {
	end     context.CancelFunc
	objects []kube.Object
	listed  bool
	err     error
}

// Observe implements kube.Handler.
func (l *listing) Observe(o kube.Object) {
	if !l.listed {
		l.objects = append(l.objects, o)
	}
}

// Delete implements kube.Handler.
func (l *listing) Delete(kube.Object) {}

// Progress implements kube.Handler.
func (l *listing) Progress(string) {}

// Replace implements kube.Handler.
func (l *listing) Replace([]kube.Object, string) { l.listed = true; l.end() }

func (l *listing) failed(err error) {
	if err != nil && !l.listed {
		l.err = err
		l.end()
	}
}
