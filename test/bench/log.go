package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// openLog starts an embedded log with the product's defaults, listening on a
// free port, and connects to it as the product does.
func openLog(ctx context.Context, dir string) (*natslog.Server, *natslog.Conn, func() error, error) {
	cfg := natslog.DefaultServerConfig()
	cfg.StoreDir = filepath.Join(dir, "log")
	cfg.Host, cfg.Port = "127.0.0.1", -1
	cfg.Log = slog.New(slog.DiscardHandler)
	server, err := natslog.StartServer(ctx, cfg)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("start the log: %w", err)
	}
	conn, err := natslog.Connect(ctx, natslog.ConnectConfig{URL: server.URL(), Name: "bench"})
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("connect to the log: %w", err), server.Shutdown(ctx))
	}
	return server, conn, func() error {
		return errors.Join(conn.Close(), server.Shutdown(context.WithoutCancel(ctx)))
	}, nil
}
