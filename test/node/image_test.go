package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestImage reads an archive as containerd does: through the manifest, by digest.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	image := Image{
		Name: "dr-syncer.test/app:lab", Entrypoint: []string{"/usr/bin/app", "run"}, User: "65532", Env: []string{"A=b"},
		Files: []File{{Path: "/usr/bin/app", From: program}, {Path: "/usr/bin/again", From: filepath.Join(dir, "link")}, {Path: "/etc/conf", From: program}},
	}
	path := filepath.Join(dir, "image.tar")
	if err := image.write(path); err != nil {
		t.Fatal(err)
	}
	outer := untar(t, read(t, path))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, outer["manifest.json"].text, &manifest)
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 || !cmp.Equal(manifest[0].RepoTags, []string{image.Name}) {
		t.Fatalf("the manifest is %+v", manifest)
	}
	layer := outer[manifest[0].Layers[0]].text
	digest := sha256.Sum256(layer)
	var config struct {
		Config struct {
			User            string
			Entrypoint, Env []string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, outer[manifest[0].Config].text, &config)
	if diff := cmp.Diff([]string{"sha256:" + hex.EncodeToString(digest[:])}, config.RootFS.DiffIDs); diff != "" {
		t.Errorf("digest of the layer (-want +got):\n%s", diff)
	}
	got := []any{config.Config.User, config.Config.Entrypoint, config.Config.Env}
	if diff := cmp.Diff([]any{"65532", []string{"/usr/bin/app", "run"}, []string{"PATH=/usr/bin:/bin", "A=b"}}, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	modes := map[string]int64{}
	for name, e := range untar(t, layer) {
		modes[name] = e.mode
		if !e.dir && string(e.text) != "#!/nothing" {
			t.Errorf("%s has %q", name, e.text)
		}
	}
	want := map[string]int64{"tmp/": 0o1777, "etc/": 0o755, "etc/conf": 0o755, "usr/": 0o755, "usr/bin/": 0o755, "usr/bin/app": 0o755, "usr/bin/again": 0o755}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	first := read(t, path)
	if err := image.write(path); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, read(t, path)) {
		t.Error("the same files make another archive")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.layer")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestImageOfNothingThere(t *testing.T) {
	dir := t.TempDir()
	image := Image{Name: "dr-syncer.test/app:lab", Files: []File{{Path: "/app", From: filepath.Join(dir, "missing")}}}
	if err := image.write(filepath.Join(dir, "image.tar")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the error is %v, want that a file is missing", err)
	}
}

type entry struct {
	mode int64
	dir  bool
	text []byte
}

func untar(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	out := map[string]entry{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%q is there twice", h.Name)
		}
		out[h.Name] = entry{mode: h.Mode, dir: h.Typeflag == tar.TypeDir, text: text}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func decode(t *testing.T, text []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}
