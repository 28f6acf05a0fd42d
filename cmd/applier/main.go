package main

import (
	"context"
	"os"

	"github.com/dr-syncer/dr-syncer/internal/app"
)

func main() {
	os.Exit(app.Execute(context.Background(), newCommand(), os.Stderr))
}
