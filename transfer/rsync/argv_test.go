package rsync

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestServerArgs has rsync's own client say what it would ask of the source: the
// source builds the same without being told.
func TestServerArgs(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	spy := filepath.Join(dir, "spy")
	must(t, os.WriteFile(spy, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >"+said+"\nexit 1\n"), 0o755))
	list := filepath.Join(dir, "list")
	must(t, os.WriteFile(list, nil, 0o644))
	for _, pass := range []Pass{PassData, PassReplace, PassDelete, PassSample, PassFull} {
		for name, s := range map[string]Settings{
			"All":      {Delete: true, Exclude: []string{"/x"}},
			"NoDelete": {},
			"NoLinks":  {NoHardLinks: true}, "NoACLs": {NoACLs: true}, "NoXattrs": {NoXattrs: true},
			"Compress": {Compress: true},
			"Block":    {Block: true},
		} {
			r := s.request(pass, Version{3, 5, 0})
			if _, err := parseRequest(encode(t, r)); err != nil {
				continue // there is no such pass of a block volume
			}
			t.Run(fmt.Sprintf("%s/%s", pass, name), func(t *testing.T) {
				_ = exec.Command(program(t).Path, clientArgs(s, r, filepath.Join(dir, "to")+"/", spy, list, 7)...).Run() // the spy fails it
				text, err := os.ReadFile(said)
				must(t, err)
				want := strings.Split(strings.TrimSpace(string(text)), "\n")[2:] // without host and program
				if diff := cmp.Diff(want, serverArgs(r, anywhere)); diff != "" {
					t.Errorf("the source's arguments differ from what the client expects (-client +source):\n%s", diff)
				}
			})
		}
	}
}

// TestArgumentsFromPatterns has patterns that look like options stay patterns.
func TestArgumentsFromPatterns(t *testing.T) {
	s := Settings{Exclude: []string{"--delete", "-e sh", "; rm -rf /"}, Include: []string{"--rsh=sh"}}
	for _, a := range clientArgs(s, s.request(PassData, Version{3, 5, 0}), "/to/", "shim", "", 0) {
		if a == "--delete" || a == "-e sh" || a == "--rsh=sh" {
			t.Errorf("a pattern has become the argument %q", a)
		}
	}
}
