package memlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// snapshot is a stored file.
type snapshot struct {
	manifest pipeline.Manifest
	file     []byte
}

type snapshots struct {
	log  *Log
	site string
}

// Snapshots keeps the snapshots of one site, which need not have a history here.
func (l *Log) Snapshots(siteName string) pipeline.Snapshots {
	return snapshots{log: l, site: siteName}
}

// Put implements pipeline.Snapshots.
func (s snapshots) Put(ctx context.Context, m pipeline.Manifest, file io.Reader) error {
	data, err := io.ReadAll(file)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("store snapshot %q of site %q: %w", m.Name, s.site, err)
	}
	m.Size = int64(len(data))
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.log.snapshots[s.site] == nil {
		s.log.snapshots[s.site] = map[string]snapshot{}
	}
	s.log.snapshots[s.site][m.Name] = snapshot{manifest: m, file: data}
	return nil
}

// List implements pipeline.Snapshots.
func (s snapshots) List(ctx context.Context) ([]pipeline.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list snapshots of site %q: %w", s.site, err)
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	var list []pipeline.Manifest
	for _, held := range s.log.snapshots[s.site] {
		list = append(list, held.manifest)
	}
	slices.SortFunc(list, pipeline.CompareManifests)
	return list, nil
}

// Open implements pipeline.Snapshots.
func (s snapshots) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open snapshot %q of site %q: %w", name, s.site, err)
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	held, ok := s.log.snapshots[s.site][name]
	if !ok {
		return nil, fmt.Errorf("open snapshot %q of site %q: %w", name, s.site, pipeline.ErrNoSnapshot)
	}
	return io.NopCloser(bytes.NewReader(held.file)), nil
}

// Delete implements pipeline.Snapshots.
func (s snapshots) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete snapshot %q of site %q: %w", name, s.site, err)
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	delete(s.log.snapshots[s.site], name)
	return nil
}
