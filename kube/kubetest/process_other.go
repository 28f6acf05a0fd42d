//go:build unix && !linux

package kubetest

import "syscall"

// dieWithParent puts a child into a process group of its own, so that a Ctrl-C
// reaches its owner first. This system cannot tie a child's life to its parent's.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
