package rsync

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// duplex is an unprotected stream between two goroutines of a test.
type duplex struct{ *net.UnixConn }

func newDuplex(t *testing.T) (a, b duplex) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer func() { _ = l.Close() }()
	a.UnixConn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	b.UnixConn, err = l.AcceptUnix()
	must(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestHostileDestination has a peer that holds the right keys say what it likes: the
// source gives it nothing but its own volume, and writes nothing.
func TestHostileDestination(t *testing.T) {
	good := `{"pass":"Data","version":"3.5.0","hardLinks":true,"acls":true,"xattrs":true}`
	cases := map[string][]byte{
		"NotARequest":    []byte("GET / HTTP/1.1\r\n\r\n"),
		"AnArgument":     framed(messageRequest, `{"pass":"Data","version":"3.5.0","args":["--files-from=/etc/passwd"]}`),
		"APath":          framed(messageRequest, `{"pass":"Data","version":"3.5.0","root":"/etc"}`),
		"OtherVersion":   framed(messageRequest, `{"pass":"Data","version":"3.1.0"}`),
		"OtherVolume":    framed(messageRequest, `{"pass":"Data","version":"3.5.0","block":true}`),
		"AnswerFirst":    framed(messageAnswer, good),
		"TooLong":        append(framed(messageRequest, good)[:1], 0xff, 0xff, 0xff),
		"GarbageToRsync": append(framed(messageRequest, good), bytes.Repeat([]byte("\xff\x00garbage"), 1000)...),
		"OnlyARequest":   framed(messageRequest, good),
	}
	for name, said := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("the volume's own content"), 0o644))
			before := treeOf(t, dir)
			a, b := newDuplex(t)
			server := &Server{Program: program(t), Root: dir, Log: testLog(t)}
			var wg sync.WaitGroup
			wg.Go(func() {
				server.Serve(t.Context(), b)
				_ = b.Close() // as its caller does
			})
			_, _ = a.Write(said) // it may have been thrown out already
			_ = a.CloseWrite()
			must(t, a.SetReadDeadline(time.Now().Add(patience)))
			got, err := io.ReadAll(a)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the source still talks: %v", err)
			}
			if bytes.Contains(got, []byte("root:")) || bytes.Contains(got, []byte("own content")) {
				t.Errorf("it got %q", got)
			}
			wg.Wait()
			if diff := len(before) - len(treeOf(t, dir)); diff != 0 {
				t.Error("the source's volume has changed")
			}
		})
	}
}

func framed(k messageKind, text string) []byte {
	b := append(make([]byte, messageHeader), text...)
	putMessageHeader(b, k, len(text))
	return b
}

// TestHostileFilter has a destination with the right keys run an rsync of its own, and
// try to read what is not in the volume by way of the filters that it sends.
func TestHostileFilter(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.WriteFile(filepath.Join(volume, "file"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "key"), []byte("the session's private key\n"), 0o600))
	must(t, os.Symlink("../key", filepath.Join(volume, "link")))
	for _, filter := range []string{"--filter=: /../key", "--filter=:e ../key", "--filter=dir-merge " + filepath.Join(dir, "key"), "--filter=:- link", "--copy-links", "--copy-unsafe-links"} {
		t.Run(filter, func(t *testing.T) {
			a, b := newDuplex(t)
			server := &Server{Program: program(t), Root: volume, Log: testLog(t)}
			var wg sync.WaitGroup
			wg.Go(func() {
				server.Serve(t.Context(), b)
				_ = b.Close() // as its caller does
			})
			must(t, send(a, messageRequest, Request{Pass: PassData, Version: "3.5.0"}))
			in := bufio.NewReader(a)
			var ans answer
			must(t, value(in, messageAnswer, &ans))
			// The client's arguments are the hostile part; the server's are the source's own.
			work := t.TempDir()
			door, err := openDoor(filepath.Join(work, "s"))
			must(t, err)
			args := clientArgs(Settings{}, Request{Pass: PassData}, filepath.Join(work, "to")+"/", os.Args[0], "", 0)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, program(t).Path, append([]string{filter}, args...)...)
			cmd.Env = environment(ShimSocket + "=" + door.path)
			var printed, told bytes.Buffer // by the destination's rsync, and by the source
			cmd.Stdout, cmd.Stderr = &printed, &printed
			wg.Go(func() {
				shim, err := door.next()
				if err != nil {
					return
				}
				var copying sync.WaitGroup
				copying.Go(func() {
					_, _ = io.Copy(onlyWriter{a}, onlyReader{shim.from}) // until rsync ends
					_ = a.CloseWrite()
				})
				exit, _ := receive(in, io.MultiWriter(&told, shim.to)) // rsync's words are searched below
				told.WriteString(strings.Join(exit.Problems, "\n"))
				_, _ = shim.to.Close(), shim.from.Close()
				copying.Wait()
				shim.dismiss(exit.Code)
			})
			_ = cmd.Run() // however it ends
			_ = door.listener.Close()
			wg.Wait()
			var copied strings.Builder
			_ = filepath.WalkDir(work, func(path string, d os.DirEntry, _ error) error {
				if d != nil && d.Type().IsRegular() {
					content, _ := os.ReadFile(path) // what cannot be read holds nothing
					copied.Write(content)
				}
				return nil
			})
			if got := printed.String() + told.String() + copied.String(); strings.Contains(got, "private key") {
				t.Errorf("it got the key: %q", got)
			}
		})
	}
}

// TestMaliciousTree copies a tree that a tenant has made to do harm: what it points to
// outside stays as it is.
func TestMaliciousTree(t *testing.T) {
	p := testPair(t, Settings{Delete: true, DeletePercent: 100, Verify: VerifyFull})
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("as it was"), 0o644))
	// At the destination a link to outside stands where the source has a directory with
	// a file of the same name, and another where it has a file.
	must(t, os.Symlink(outside, filepath.Join(p.Root, "directory")))
	must(t, os.Symlink(filepath.Join(outside, "precious"), filepath.Join(p.Root, "file")))
	must(t, os.Mkdir(filepath.Join(p.source, "directory"), 0o755))
	must(t, os.WriteFile(filepath.Join(p.source, "directory", "precious"), []byte("overwritten"), 0o644))
	must(t, os.WriteFile(filepath.Join(p.source, "file"), []byte("overwritten"), 0o644))
	must(t, os.Symlink(outside, filepath.Join(p.source, "out")))
	must(t, os.MkdirAll(filepath.Join(p.source, strings.Repeat("deep/", sized(100, 700))), 0o755))
	must(t, os.MkdirAll(filepath.Join(p.source, strings.Repeat(strings.Repeat("l", 250)+"/", 14)), 0o755))
	must(t, os.WriteFile(filepath.Join(p.source, ".rsync-filter"), []byte(". /etc/passwd\n- *\n"), 0o644))
	p.copied(t, Done)
	sameTree(t, p.source, p.Root)
	if got, err := os.ReadFile(filepath.Join(outside, "precious")); err != nil || string(got) != "as it was" {
		t.Errorf("outside there is %q now, %v", got, err)
	}
	names, err := os.ReadDir(outside)
	if err != nil || len(names) != 1 {
		t.Errorf("outside there are %v now, %v", names, err)
	}
}

// TestHostileSource has a source answer nonsense: the destination ends, and says so.
func TestHostileSource(t *testing.T) {
	good := framed(messageAnswer, `{"version":"3.5.0"}`)
	cases := map[string][]byte{
		"Nothing":            nil,
		"Garbage":            []byte("HTTP/1.1 200 OK\r\n\r\n"),
		"AnswerOnly":         good,
		"GarbageToRsync":     append(append([]byte(nil), good...), framed(messageData, strings.Repeat("garbage", 1000))...),
		"EndsAtOnce":         append(append([]byte(nil), good...), framed(messageExit, `{"code":0}`)...),
		"TwoAnswers":         append(append([]byte(nil), good...), good...),
		"ARefusalThatIsLong": framed(messageAnswer, `{"refused":"`+strings.Repeat("x", 60_000)+`"}`),
	}
	for name, said := range cases {
		t.Run(name, func(t *testing.T) {
			p := testPair(t, Settings{})
			must(t, os.WriteFile(filepath.Join(p.Root, "kept"), []byte("x"), 0o644))
			a, b := newDuplex(t)
			p.Open = func(context.Context) (Stream, error) { return a, nil }
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _ = b.Write(said) // the destination says what came of it
				_ = b.CloseWrite()
				_, _ = io.Copy(io.Discard, b)
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			verdict, _, err := p.Copy(ctx)
			if verdict.Class == Done || verdict.Class == Canceled || len(verdict.Reason) > 2000 {
				t.Errorf("%+v, %v", verdict, err)
			}
			wg.Wait()
			if _, err := os.Stat(filepath.Join(p.Root, "kept")); err != nil {
				t.Error(err)
			}
		})
	}
}
