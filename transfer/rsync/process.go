package rsync

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup has the command end with all its children when its context does: asked
// first, so that files are left in order, killed when it does not.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
}

// reap kills what a finished command has left of its group.
func reap(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // most often nothing is left
}

// exitStatus is the exit code that err of Wait stands for; an end by a signal is
// 128 and the signal, as shells have it.
func exitStatus(err error) int {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return codeOK
	case !ok:
		return codeLost
	case exit.ExitCode() >= 0:
		return exit.ExitCode()
	}
	const bySignal = 128
	if status, ok := exit.Sys().(syscall.WaitStatus); ok {
		return bySignal + int(status.Signal())
	}
	return codeLost
}

// pipeSize is what a pipe to or from rsync should hold: fewer switches between processes.
const pipeSize = 1 << 20

// widen makes the pipes larger, as far as the system lets it.
func widen(pipes ...any) {
	for _, p := range pipes {
		if f, ok := p.(*os.File); ok {
			_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize) // smaller works as well
			_ = unix.SetNonblock(int(f.Fd()), true)                   // Fd has made it blocking
		}
	}
}
