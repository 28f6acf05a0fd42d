package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
)

// exitNo is the exit code of a command that did its work and found something
// out of order. The others are app.ExitOK, app.ExitFailed and app.ExitUsage.
const exitNo = 3

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args, streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// The names under which kubectl looks for its plugins: for commands, and for the
// completion of them.
const (
	pluginName     = "kubectl-drsync"
	completionName = "kubectl_complete-drsync"
)

// execute runs one command line, the program's name first, and returns its exit code.
func execute(ctx context.Context, args []string, s streams) int {
	c := newCLI(s)
	cmd := newCommand(c) //nolint:contextcheck // commands get theirs when they run
	name, args := filepath.Base(args[0]), args[1:]
	switch name {
	case pluginName, completionName:
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl drsync"}
	}
	if name == completionName {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	cmd.SetArgs(args)
	cmd.SetIn(s.in)
	cmd.SetOut(s.out)
	code := app.Execute(ctx, cmd, s.err)
	if code == app.ExitFailed && c.negative {
		return exitNo
	}
	return code
}
