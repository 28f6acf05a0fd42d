//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/dr-syncer/dr-syncer/test/node"
	"github.com/dr-syncer/dr-syncer/test/world"
)

// The clusters are shared: tests keep apart by namespaces.
var (
	lab      *node.Lab
	prod, dr *node.Cluster
	cable    *node.Link
	// root is the repository's.
	root string
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(onStage{m}, goleak.IgnoreTopFunction("github.com/dr-syncer/dr-syncer/test/world.init.func1.1")) // starts processes
}

// onStage runs the tests between two clusters, which end before leaks are looked for.
type onStage struct{ m *testing.M }

func (s onStage) Run() (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer func() {
		if err := lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}()
	if err := setStage(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// An interrupt ends the tests in their middle, and leaves nothing behind either.
	disarm := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "e2e: interrupted")
		_ = lab.Close() // the next run removes what is left
		os.Exit(1)
	})
	defer disarm()
	return s.m.Run()
}

func setStage(ctx context.Context) error {
	var err error
	if root, err = world.Root(); err != nil {
		return err
	}
	lab, err = node.Open(ctx, node.Config{Tools: filepath.Join(root, ".cache", "bin"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	if prod, err = lab.Start(ctx, "prod"); err != nil {
		return err
	}
	if dr, err = lab.Start(ctx, "dr"); err != nil {
		return err
	}
	cable, err = lab.Join(ctx, prod, dr)
	return err
}
