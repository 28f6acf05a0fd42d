package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/tidwall/gjson"
)

// Stop ends the control plane in order. Its data stays.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report(c.stop(false))
}

// Kill ends all processes at once, without a chance to finish. The data stays; since
// etcd runs without fsync, this is a crash of programs, not of the machine.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report(c.stop(true))
}

// Start starts a stopped control plane on the same data and addresses and waits
// until it is ready. Starting a running one does nothing.
func (c *Cluster) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report(c.start(context.Background()))
}

// Restart stops and starts: every connection is lost, and the API server's watch
// cache forgets the past, so that watches from before it are told 410 Gone.
func (c *Cluster) Restart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report(c.restart(context.Background()))
}

func (p *plane) restart(ctx context.Context) error {
	if err := p.stop(false); err != nil {
		return err
	}
	return p.start(ctx)
}

func (p *plane) stop(kill bool) error {
	return errors.Join(p.controllers.stop(kill), p.server.stop(kill), p.etcd.stop(kill))
}

// Snapshot is a copy of the store.
type Snapshot struct{ dir string }

// Snapshot copies the store as it is now. The store is away for about a second.
func (c *Cluster) Snapshot() (Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.snapshot(context.Background())
	return s, c.report(err)
}

func (p *plane) snapshot(ctx context.Context) (Snapshot, error) {
	dir, err := os.MkdirTemp(p.cfg.Dir, "snapshot-")
	if err != nil {
		return Snapshot{}, fmt.Errorf("take snapshot: %w", err)
	}
	// Killed, because in order it would first wait long for the API server to let go.
	if err := p.etcd.stop(true); err != nil {
		return Snapshot{}, err
	}
	if err := os.CopyFS(dir, os.DirFS(p.path("etcd"))); err != nil {
		return Snapshot{}, fmt.Errorf("take snapshot: %w", err)
	}
	return Snapshot{dir: dir}, p.start(ctx)
}

// Restore puts the control plane back to the snapshot: an API server restored
// from an older backup, whose versions count from there again.
func (c *Cluster) Restore(s Snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report(c.restore(context.Background(), s))
}

func (p *plane) restore(ctx context.Context, s Snapshot) error {
	if err := p.stop(true); err != nil {
		return err
	}
	if err := os.RemoveAll(p.path("etcd")); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	if err := os.CopyFS(p.path("etcd"), os.DirFS(s.dir)); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	return p.start(ctx)
}

// CompactNow has etcd forget all versions before the present one. Continuations
// of lists from before it fail with 410; a watch is served from the API server's own
// cache as long as that reaches back, so to have watches expire too, Restart as well.
func (c *Cluster) CompactNow() error {
	return c.report(c.compact(context.Background()))
}

func (p *plane) compact(ctx context.Context) error {
	answer, err := p.etcdCall(ctx, "/v3/kv/range", `{"key":"AA==","count_only":true}`)
	if err != nil {
		return err
	}
	revision := gjson.GetBytes(answer, "header.revision").Int()
	if revision == 0 {
		return errors.New("compact etcd: it does not tell its revision")
	}
	_, err = p.etcdCall(ctx, "/v3/kv/compaction", `{"revision":"`+strconv.FormatInt(revision, 10)+`","physical":true}`)
	return err
}
