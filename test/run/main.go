package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	race := flag.Bool("race", false, "run with the race detector (needs a C compiler)")
	timeout := flag.Duration("timeout", 10*time.Minute, "longest run of one package")
	tags := flag.String("tags", "", "build tags, separated by commas")
	steps := flag.Bool("steps", false, "say what each test logs as it goes on, and when it has ended: for few and long ones")
	flag.Parse()
	packages := flag.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := []string{"test", "-json", "-timeout=" + timeout.String()}
	if *race {
		args = append(args, "-race")
	}
	if *tags != "" {
		args = append(args, "-tags="+*tags)
	}
	if *steps {
		args = append(args, "-count=1") // who wants to see steps wants them taken
	}
	packages, err := ordered(ctx, *tags, packages)
	if err != nil {
		os.Exit(fail(os.Stderr, err))
	}
	os.Exit(run(ctx, append(args, packages...), *steps, os.Stdout, os.Stderr))
}

// run runs the go command and reports what it says. The result is the exit code.
func run(ctx context.Context, args []string, steps bool, stdout, stderr io.Writer) int {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = stderr
	// The go command passes an interrupt on to the tests, which clean up; a kill would not.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fail(stderr, fmt.Errorf("read the tests' output: %w", err))
	}
	if err := cmd.Start(); err != nil {
		return fail(stderr, fmt.Errorf("start go test: %w", err))
	}
	r := newReport(stdout, time.Now)
	r.steps = steps
	readErr := r.read(events, time.Tick(15*time.Second))
	var exit *exec.ExitError
	if err := errors.Join(readErr, cmd.Wait()); err != nil && !errors.As(err, &exit) {
		return fail(stderr, fmt.Errorf("run go test: %w", err))
	}
	total := r.finish()
	if exit != nil || total.failed > 0 || total.passed == 0 {
		return 1
	}
	return 0
}

func fail(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintln(stderr, "test/run:", err) // nothing is left to be done about a broken stderr
	return 2
}
