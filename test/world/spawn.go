package world

import (
	"os/exec"
	"runtime"
	"sync"
)

// spawner starts processes from one thread that lives as long as the program:
// Pdeathsig fires when the thread that started a process ends, not when the
// program does.
var spawner = sync.OnceValue(func() chan spawn {
	requests := make(chan spawn)
	go func() {
		runtime.LockOSThread()
		for r := range requests {
			r.done <- r.cmd.Start()
		}
	}()
	return requests
})

type spawn struct {
	cmd  *exec.Cmd
	done chan error
}

func startLocked(cmd *exec.Cmd) error {
	done := make(chan error)
	spawner() <- spawn{cmd, done}
	return <-done
}
