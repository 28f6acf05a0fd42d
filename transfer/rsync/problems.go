package rsync

import (
	"errors"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// problems keeps the first lines of what rsync complains of, and the number of
// deletions that its limit has held back.
type problems struct {
	// root, if not empty, is a directory whose own attributes cannot be set, which is
	// then to be no failure.
	root string

	lines    []string
	line     []byte
	skipped  int64
	ofRoot   int
	vanished int
	others   int
}

const skippedPrefix = "Deletions stopped due to --max-delete limit ("

func (p *problems) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' {
			if len(p.line) < maxPattern {
				p.line = append(p.line, c)
			}
			continue
		}
		text := strings.ToValidUTF8(strings.TrimSpace(string(p.line)), "?")
		p.line = p.line[:0]
		if rest, ok := strings.CutPrefix(text, skippedPrefix); ok {
			p.skipped, _ = leadingNumber(rest)
		} else if text != "" {
			p.take(text)
		}
	}
	return len(b), nil
}

func (p *problems) take(text string) {
	if len(p.lines) < maxNamed {
		p.lines = append(p.lines, text)
	}
	switch {
	case p.isOfRoot(text):
		p.ofRoot++
	case strings.HasPrefix(text, "file has vanished: "):
		p.vanished++
	case strings.HasPrefix(text, "rsync error: some files/attrs were not transferred "): // the sum of the others
	default:
		p.others++
	}
}

// refused is how rsync says that it may not set an attribute. A path may hold anything,
// so nothing may be around it.
var refused = regexp.MustCompile(`^rsync: \[(?:generator|receiver)\] (?:failed to set (?:times|permissions) on|chown|chgrp) "(.*)"(?: failed)?: Operation not permitted \(1\)$`)

func (p *problems) isOfRoot(text string) bool {
	m := refused.FindStringSubmatch(text)
	return p.root != "" && m != nil && m[1] == strings.TrimRight(p.root, "/")+"/."
}

// code is the exit code that rsync would have had if nobody had asked for the attributes
// of the root.
func (p *problems) code(code int) int {
	switch {
	case code != codePartial, p.ofRoot == 0, p.others > 0:
		return code
	case p.vanished > 0:
		return codeVanished
	case p.skipped > 0:
		return codeMaxDelete
	}
	return codeOK
}

// foreign reports whether a directory belongs to somebody else and this process may not
// set its attributes: the root of a volume that its driver made, to a mover without
// privileges. What is in it is then all that can be copied.
func foreign(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false // rsync will say what is wrong
	}
	mtime, err := unix.TimeToTimespec(info.ModTime())
	if err != nil {
		return false
	}
	// Trying is the one way that knows of capabilities, of user namespaces and of what the server of a
	// network filesystem thinks. It sets what is set.
	err = unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, 0)
	return errors.Is(err, unix.EPERM)
}
