package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// Exit codes beside 0: what was replicated differs or did not arrive, something
// could not be run at all, and ended by a signal.
const (
	exitDiffers     = 1
	exitBroken      = 2
	exitInterrupted = 130
)

// errDiffers says that the demo ran and dr is not as it should be.
var errDiffers = errors.New("dr is not what prod is")

func main() {
	dir := flag.String("dir", "", "empty or new directory for data and logs; default .cache/demo in the repository, emptied first")
	keep := flag.Bool("keep", os.Getenv("KEEP") != "", "leave everything running until Ctrl-C (also KEEP=1)")
	flag.Parse()
	// A hang-up or a second Ctrl-C ends the demo at once, and the kernel ends its children with it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	p := newPrinter(os.Stdout)
	err := demo(ctx, p, *dir, *keep)
	switch {
	case ctx.Err() != nil:
		p.line("%s", p.dim("Ended; nothing is left running."))
		os.Exit(exitInterrupted)
	case errors.Is(err, errDiffers):
		os.Exit(exitDiffers)
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err) // nothing is left to be done about a broken stderr
		os.Exit(exitBroken)
	}
}

// demo runs the whole show. The directory stays when something went wrong.
func demo(ctx context.Context, p *printer, dir string, keep bool) (err error) {
	dir, release, err := prepareDir(dir)
	if err != nil {
		return err
	}
	defer release()
	p.line("%s  two real Kubernetes API servers, the real products, one machine", p.bold("DR-Syncer demo"))
	p.line("%s", p.dim("prod ──▶ collector ──▶ log (embedded NATS JetStream, synced to disk) ──▶ applier ──▶ dr"))
	s, err := raise(ctx, p, dir)
	if err != nil {
		return err
	}
	defer func() {
		s.close()
		if err == nil || ctx.Err() != nil {
			_ = os.RemoveAll(dir) // what is left is emptied by the next run
			return
		}
		p.line("%s %s", p.dim("Logs and data are in"), dir)
	}()
	good, err := s.play(ctx, p)
	if err != nil {
		return err
	}
	if keep {
		s.invite(p)
		<-ctx.Done()
		p.line("")
		return nil
	}
	if !good {
		return errDiffers
	}
	return nil
}

// prepareDir makes the directory and holds it, so that two demos do not share one.
func prepareDir(dir string) (string, func(), error) {
	if dir == "" {
		root, err := world.Root()
		if err != nil {
			return "", nil, err
		}
		dir = filepath.Join(root, ".cache", "demo")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("find directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", nil, fmt.Errorf("make directory: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("lock directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return "", nil, fmt.Errorf("another demo runs in %s: end it (Ctrl-C in its terminal), or give this one a directory with -dir", dir)
	}
	release := func() { _ = os.Remove(lock.Name()); _ = lock.Close() }
	if err := emptyDir(dir); err != nil {
		release()
		return "", nil, err
	}
	return dir, release, nil
}

// emptyDir makes dir anew. It refuses a directory that no demo has made.
func emptyDir(dir string) error {
	const sign = ".dr-syncer-demo"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("empty directory: %w", err)
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, sign)); err != nil {
			return fmt.Errorf("%s is not empty and not of the demo's making: give another with -dir", dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("empty directory: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, sign), nil, 0o600); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// newPrinter writes to out, with color if out is a terminal and NO_COLOR is not set.
func newPrinter(out *os.File) *printer {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	_, plain := os.LookupEnv("NO_COLOR")
	return &printer{out: out, color: terminal && !plain && os.Getenv("TERM") != "dumb", now: time.Now}
}
