package rsync

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// MinimumVersion is the oldest rsync that is run unless configured otherwise: what
// is older has known holes that a hostile peer or a hostile tree can use.
const MinimumVersion = "3.5.0"

// ErrVersion marks an rsync that is too old, or is none.
var ErrVersion = errors.New("rsync is not new enough")

// Version is rsync's version.
type Version struct{ Major, Minor, Patch int }

var versionText = regexp.MustCompile(`^v?([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})`)

// ParseVersion reads a version such as 3.5.0; what follows the third number is ignored.
func ParseVersion(text string) (Version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("read version %.40q: it is not of the form 3.5.0", text)
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // up to six digits
	}
	return Version{n[0], n[1], n[2]}, nil
}

// String is the version as rsync tells it.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	if v.Major != w.Major {
		return v.Major < w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor < w.Minor
	}
	return v.Patch < w.Patch
}

var versionLine = regexp.MustCompile(`^rsync  version (\S+)`)

// Program is the rsync that is run.
type Program struct {
	// Path of the executable.
	Path string
	// Minimum is the oldest version accepted; MinimumVersion if empty.
	Minimum string
}

// Check runs the program and returns its version; ErrVersion says what to do when it
// is too old.
func (p Program) Check(ctx context.Context) (Version, error) {
	least := p.Minimum
	if least == "" {
		least = MinimumVersion
	}
	minimum, err := ParseVersion(least)
	if err != nil {
		return Version{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, "--version") //nolint:gosec // G204: the operator names the program
	cmd.Env = environment()
	out, err := cmd.Output()
	if err != nil {
		return Version{}, fmt.Errorf("%w: %s cannot be run: %w; install rsync %s or newer", ErrVersion, p.Path, err, minimum)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("%w: %s does not say which version it is; install rsync %s or newer", ErrVersion, p.Path, minimum)
	}
	have, err := ParseVersion(string(m[1]))
	if err != nil {
		return Version{}, fmt.Errorf("%w: %w", ErrVersion, err)
	}
	if have.Less(minimum) {
		return Version{}, fmt.Errorf("%w: %s is %s; install %s or newer (Debian 12: from bookworm-security)", ErrVersion, p.Path, have, minimum)
	}
	return have, nil
}

// environment is all that rsync gets: its own variables could change what the
// arguments say, and LC_ALL what it prints.
func environment(more ...string) []string {
	return append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/nonexistent"}, more...)
}
