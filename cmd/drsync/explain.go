package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// explainOptions are the flags of `transform explain`.
type explainOptions struct {
	rules   ruleSource
	files   []string
	kind    string
	matched bool
	env     transform.Env
}

func (c *cli) explainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain -f OBJECT... -r RULES...",
		Short: "Tell what rules do to an object, one by one",
		Long: `Explain runs rules over objects and tells which of them matched, in what order,
what each changed, and why the others are not for the object. It works without a
cluster when objects and rules are in files.

What Secrets hold is masked, and so are params that come from Secrets. The exit
code is 3 if a rule does not compile or fails on an object.`,
		Example: "  drsync transform explain -f deployment.yaml -r rules.yaml\n" +
			"  kubectl get ingress -A -o yaml | drsync transform explain -f - --standby\n" +
			"  drsync transform explain -f service.yaml --configmap dr-syncer/rules",
		Args: app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.explain(cmd.Context(), o) },
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&o.files, "filename", "f", nil, "file with objects, YAML or JSON, - for standard input; may be repeated (required)")
	fs.StringVar(&o.kind, "kind", "", "the objects' kind as group/resource, where its plural is not a regular one")
	fs.BoolVar(&o.matched, "matched", false, "leave out the rules that are not for the object")
	fs.StringVar(&o.env.SourceSite, "site", "source", "$source.site; that of --replication if given")
	fs.StringVar(&o.env.DestinationSite, "destination", "destination", "$destination.site")
	o.rules.flags(cmd)
	c.clusterFlags(cmd)
	c.secretsFlag(cmd)
	return cmd
}

// explained is what `transform explain` tells of one object.
type explained struct {
	Object string     `json:"object"`
	Steps  []stepView `json:"steps"`
	// Result is "unchanged", "changed", "objects", "dropped", "skipped" or "failed".
	Result string `json:"result"`
	Error  string `json:"error,omitempty"`
	// Objects are what comes out, where they are several or the name is another.
	Objects []string `json:"objects,omitempty"`
}

// stepView is one rule's part.
type stepView struct {
	ConfigMap string `json:"configMap,omitempty"`
	Key       string `json:"key,omitempty"`
	Rule      string `json:"rule"`
	// NotFor says why the rule did not run.
	NotFor string `json:"notFor,omitempty"`
	// Outputs are the changes of each result; a rule that ran without any dropped the object.
	Outputs [][]changeView `json:"outputs,omitempty"`
	Error   string         `json:"error,omitempty"`

	id transform.ID
}

func (c *cli) explain(ctx context.Context, o explainOptions) error {
	if len(o.files) == 0 {
		return app.Usage(errors.New("--filename is missing: give the file of an object"))
	}
	book, err := c.readRules(ctx, o.rules)
	if err != nil {
		return err
	}
	objects, err := c.readObjects(o.files, o.kind)
	if err != nil {
		return app.Usage(err)
	}
	if len(book.documents)+len(book.builtIn) == 0 {
		return app.Usage(errors.New("there are no rules: give --rules, --configmap, --replication or --standby"))
	}
	set, err := book.compile(o.rules.stage)
	if err != nil {
		return c.problems(err)
	}
	env := book.env(o.env)
	views, failed := []explained{}, 0
	for _, object := range objects {
		x, err := transform.Explain(ctx, set, env, object)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v := view(object, x, book.mask, o.matched)
		if v.Error != "" {
			failed++
		}
		views = append(views, v)
	}
	if err := c.show(views, func(p *printer) {
		for i := range views {
			views[i].print(p)
		}
	}); err != nil {
		return err
	}
	if failed > 0 {
		return c.no("rules fail on %d of %d objects", failed, len(views))
	}
	return nil
}

// readObjects reads the objects of files.
func (c *cli) readObjects(files []string, kind string) ([]transform.Object, error) {
	var objects []transform.Object
	for _, file := range files {
		text, err := c.readFile(file)
		if err != nil {
			return nil, err
		}
		more, err := transform.ReadObjects(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, more...)
	}
	if len(objects) == 0 {
		return nil, errors.New("there is no object in these files")
	}
	if kind == "" {
		return objects, nil
	}
	for i := range objects {
		objects[i].Kind = parseKind(kind)
	}
	return objects, nil
}

// parseKind reads "resource" or "group/resource".
func parseKind(kind string) pipeline.GroupResource {
	if group, resource, ok := strings.Cut(kind, "/"); ok {
		return pipeline.GroupResource{Group: group, Resource: resource}
	}
	return pipeline.GroupResource{Resource: kind}
}

// view makes an explanation ready to be shown.
func view(o transform.Object, x transform.Explanation, m *mask, matched bool) explained {
	from := transform.TargetOf(o)
	e := explained{Object: from.String(), Steps: []stepView{}}
	for _, s := range x.Steps {
		if matched && s.Skipped != "" {
			continue
		}
		v := stepView{ConfigMap: s.Rule.Origin.ConfigMap, Key: s.Rule.Origin.Key, Rule: s.Rule.Name, NotFor: m.text(s.Skipped), id: s.Rule}
		if s.Err != nil {
			v.Error = m.text(s.Err.Error())
		}
		for _, changes := range s.Outputs {
			v.Outputs = append(v.Outputs, changeViews(m.changes(o.Kind, changes)))
		}
		e.Steps = append(e.Steps, v)
	}
	switch {
	case x.Err != nil:
		e.Result, e.Error = "failed", m.text(x.Err.Error())
	case x.Result.Skipped:
		e.Result = "skipped"
	case x.Result.Dropped():
		e.Result = "dropped"
	case len(x.Result.Objects) == 1 && string(x.Result.Objects[0].Body) == string(o.Body):
		e.Result = "unchanged"
	default:
		e.Result = "changed"
		for _, out := range x.Result.Objects {
			if to := transform.TargetOf(out); to != from || len(x.Result.Objects) > 1 {
				e.Result = "objects"
				e.Objects = append(e.Objects, to.String())
			}
		}
	}
	return e
}

func (e *explained) print(p *printer) {
	p.printf(bold, "%s", e.Object)
	switch e.Result {
	case "failed":
		p.printf(red, ": failed\n")
	case "objects":
		p.printf(yellow, ": becomes %s\n", strings.Join(e.Objects, ", "))
	default:
		p.printf(plain, ": %s\n", e.Result)
	}
	for i := range e.Steps {
		e.Steps[i].print(p)
	}
}

func (s *stepView) print(p *printer) {
	switch {
	case s.NotFor != "":
		p.printf(dim, "  %s: not for it: %s\n", s.id, s.NotFor)
		return
	case s.Error != "":
		p.printf(plain, "  %s: ", s.id)
		p.printf(red, "%s\n", s.Error)
		return
	case len(s.Outputs) == 0:
		p.printf(plain, "  %s: ", s.id)
		p.printf(red, "drops it\n")
		return
	case len(s.Outputs) == 1 && len(s.Outputs[0]) == 0:
		p.printf(plain, "  %s: changes nothing\n", s.id)
		return
	}
	p.printf(plain, "  %s:\n", s.id)
	for i, changes := range s.Outputs {
		if len(s.Outputs) > 1 {
			p.printf(plain, "    object %d:\n", i+1)
		}
		printChanges(p, changes)
	}
}
