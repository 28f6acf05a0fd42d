// Command run runs Go tests and reports them for people: a line per package as
// it ends, a sign of life while nothing ends, the whole output of what failed,
// and, alone on the last line, the counts:
//
//	go run ./test/run [-race] [-steps] [-tags TAG] [-timeout 10m] [package ...]
//	...
//	812 passed, 0 failed, 0 skipped
//
// A test with subtests is not counted itself, its subtests are. A package that
// cannot be built, crashes, or fails outside of its tests counts as one failed
// test. The exit code is 0 only if something ran and nothing failed.
package main
