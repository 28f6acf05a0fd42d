package rsync

import (
	"bytes"
	"strconv"
	"strings"
)

// Progress is how far a pass is.
type Progress struct {
	// Bytes of the files that have been gone through, whether sent or found equal.
	Bytes int64 `json:"bytes"`
	// Files that were transferred.
	Files int64 `json:"files"`
	// Left and Known files of the list, which grows while it is read: Complete says
	// that it does not any more.
	Left     int64 `json:"left"`
	Known    int64 `json:"known"`
	Complete bool  `json:"complete,omitempty"`
}

// Stats are rsync's figures at the end of a pass.
type Stats struct {
	Files       int64 `json:"files"`       // in the source, directories and all
	Created     int64 `json:"created"`     // at the destination
	Deleted     int64 `json:"deleted"`     // at the destination
	Transferred int64 `json:"transferred"` // regular files
	Bytes       int64 `json:"bytes"`       // of all files
	Sent        int64 `json:"sent"`        // of file data that was sent as it is
	Matched     int64 `json:"matched"`     // of file data that was there already
}

var statNames = map[string]func(*Stats) *int64{
	"Number of files":                     func(s *Stats) *int64 { return &s.Files },
	"Number of created files":             func(s *Stats) *int64 { return &s.Created },
	"Number of deleted files":             func(s *Stats) *int64 { return &s.Deleted },
	"Number of regular files transferred": func(s *Stats) *int64 { return &s.Transferred },
	"Total file size":                     func(s *Stats) *int64 { return &s.Bytes },
	"Literal data":                        func(s *Stats) *int64 { return &s.Sent },
	"Matched data":                        func(s *Stats) *int64 { return &s.Matched },
}

// maxLine bounds a line: the longest path, escaped, and something.
const maxLine = 20 << 10

// output reads what rsync prints. It keeps what is asked for, in bounded space, and
// never fails: what it does not know it ignores.
type output struct {
	line     []byte
	skip     bool // the line is too long: until its end
	progress Progress
	stats    Stats
	// Differences that a check found, the first few, and how many in all.
	differences []string
	different   int
	itemized    bool
	exceptRoot  bool // the root directory itself is not looked at
	onProgress  func(Progress)
}

// maxNamed is how many files a report names.
const maxNamed = 20

func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if len(o.line)+len(part) > maxLine {
			o.skip = true
		} else {
			o.line = append(o.line, part...)
		}
		if i < 0 {
			break
		}
		if !o.skip {
			o.take(string(o.line))
		}
		o.line, o.skip, p = o.line[:0], false, p[i+1:]
	}
	return n, nil
}

func (o *output) take(line string) {
	if o.itemized && o.difference(line) {
		return
	}
	if p, ok := parseProgress(line); ok {
		p.Bytes, p.Files = max(p.Bytes, o.progress.Bytes), max(p.Files, o.progress.Files) // it only grows
		o.progress = p
		if o.onProgress != nil {
			o.onProgress(p)
		}
		return
	}
	if name, value, ok := strings.Cut(line, ":"); ok {
		if field := statNames[name]; field != nil {
			if n, ok := leadingNumber(strings.TrimSpace(value)); ok {
				*field(&o.stats) = n
			}
		}
	}
}

// difference takes a line of a check.
func (o *output) difference(line string) bool {
	what, path, ok := strings.Cut(line, "\t")
	const width = 11
	if !ok || len(what) != width || !strings.ContainsRune("<>ch.*", rune(what[0])) || strings.TrimLeft(what[2:], ". ") == "" {
		return false
	}
	if o.exceptRoot && path == "./" {
		return true
	}
	o.different++
	if len(o.differences) < maxNamed {
		o.differences = append(o.differences, path)
	}
	return true
}

// parseProgress reads a line such as
//
//	20971520 100%  453.84MB/s    0:00:00 (xfr#1, to-chk=2/4)
func parseProgress(line string) (Progress, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasSuffix(fields[1], "%") || !strings.HasSuffix(fields[2], "/s") {
		return Progress{}, false
	}
	var p Progress
	var ok bool
	if p.Bytes, ok = number(fields[0]); !ok {
		return Progress{}, false
	}
	if len(fields) < 6 {
		return p, true
	}
	xfr, isXfr := strings.CutPrefix(fields[4], "(xfr#")
	files, ok := number(strings.TrimSuffix(xfr, ","))
	if !isXfr || !ok {
		return Progress{}, false
	}
	kind, rest, _ := strings.Cut(strings.TrimSuffix(fields[5], ")"), "=")
	left, known, _ := strings.Cut(rest, "/")
	l, okL := number(left)
	k, okK := number(known)
	if !okL || !okK || l > k || kind != "to-chk" && kind != "ir-chk" {
		return Progress{}, false
	}
	p.Files, p.Left, p.Known, p.Complete = files, l, k, kind == "to-chk"
	return p, true
}

// number reads digits, and nothing else.
func number(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && text[0] != '+'
}

// leadingNumber reads the number that a text begins with.
func leadingNumber(text string) (int64, bool) {
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		text = text[:end]
	}
	return number(text)
}
