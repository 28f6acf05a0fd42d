package natslog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// ErrLocked reports that another process uses the store directory.
var ErrLocked = errors.New("the store directory is in use")

// lockStore takes the directory for this process, until unlock. The lock goes
// with the process, however that ends. NATS itself does not lock: two servers on
// one store would destroy it.
func lockStore(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the store directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // G304: the operator names the directory
	if err != nil {
		return nil, fmt.Errorf("lock the store directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 16)
		n, _ := f.ReadAt(holder, 0) // without it the message is only shorter
		err = errors.Join(err, f.Close())
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %q is locked by process %s: stop that one or choose another directory",
				ErrLocked, dir, strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock the store directory %q: %w", dir, err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the store directory %q: %w", dir, err), f.Close())
	}
	return f.Close, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// diskSpace is what a file system has, in bytes.
type diskSpace struct{ free, total int64 }

func probeDisk(dir string) (diskSpace, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return diskSpace{}, fmt.Errorf("look at the disk of %q: %w", dir, err)
	}
	return diskSpace{free: int64(st.Bavail) * st.Bsize, total: int64(st.Blocks) * st.Bsize}, nil //nolint:gosec // G115: no disk has 8 EiB
}

// inspectStore looks at the disk before the server uses it: how much is free,
// how much the store occupies and how long making a write durable takes.
func inspectStore(cfg ServerConfig) (maxStore int64, err error) {
	space, err := cfg.probe(cfg.StoreDir)
	if err != nil {
		return 0, err
	}
	used, err := storeSize(cfg.StoreDir)
	if err != nil {
		return 0, err
	}
	latency, err := syncLatency(cfg.StoreDir)
	if err != nil {
		return 0, fmt.Errorf("try to write to the store directory: %w", err)
	}
	maxStore = cfg.MaxStore
	if maxStore == 0 {
		maxStore = (space.free + used) / 4 * 3
	}
	log := cfg.Log.With(slog.String(telemetry.KeyPath, cfg.StoreDir))
	log.Info("inspected the store",
		slog.Int64(telemetry.KeyFreeBytes, space.free), slog.Int64(telemetry.KeyUsedBytes, used),
		slog.Int64(telemetry.KeyLimitBytes, maxStore), slog.Duration(telemetry.KeyDuration, latency))
	if latency > slowSync && cfg.SyncAlways {
		log.Warn("the store's disk is slow to make writes durable: each batch of changes waits for it", slog.Duration(telemetry.KeyDuration, latency))
	}
	if maxStore > space.free+used {
		log.Warn("the server may store more than the disk holds", slog.Int64(telemetry.KeyLimitBytes, maxStore), slog.Int64(telemetry.KeyFreeBytes, space.free))
	}
	return maxStore, nil
}

func storeSize(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure the store directory: %w", err)
	}
	return size, nil
}

// syncLatency is the median time of making 4 KiB durable.
func syncLatency(dir string) (_ time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4<<10)
	var times []time.Duration
	for range 5 {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
