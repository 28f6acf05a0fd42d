package rsync

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// writeSample writes the paths of a random sample of root's files to a file, each
// with a zero byte after it.
func writeSample(ctx context.Context, root, to string, s Settings) error {
	files, size := s.SampleFiles, s.SampleBytes
	if files == 0 {
		files = defaultFiles
	}
	if size == 0 {
		size = defaultBytes
	}
	type file struct {
		path string
		size int64
	}
	var chosen []file
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be read is no sample; the passes report it
		}
		// Every file has the same chance.
		seen++
		at := len(chosen)
		if at == files {
			if at = rand.IntN(seen); at >= files { //nolint:gosec // G404: a sample, not a secret
				return nil
			}
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if at == len(chosen) {
			chosen = append(chosen, file{name, info.Size()})
		} else {
			chosen[at] = file{name, info.Size()}
		}
		return nil
	})
	if err != nil {
		return err
	}
	rand.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] }) //nolint:gosec // G404: a sample, not a secret
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)                       //nolint:gosec // G304: in our own directory
	if err != nil {
		return err
	}
	for i, c := range chosen {
		if i > 0 && c.size > size {
			continue // a smaller one may fit
		}
		size -= c.size
		if _, err := f.WriteString("./" + c.path + "\x00"); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
