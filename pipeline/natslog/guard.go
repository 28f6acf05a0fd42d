package natslog

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// watchDisk keeps the server from filling its disk. NATS does not survive that:
// writes then time out without an error, and freeing space does not help until a
// restart. So writes are refused, with an error, before it comes to that, and a
// server that has failed to write is restarted once there is space.
func (s *Server) watchDisk(ctx context.Context) {
	ticker := time.NewTicker(guardEvery)
	defer ticker.Stop()
	for {
		if err := s.checkDisk(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot guard the store's disk", slog.Any(telemetry.KeyError, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// checkDisk brings the server in line with the space there is.
func (s *Server) checkDisk(ctx context.Context) error {
	space, err := s.cfg.probe(s.cfg.StoreDir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	inner, refusing := s.inner, s.full != nil
	s.mu.Unlock()
	enough, plenty := space.free >= s.cfg.MinFree, space.free >= resumeAt(s.cfg.MinFree)
	switch {
	case !enough && !refusing:
		err = s.refuse(inner, fmt.Errorf("%w: its disk has %d MiB free, at least %d MiB are needed: free space or enlarge the volume of %q",
			ErrFull, space.free>>20, s.cfg.MinFree>>20, s.cfg.StoreDir))
	case plenty && refusing:
		err = s.accept(inner)
	case enough && !refusing:
		err = s.revive(ctx, inner)
	}
	return err
}

// revive restarts a server that has failed to write. There is space now: what
// still cannot be written is from a time without.
func (s *Server) revive(ctx context.Context, inner *natsserver.Server) error {
	if inner.Running() && inner.JetStreamEnabled() && !hasWriteError(inner) || time.Since(s.revived) < reviveEvery {
		return nil
	}
	s.revived = time.Now()
	s.log.Warn("restarting the embedded server after a write error")
	halt(inner)
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("restart the embedded server: %w", err)
	}
	return nil
}

// resumeAt leaves a tenth between refusing and accepting.
func resumeAt(minFree int64) int64 { return minFree + minFree/10 }

// refuse has the server answer every write with an error, by taking its account's
// storage away.
func (s *Server) refuse(inner *natsserver.Server, why error) error {
	if err := limitStore(inner, 0); err != nil {
		return err
	}
	s.mu.Lock()
	s.full = why
	s.mu.Unlock()
	s.log.Error("the embedded log refuses writes", slog.Any(telemetry.KeyError, why))
	return nil
}

func (s *Server) accept(inner *natsserver.Server) error {
	if err := limitStore(inner, -1); err != nil {
		return err
	}
	s.mu.Lock()
	s.full = nil
	s.mu.Unlock()
	s.log.Info("the embedded log accepts writes again")
	return nil
}

func limitStore(inner *natsserver.Server, store int64) error {
	err := inner.GlobalAccount().UpdateJetStreamLimits(map[string]natsserver.JetStreamAccountLimits{
		"": {MaxMemory: -1, MaxStore: store, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1},
	})
	if err != nil {
		return fmt.Errorf("limit the server's storage: %w", err)
	}
	return nil
}

// hasWriteError reports whether a stream has stopped taking writes.
func hasWriteError(inner *natsserver.Server) bool {
	details := inner.Healthz(&natsserver.HealthzOptions{Details: true})
	for _, e := range details.Errors {
		if e.Type == natsserver.HealthzErrorStream && strings.Contains(e.Error, "write error") {
			return true
		}
	}
	return false
}
