package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// longest are the packages whose tests take longest. They begin first: what begins last runs
// alone in the end, while the other processors are idle.
var longest = []string{
	"test/faults", "control", "test/guards", "replay", "pipeline/natslog", "transfer/rsync", "collect", "test/demo", "test/volumes", "kube", "apply",
}

// ordered lists the packages that the patterns name with the build tags, the longest first, the others as the go
// command lists them.
func ordered(ctx context.Context, tags string, patterns []string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-tags=" + tags}, patterns...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	packages := strings.Fields(string(out))
	if len(packages) == 0 {
		return patterns, nil // the go command says what is wrong with them
	}
	rank := func(path string) int {
		if i := slices.Index(longest, short(path)); i >= 0 {
			return i
		}
		return len(longest)
	}
	slices.SortStableFunc(packages, func(a, b string) int { return rank(a) - rank(b) })
	return packages, nil
}
