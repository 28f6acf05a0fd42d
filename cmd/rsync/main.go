package main

import (
	"context"
	"os"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
)

func main() {
	if os.Getenv(rsync.ShimSocket) != "" { // rsync has started us as its remote shell
		os.Exit(rsync.Shim())
	}
	os.Exit(app.Execute(context.Background(), newCommand(), os.Stderr))
}
