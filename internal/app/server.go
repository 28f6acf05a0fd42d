package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// routes is everything that the side port serves.
func routes(h *Health, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", h.readiness)
	mux.Handle("GET /metrics", metrics)
	profiles := http.NewServeMux()
	profiles.HandleFunc("/debug/pprof/", pprof.Index)
	profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/", localOnly(profiles))
	return mux
}

// localOnly refuses callers from elsewhere: probes and scrapes come from anywhere
// in the cluster, profiles only through a port-forward, which arrives locally.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			http.Error(w, "profiles are served to this machine only: use kubectl port-forward", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serving makes the unit of the side port. It listens before it returns, so that
// a taken address is told at once.
func serving(ctx context.Context, log *slog.Logger, address string, handler http.Handler) (Unit, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return Unit{}, Usage(fmt.Errorf("serve health and metrics (choose another address with --listen): %w", err))
	}
	log.InfoContext(ctx, "serving health and metrics", telemetry.KeyAddress, listener.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return Unit{Name: "side port", StopTimeout: 5 * time.Second, Run: func(ctx context.Context, ready func()) error {
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(listener) }()
		ready()
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
		// Closed, not drained: a profile under way must not hold the end up.
		err := server.Close()
		if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}}, nil
}
