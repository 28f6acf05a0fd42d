package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// cli is what all commands share.
type cli struct {
	streams
	format, color string
	showSecrets   bool
	kube          kube.Settings
	namespace     string
	log           natslog.ConnectConfig
	site          string

	// negative is set by a command that did its work and found something out of
	// order; see exitNo.
	negative bool
}

func newCLI(s streams) *cli {
	return &cli{
		streams: s, format: formatText, color: colorAuto, namespace: "dr-syncer",
		log: natslog.ConnectConfig{Name: "drsync"},
	}
}

// no ends a command whose answer is no: its error is said, and the exit code is exitNo.
func (c *cli) no(format string, args ...any) error {
	c.negative = true
	return fmt.Errorf(format, args...)
}

func newCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "drsync",
		Short:   "Look into DR-Syncer, and try rules out",
		Version: app.Version(),
		Long: `Drsync looks into DR-Syncer and tries things out before they are in force.

Installed as kubectl-drsync in the PATH it is also "kubectl drsync".

Exit codes: 0 all is well, 1 something failed, 2 the command line or a file is
wrong, 3 the command did its work and what it looked at is not in order: a test
failed, a rule does not compile, an object would be parked, a destination differs,
deletions are held back, or there is a difference and --exit-code was given.`,
	}
	group(cmd)
	fs := cmd.PersistentFlags()
	fs.StringVarP(&c.format, "output", "o", c.format, "format of the output: text, json or yaml")
	fs.StringVar(&c.color, "color", c.color, "color the text: auto (on a terminal, unless $NO_COLOR is set), always or never")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error { return c.validate() }
	cmd.AddCommand(c.statusCommand(), c.parkedCommand(), c.transformCommand(), c.replayCommand())
	cmd.AddCommand(c.snapshotCommand(), c.historyCommand(), c.getCommand(), c.momentsCommand(), c.deletionsCommand())
	return cmd
}

// validate checks the flags of all commands.
func (c *cli) validate() error {
	var errs []error
	for _, f := range []struct {
		flag, value string
		known       []string
	}{
		{"--output", c.format, []string{formatText, formatJSON, formatYAML}},
		{"--color", c.color, []string{colorAuto, colorAlways, colorNever}},
	} {
		if !slices.Contains(f.known, f.value) {
			errs = append(errs, fmt.Errorf("%s %q is not one of %s", f.flag, f.value, strings.Join(f.known, ", ")))
		}
	}
	return app.Usage(errors.Join(errs...))
}

// group makes cmd one that only holds others: alone it shows its help.
func group(cmd *cobra.Command) {
	cmd.Args = app.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// args makes a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return app.Usage(fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
		}
		return nil
	}
}
