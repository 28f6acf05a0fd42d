package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// machineDir begins the name of a machine's directory in that of its lab.
const machineDir = "machine-"

// machine is a process with a network, mounts and process ids of its own, for other
// programs to run in. All of them end with it, and it ends with ours.
type machine struct {
	dir      string
	init     *exec.Cmd
	done     chan struct{}
	address  netip.Addr   // of the machine, as this one reaches it
	pods     netip.Prefix // addresses of its Pods
	services netip.Prefix // addresses of its cluster's Services
}

// startMachine starts the n-th machine of the lab, whose directory is dir.
func startMachine(ctx context.Context, dir, pause string, n int) (*machine, error) {
	m := &machine{
		dir: dir, done: make(chan struct{}),
		// For tests of network devices, so that nobody has them (RFC 2544).
		address:  netip.AddrFrom4([4]byte{198, 18, byte(n), 2}),
		pods:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 240, byte(n), 0}), 24),
		services: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 241, byte(n), 0}), 24),
	}
	for _, sub := range []string{"plane", "lib", "log", "etc", "volumes"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make the machine's directory: %w", err)
		}
	}
	m.init = exec.Command(pause)
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS,
		Setpgid: true, Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	go func() {
		// The signal for the parent's death is for that of the thread, which is therefore kept.
		runtime.LockOSThread()
		defer close(m.done)
		err := m.init.Start()
		started <- err
		if err == nil {
			_ = m.init.Wait() // it is killed in the end
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	if err := errors.Join(makeCgroups(cgroupOf(dir)), m.furnish(ctx, n)); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	return m, nil
}

// furnish gives the machine what its programs expect: its own /proc, /run, /var/lib
// and /var/log, and a cable to this machine. The mounts are shared, or Pods could not
// have volumes that they see changes of.
func (m *machine) furnish(ctx context.Context, n int) error {
	host := netip.AddrFrom4([4]byte{198, 18, byte(n), 1})
	pid := strconv.Itoa(m.init.Process.Pid)
	outside := prefix + strconv.Itoa(n)
	if err := run(ctx, "ip", "link", "add", outside, "type", "veth", "peer", "name", "host", "netns", pid); err != nil {
		return err
	}
	if err := run(ctx, "ip", "address", "add", host.String()+"/30", "dev", outside); err != nil {
		return err
	}
	if err := run(ctx, "ip", "link", "set", outside, "up"); err != nil {
		return err
	}
	_, err := m.run(ctx, "sh", "-ec", `
mount -t proc proc /proc
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
ip link set lo up
ip address add "$2/30" dev host
ip link set host up
echo 1 >/proc/sys/net/ipv4/ip_forward`, "sh", m.dir, m.address.String())
	return err
}

// removeCables removes this machine's ends of the cables to machines. They go with the
// machines, but not before the last of their connections has been given up.
func removeCables(ctx context.Context) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("look for cables: %w", err)
	}
	var errs []error
	for _, i := range interfaces {
		if !strings.HasPrefix(i.Name, prefix) {
			continue
		}
		errs = append(errs, settle(func() error {
			if _, err := net.InterfaceByName(i.Name); err != nil {
				return nil //nolint:nilerr // it is gone by itself
			}
			return run(ctx, "ip", "link", "delete", i.Name)
		}))
	}
	return errors.Join(errs...)
}

// enterNetwork is the command that runs another one, and becomes it, in the machine's
// network, with this machine's files and processes.
func (m *machine) enterNetwork() []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", m.init.Process.Pid)}
}

// enter is the command that runs another one in the machine.
func (m *machine) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(m.init.Process.Pid), "--net", "--mount", "--pid"}
}

// run runs a command in the machine and returns what it prints.
func (m *machine) run(ctx context.Context, line ...string) (string, error) {
	full := append(m.enter(), line...)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s in the machine: %w: %s", line[0], err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// stop ends the machine and waits until nothing runs in it. Stopping it again does nothing.
func (m *machine) stop() error {
	select {
	case <-m.done:
		return nil
	default:
	}
	if err := m.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop machine: %w", err)
	}
	<-m.done // the kernel reports the first process's end when all others have ended
	return nil
}

// cgroupOf is the name of the cgroup of the Pods of the machine with that directory.
func cgroupOf(dir string) string {
	return filepath.Base(filepath.Dir(dir)) + "-" + strings.TrimPrefix(filepath.Base(dir), machineDir)
}

// run runs a command on this machine.
func run(ctx context.Context, line ...string) error {
	if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
