package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hierarchies returns the roots of the cgroups: one for each controller in version 1, one
// for all in version 2.
func hierarchies() ([]string, error) {
	const mount = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
		return []string{mount}, nil
	}
	roots, err := filepath.Glob(filepath.Join(mount, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	for i := range roots {
		roots[i] = filepath.Dir(roots[i])
	}
	return roots, nil
}

// makeCgroups makes the cgroup of that name in each hierarchy.
func makeCgroups(name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			errs = append(errs, fmt.Errorf("make cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroups ends what runs in the cgroups of that name, of each hierarchy, and
// removes them.
func removeCgroups(name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		errs = append(errs, removeCgroup(filepath.Join(root, name)))
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	err = settle(func() error {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		killAll(filepath.Join(dir, "cgroup.procs"))
		return fmt.Errorf("remove cgroup %q: %w", dir, err)
	})
	return errors.Join(append(errs, err)...)
}

// settle tries until it works or the kernel has had its time.
func settle(try func() error) error {
	deadline := time.Now().Add(settleLimit)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}

// killAll ends the processes that a file lists.
func killAll(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return // gone meanwhile, as it should be
	}
	for line := range strings.FieldsSeq(string(text)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
