package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// prefix begins the name of everything a Lab makes where others make things too.
const prefix = "drs-lab-"

// lockFile is locked by the one Lab of a machine.
const lockFile = "/run/drs-lab.lock"

// settleLimit is how long the kernel may take to clean up behind ended processes.
const settleLimit = 30 * time.Second

// Config says what a Lab is made from.
type Config struct {
	// Tools is the directory of the programs that `make kube kube-node` builds: kube,
	// node/kube-node, node/containerd and so on.
	Tools string
	// Dir is where the directory of the run is made; the system's for temporary files if
	// empty. Its file system has to allow device and program files.
	Dir string
	// Log is told what is done.
	Log *slog.Logger
}

// Lab is the clusters of one run. Its methods may be used at once.
type Lab struct {
	cfg  Config
	dir  string
	lock *os.File

	mu       sync.Mutex
	clusters []*Cluster
	links    int
}

// Open makes a Lab, when no other is open on this machine, and removes what a run
// that was killed has left. The caller closes it.
func Open(ctx context.Context, cfg Config) (*Lab, error) {
	if err := check(cfg.Tools); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		cfg.Dir = os.TempDir()
	}
	lock, err := acquire(ctx, cfg.Log)
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, lock: lock}
	if err := l.sweep(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("remove what an earlier run left: %w", err), lock.Close())
	}
	if l.dir, err = os.MkdirTemp(cfg.Dir, prefix); err != nil {
		return nil, errors.Join(fmt.Errorf("make the directory of the lab: %w", err), lock.Close())
	}
	return l, nil
}

// check says what is missing, and its cure.
func check(tools string) error {
	if os.Geteuid() != 0 {
		return errors.New("start nodes: that needs root. Run as root, or in a virtual machine where you are")
	}
	for _, name := range []string{"kube", "node/kube-node", "node/containerd", "node/containerd-shim-runc-v2", "node/ctr", "node/pause"} {
		if _, err := os.Stat(filepath.Join(tools, name)); err != nil {
			return fmt.Errorf("find %s: %w; run `make kube kube-node` first", name, err)
		}
	}
	for _, name := range []string{"runc", "nft", "iptables", "ip", "nsenter", "conntrack"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("find %s: %w; run `make kube-node` first, or see there what to install", name, err)
		}
	}
	return nil
}

// acquire takes the lock that the only Lab of a machine holds. It ends with the process.
func acquire(ctx context.Context, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the machine for nodes: %w", err)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", lockFile, err), f.Close())
		}
		if !said {
			log.Info("waiting for another lab on this machine to end")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %q: %w", lockFile, ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}

// Close ends all clusters and removes what there is of the run. It does nothing for
// nil, and the second time.
func (l *Lab) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock == nil {
		return nil
	}
	errs := make([]error, 0, len(l.clusters)+2)
	for _, c := range l.clusters {
		errs = append(errs, c.close())
	}
	errs = append(errs, l.sweep(context.Background()), l.lock.Close())
	l.clusters, l.lock = nil, nil
	return errors.Join(errs...)
}

// sweep removes the cables, cgroups and directories of all labs. As there is one lab at a time
// and its processes end with it, nothing uses them.
func (l *Lab) sweep(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(l.cfg.Dir, prefix+"*", machineDir+"*"))
	if err != nil {
		return err
	}
	runs, err := filepath.Glob(filepath.Join(l.cfg.Dir, prefix+"*"))
	if err != nil {
		return err
	}
	errs := []error{removeCables(ctx)}
	for _, dir := range dirs {
		errs = append(errs, removeCgroups(cgroupOf(dir)))
	}
	for _, run := range runs {
		errs = append(errs, settle(func() error { return os.RemoveAll(run) }))
	}
	return errors.Join(errs...)
}

// kubeConfig is the control plane of a cluster on machine m.
func (l *Lab) kubeConfig(m *machine) kubetest.Config {
	return kubetest.Config{
		Dir: filepath.Join(m.dir, "plane"), Binary: filepath.Join(l.cfg.Tools, "kube"), Controllers: true,
		Machine: &kubetest.Machine{Address: m.address, Enter: m.enterNetwork(), Services: m.services},
		// Away from the ports that the control plane itself takes.
		APIServerArgs: []string{"--service-node-port-range=32100-32700"},
	}
}
