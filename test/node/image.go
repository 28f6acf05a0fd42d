package node

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Image is a container image of one layer, made of files of this machine. It has
// directories where its files are, /tmp, and nothing else.
type Image struct {
	// Name is what Pods call it, with registry and tag: "dr-syncer.test/app:lab".
	Name       string
	Entrypoint []string
	// User is the numeric user that its process has; root if empty.
	User  string
	Env   []string
	Files []File
}

// File is a file of an Image, readable and executable by everybody.
type File struct {
	// Path is where it is in the image, From where it is on this machine. A link is followed.
	Path, From string
}

// write writes the image to a file that `ctr images import` reads: the archive of
// `docker save`. The same files make the same archive.
func (i Image) write(to string) error {
	layer, err := os.Create(to + ".layer")
	if err != nil {
		return fmt.Errorf("make image %q: %w", i.Name, err)
	}
	defer func() { _ = errors.Join(layer.Close(), os.Remove(layer.Name())) }() // it has been copied
	digest := sha256.New()
	if err := i.writeLayer(io.MultiWriter(layer, digest)); err != nil {
		return fmt.Errorf("make image %q: %w", i.Name, err)
	}
	archive, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("make image %q: %w", i.Name, err)
	}
	if err := errors.Join(i.writeArchive(archive, layer, hex.EncodeToString(digest.Sum(nil))), archive.Close()); err != nil {
		return fmt.Errorf("make image %q: %w", i.Name, err)
	}
	return nil
}

// writeLayer writes the files and the directories they are in.
func (i Image) writeLayer(to io.Writer) error {
	w := tar.NewWriter(to)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return err
	}
	made := map[string]bool{".": true, "tmp": true}
	files := slices.Clone(i.Files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean(f.Path), "/")
		if err := writeParents(w, path.Dir(name), made); err != nil {
			return err
		}
		if err := writeFile(w, name, f.From); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeParents(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := writeParents(w, path.Dir(dir), made); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func writeFile(w *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// writeArchive writes layer, whose SHA-256 is digest, and what describes it.
func (i Image) writeArchive(to io.Writer, layer *os.File, digest string) error {
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "User": i.User, "Env": append([]string{"PATH=/usr/bin:/bin"}, i.Env...), "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	w := tar.NewWriter(to)
	for _, f := range []struct {
		name string
		text []byte
	}{{"config.json", config}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			return err
		}
		if _, err := w.Write(f.text); err != nil {
			return err
		}
	}
	if err := writeFile(w, "layer.tar", layer.Name()); err != nil {
		return err
	}
	return w.Close()
}
