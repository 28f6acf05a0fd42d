package main

import (
	"os"
	"strconv"
	"strings"
)

// needs says which capability is needed to keep what of a file, by the numbers of
// capabilities(7).
var needs = []struct {
	capability uint
	what       string
}{
	{0, "owners and groups"},
	{1, "files that this user may not open"},
	{3, "times and modes of files of other owners"},
	{4, "set-group-ID bits of files of other groups"},
	{21, "trusted attributes"},
	{27, "device nodes"},
	{31, "file capabilities"},
}

// capabilities is the effective set of this process; all, if the system does not say.
func capabilities() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ^uint64(0)
	}
	return parseCapabilities(string(text))
}

func parseCapabilities(status string) uint64 {
	for line := range strings.Lines(status) {
		if digits, ok := strings.CutPrefix(line, "CapEff:"); ok {
			const hexadecimal, bits = 16, 64
			if set, err := strconv.ParseUint(strings.TrimSpace(digits), hexadecimal, bits); err == nil {
				return set
			}
		}
	}
	return ^uint64(0)
}

// lacking is what a process with these capabilities cannot keep.
func lacking(set uint64) []string {
	var out []string
	for _, n := range needs {
		if set&(1<<n.capability) == 0 {
			out = append(out, n.what)
		}
	}
	return out
}
