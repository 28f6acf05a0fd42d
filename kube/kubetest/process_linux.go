package kubetest

import "syscall"

// dieWithParent puts a child into a process group of its own, so that a Ctrl-C
// reaches its owner first, and has the kernel kill it should the owner die.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
