package natslog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// mendStore makes whole what a process that was killed while it made or changed a stream has left: the server writes
// the description of a stream and then, in another file, its checksum, and takes up no stream whose two do not agree. Each
// file is replaced at once, so a description that can be read is the newest; it lacks its checksum only. A directory
// without a description and without records was never a stream.
func mendStore(dir string, log *slog.Logger) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "[^.]*"))
	if err != nil {
		return fmt.Errorf("look for half-made streams: %w", err)
	}
	for _, path := range streams {
		mended, err := mendStream(path)
		if err != nil {
			return fmt.Errorf("mend the half-made stream %q: %w", filepath.Base(path), err)
		}
		if mended {
			log.Warn("mended a stream that was being made or changed when the process ended", slog.String(telemetry.KeyPath, path))
		}
	}
	return nil
}

func mendStream(path string) (mended bool, err error) {
	if _, err := os.Stat(filepath.Join(path, server.JetStreamMetaFileKey)); err == nil {
		return false, nil // encrypted: not by us
	}
	description, err := fs.ReadFile(os.DirFS(path), server.JetStreamMetaFile)
	if errors.Is(err, fs.ErrNotExist) {
		if size, err := storeSize(filepath.Join(path, "msgs")); err != nil && !errors.Is(err, fs.ErrNotExist) || size > 0 {
			return false, err // the server says that it misses the description
		}
		return true, os.RemoveAll(path)
	}
	if err != nil {
		return false, err
	}
	var named struct {
		Name string `json:"name"`
	}
	name := filepath.Base(path)
	if err := json.Unmarshal(description, &named); err != nil || named.Name != name {
		return false, nil //nolint:nilerr // damaged, which the server says
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return false, err
	}
	_, _ = hash.Write(description) // never fails
	want := hex.EncodeToString(hash.Sum(nil))
	got, err := fs.ReadFile(os.DirFS(path), server.JetStreamMetaFileSum)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || string(got) == want {
		return false, err
	}
	return true, os.WriteFile(filepath.Join(path, server.JetStreamMetaFileSum), []byte(want), 0o600)
}
