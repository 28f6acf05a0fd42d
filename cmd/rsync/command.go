package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// options are the flags of both ends.
type options struct {
	app         app.Options
	config      string
	status      string
	termination string
	work        string
	attempts    int
}

func defaultOptions() options {
	o := options{app: app.DefaultOptions(), config: "/etc/mover/config.json", termination: "/dev/termination-log", attempts: 5}
	o.app.LogFormat = "json"
	return o
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rsync",
		Short:   "Move the data of one volume between two clusters",
		Version: app.Version(),
		Args:    app.NoArgs,
		Long: `The mover copies the data of one volume for one session: "source" serves a
volume and only reads it, "destination" copies it. Both read a configuration file
that was made for the session, with the end's identity.pem beside it, and run the
real rsync. Progress goes to standard output and to --status, a line of JSON each.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		end(stream.Source, "Serve the volume until stopped, or until the session has expired", serveSource),
		end(stream.Destination, "Copy the source's volume, and end", copyDestination))
	return cmd
}

// end is the command of one end.
func end(r stream.Role, short string, run func(context.Context, *mover) error) *cobra.Command {
	o := defaultOptions()
	cmd := &cobra.Command{
		Use: r.String(), Short: short, Args: app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return start(cmd.Context(), o, r, cmd.OutOrStdout(), cmd.ErrOrStderr(), run)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.config, "config", o.config, "configuration of the session (JSON); identity.pem lies beside it")
	fs.StringVar(&o.status, "status", o.status, "file to keep the present status in (JSON); none if not given")
	fs.StringVar(&o.termination, "termination", o.termination, "file to write the end to, if it exists")
	if r == stream.Destination {
		fs.StringVar(&o.work, "work", o.work, "directory for sockets and lists, not on the volume; a temporary one if not given")
		fs.IntVar(&o.attempts, "attempts", o.attempts, "attempts at a copy whose connection breaks, before giving up")
	}
	o.app.RegisterFlags(fs)
	return cmd
}

// start reads what the mover is given and runs one end in the frame.
func start(ctx context.Context, o options, r stream.Role, stdout, stderr io.Writer, run func(context.Context, *mover) error) error {
	if err := o.app.Validate(); err != nil {
		return err
	}
	if o.attempts < 1 {
		return app.Usage(fmt.Errorf("--attempts %d is less than one", o.attempts))
	}
	log, err := o.app.Logger(stderr)
	if err != nil {
		return err
	}
	c, e, err := readConfig(o.config, r)
	if err != nil {
		return app.Usage(err)
	}
	var cannotKeep []string
	if r == stream.Destination {
		cannotKeep = lacking(capabilities())
	}
	m := &mover{
		options: o, config: c, end: e, log: log, limiter: stream.NewLimiter(c.Limit),
		report: newReporter(o.status, o.termination, stdout, e, cannotKeep),
	}
	return m.run(ctx, run)
}
