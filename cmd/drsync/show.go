package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/transform"
)

func (c *cli) showCommand() *cobra.Command {
	var o ruleSource
	cmd := &cobra.Command{
		Use:   "show [standby | library | PART | FUNCTION | RULE]",
		Short: "Show the jq of the standby profile, the library and rules",
		Long: `Show prints jq that people can read: the standby profile as a whole or one of its
parts (workloads, services, ...), the library "dr" or one of its functions with all
that it uses, or rules by name, with --rules or --configmap. Without an argument it
lists what there is.`,
		Example: "  drsync transform show standby\n  drsync transform show cronJobs\n  drsync transform show images\n  drsync transform show shop-database -r rules.yaml",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.showRules(cmd.Context(), o, args)
		},
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		lib := readLibrary()
		names := append([]string{"standby", "library"}, lib.parts()...)
		for _, d := range lib.public() {
			names = append(names, d.name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	o.flags(cmd)
	c.clusterFlags(cmd)
	return cmd
}

// shown is what `transform show` tells of one thing.
type shown struct {
	Name  string `json:"name"`
	About string `json:"about,omitempty"`
	JQ    string `json:"jq,omitempty"`
	// Of a rule: where it is from, and whom it is for.
	Origin string           `json:"origin,omitempty"`
	Order  int              `json:"order,omitempty"`
	Stage  transform.Stage  `json:"stage,omitempty"`
	Match  *transform.Match `json:"match,omitempty"`
}

func (c *cli) showRules(ctx context.Context, o ruleSource, args []string) error {
	book, err := c.readRules(ctx, o)
	if err != nil {
		return err
	}
	rules, err := transform.Parse(book.documents...)
	if err != nil {
		return c.problems(err)
	}
	rules = append(slices.Clone(book.builtIn), rules...)
	lib := readLibrary()
	if len(args) == 0 {
		return c.list(lib, rules)
	}
	var found []shown
	for i := range rules {
		if rules[i].Name == args[0] {
			found = append(found, showRule(&rules[i]))
		}
	}
	if jq, about := lib.find(args[0]); jq != "" && len(found) == 0 {
		found = append(found, shown{Name: args[0], About: about, JQ: jq})
	}
	if len(found) == 0 {
		return app.Usage(fmt.Errorf("nothing is called %q: drsync transform show lists what there is; rules need --rules or --configmap", args[0]))
	}
	return c.show(found, func(p *printer) {
		for _, f := range found {
			if f.Origin != "" {
				p.printf(bold, "# %s, rule %q, order %d, stage %s\n", f.Origin, f.Name, f.Order, f.Stage)
				if f.About != "" {
					p.printf(dim, "# %s\n", f.About)
				}
			}
			p.printf(plain, "%s\n", strings.TrimRight(f.JQ, "\n"))
		}
	})
}

func showRule(r *transform.Rule) shown {
	stage := r.Stage
	if stage == "" {
		stage = transform.AtDestination
	}
	var about []string
	for _, m := range []struct {
		what string
		any  []string
	}{{"kinds", r.Match.Kinds}, {"namespaces", r.Match.Namespaces}, {"names", r.Match.Names}} {
		if len(m.any) > 0 {
			about = append(about, m.what+" "+strings.Join(m.any, ", "))
		}
	}
	if r.Match.When != "" {
		about = append(about, "when "+r.Match.When)
	}
	return shown{
		Name: r.Name, JQ: r.JQ, Origin: r.Origin.String(), Order: r.Order, Stage: stage, Match: &r.Match,
		About: strings.Join(about, "; "),
	}
}

// list shows what there is to show.
func (c *cli) list(lib library, rules []transform.Rule) error {
	all := []shown{}
	for i := range rules {
		s := showRule(&rules[i])
		s.JQ, s.Match = "", nil
		all = append(all, s)
	}
	for _, part := range lib.parts() {
		all = append(all, shown{Name: part, About: "part of the standby profile"})
	}
	for _, d := range lib.public() {
		all = append(all, shown{Name: d.name, About: d.about})
	}
	return c.show(all, func(p *printer) {
		var rows [][]string
		for _, s := range all {
			rows = append(rows, []string{s.Name, s.About})
		}
		p.table([]string{"NAME", "ABOUT"}, rows)
	})
}

// library is the text of the library, taken apart.
type library struct {
	text        string
	definitions []definition
}

// definition is one function of the library with the comment above it.
type definition struct {
	name, text, about string
}

var (
	defined     = regexp.MustCompile(`^def (\w+)`)
	called      = regexp.MustCompile(`(?:^|[^\w.$"/-])(_?[a-z]\w*)`) // not fields, variables and texts
	standbyFrom = regexp.MustCompile(`(?m)^# -+ standby$`)
	kindOfPart  = regexp.MustCompile(`"([\w.-]*/\w+)": "(\w+)"`)
	wordBegin   = regexp.MustCompile(`([a-z])([A-Z])`)
)

// readLibrary takes the library apart: definitions begin in the first column, and the
// comments above belong to them.
func readLibrary() library {
	l := library{text: transform.Library()}
	var comment []string
	for line := range strings.Lines(l.text) {
		switch m := defined.FindStringSubmatch(line); {
		case m != nil:
			about := strings.Join(comment, " ")
			if i := strings.IndexAny(about, ".:"); i >= 0 {
				about = about[:i]
			}
			var text strings.Builder
			for _, c := range comment {
				text.WriteString("# " + c + "\n")
			}
			text.WriteString(line)
			l.definitions = append(l.definitions, definition{name: m[1], text: text.String(), about: about})
			comment = nil
		case strings.HasPrefix(line, "# -"):
			comment = nil
		case strings.HasPrefix(line, "#"):
			comment = append(comment, strings.TrimSpace(strings.TrimPrefix(line, "#")))
		case strings.TrimSpace(line) == "":
			comment = nil
		case len(l.definitions) > 0:
			l.definitions[len(l.definitions)-1].text += line
		}
	}
	return l
}

// public are the functions for rules, each name once.
func (l *library) public() []definition {
	var public []definition
	for _, d := range l.definitions {
		if !strings.HasPrefix(d.name, "_") && !slices.ContainsFunc(public, func(o definition) bool { return o.name == d.name }) {
			public = append(public, d)
		}
	}
	return public
}

// parts are the parts of the standby profile.
func (l *library) parts() []string {
	var parts []string
	for _, m := range kindOfPart.FindAllStringSubmatch(l.text, -1) {
		if !slices.Contains(parts, m[2]) {
			parts = append(parts, m[2])
		}
	}
	slices.Sort(parts)
	return parts
}

// find returns the jq under a name; empty if there is none.
func (l *library) find(name string) (jq, about string) {
	switch {
	case name == "library":
		return l.text, `the library "dr"`
	case name == "standby":
		return l.text[standbyFrom.FindStringIndex(l.text)[0]:], "the standby profile"
	case slices.Contains(l.parts(), name):
		return l.part(name), "part of the standby profile"
	}
	i := slices.IndexFunc(l.definitions, func(d definition) bool { return d.name == name })
	if i < 0 || strings.HasPrefix(name, "_") {
		return "", ""
	}
	return l.closure(name), l.definitions[i].about
}

// part is the function that puts one part to sleep, after those it uses.
func (l *library) part(name string) string {
	var kinds []string
	for _, m := range kindOfPart.FindAllStringSubmatch(l.text, -1) {
		if m[2] == name {
			kinds = append(kinds, strings.TrimPrefix(m[1], "/"))
		}
	}
	return "# For " + strings.Join(kinds, ", ") + "\n\n" + l.closure(functionOf(name))
}

// functionOf is the library's name for a part: _daemon_sets for daemonSets.
func functionOf(part string) string {
	return "_" + strings.ToLower(wordBegin.ReplaceAllString(part, "${1}_${2}"))
}

// closure is the text of functions with all that they use, in the library's order.
func (l *library) closure(names ...string) string {
	wanted := map[string]bool{}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if wanted[name] {
			continue
		}
		for _, d := range l.definitions {
			if d.name == name {
				wanted[name] = true
				for _, m := range called.FindAllStringSubmatch(code(d.text), -1) {
					names = append(names, m[1])
				}
			}
		}
	}
	var b strings.Builder
	for _, d := range l.definitions {
		if wanted[d.name] {
			b.WriteString(d.text)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// code is jq without its comments.
func code(jq string) string {
	lines := strings.Split(jq, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), "#") }), "\n")
}
