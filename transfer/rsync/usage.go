package rsync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoSpace marks a destination that cannot hold the source.
var ErrNoSpace = errors.New("the destination is too small")

// usage is how much of a volume is in use, and how much it can hold.
type usage struct {
	Bytes  uint64 `json:"bytes,omitempty"`
	Inodes uint64 `json:"inodes,omitempty"`
	// MaxBytes and MaxInodes are what it can hold; no inodes if it makes them as needed.
	MaxBytes  uint64 `json:"-"`
	MaxInodes uint64 `json:"-"`
}

// usageOf looks at the volume that is mounted at root. A root within a larger
// filesystem says nothing: the result is zero.
func usageOf(root string) usage {
	own, err1 := os.Stat(root)
	parent, err2 := os.Stat(filepath.Dir(filepath.Clean(root)))
	if err1 != nil || err2 != nil {
		return usage{}
	}
	a, ok1 := own.Sys().(*syscall.Stat_t)
	b, ok2 := parent.Sys().(*syscall.Stat_t)
	var fs unix.Statfs_t
	if !ok1 || !ok2 || a.Dev == b.Dev || unix.Statfs(root, &fs) != nil {
		return usage{}
	}
	size := uint64(fs.Bsize) //nolint:gosec // G115: positive
	return usage{
		Bytes: (fs.Blocks - fs.Bfree) * size, Inodes: fs.Files - fs.Ffree,
		MaxBytes: (fs.Blocks - fs.Bfree + fs.Bavail) * size, MaxInodes: fs.Files,
	}
}

// fits says whether what is used at the source can be held. What both filesystems
// need for themselves is in both figures; a tenth is left to their differences.
func (u usage) fits(source usage) error {
	if u.MaxBytes == 0 {
		return nil
	}
	const part = 10
	if source.Bytes-source.Bytes/part > u.MaxBytes {
		return fmt.Errorf("%w: the source uses %d bytes, the destination holds %d", ErrNoSpace, source.Bytes, u.MaxBytes)
	}
	if u.MaxInodes > 0 && source.Inodes-source.Inodes/part > u.MaxInodes {
		return fmt.Errorf("%w: the source uses %d inodes, the destination has %d", ErrNoSpace, source.Inodes, u.MaxInodes)
	}
	return nil
}
