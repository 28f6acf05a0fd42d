package app

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// The exit codes of a program.
const (
	// ExitOK: it was stopped as asked.
	ExitOK = 0
	// ExitFailed: something failed; starting it again may help.
	ExitFailed = 1
	// ExitUsage: flags or configuration are wrong; starting it again does not help.
	ExitUsage = 2
)

// usageError marks an error of the user's input.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// Usage marks err as one of flags or configuration, for ExitUsage. nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// ExitCode returns the exit code that err stands for.
func ExitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	default:
		return ExitFailed
	}
}

// Execute runs cmd and returns the process's exit code. An error goes to stderr
// as one line.
func Execute(ctx context.Context, cmd *cobra.Command, stderr io.Writer) int {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetErr(stderr)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usage(fmt.Errorf("%w (see %s --help)", err, c.CommandPath()))
	})
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		// Nothing is left to be done if even stderr is gone.
		_, _ = fmt.Fprintf(stderr, "%s: %s\n", cmd.Name(), oneLine(err))
	}
	return ExitCode(err)
}

// NoArgs refuses arguments, as a usage error.
func NoArgs(cmd *cobra.Command, args []string) error {
	return Usage(cobra.NoArgs(cmd, args))
}
