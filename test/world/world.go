package world

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
)

// Options say what to build the stage from.
type Options struct {
	// Dir holds everything: clusters' data, logs, the store of the log.
	Dir string
	// Bin is the directory of the product's binaries.
	Bin string
	// ExternalLog, if not empty, is a nats-server binary to run as a third process
	// instead of the server embedded in the applier.
	ExternalLog string
	// Linked has the collector hold the log and link it to the applier's, through
	// LinkVia (host:port) if that is not empty.
	Linked  bool
	LinkVia string
	// Controllers runs a controller manager in both clusters.
	Controllers bool
	// CollectorConfig, if not empty, is the collector's configuration (YAML).
	CollectorConfig string
	// CollectorArgs and ApplierArgs are added to the command lines.
	CollectorArgs, ApplierArgs []string
}

// World is two clusters and the product between them.
type World struct {
	Prod, DR           *kubetest.Cluster
	Collector, Applier *Process
	// Log is the external server; nil when the log is embedded.
	Log *Process
	// NATS is the address of the log; Link is where the applier takes links.
	NATS, Link string
	// CollectorURL and ApplierURL are the side ports (/readyz, /metrics).
	CollectorURL, ApplierURL string
}

// Site is the name of the source in a World.
const Site = "prod"

// New starts both clusters, installs the CRDs in the destination and prepares
// the product's processes without starting them.
func New(ctx context.Context, o Options) (*World, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	if o.Bin == "" {
		o.Bin = filepath.Join(root, "bin")
	}
	for _, b := range []string{"collector", "applier"} {
		if _, err := os.Stat(filepath.Join(o.Bin, b)); err != nil {
			return nil, fmt.Errorf("find the %s: %w; run `make build` first", b, err)
		}
	}
	w := &World{}
	for name, c := range map[string]**kubetest.Cluster{"prod": &w.Prod, "dr": &w.DR} {
		dir := filepath.Join(o.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.Close()
			return nil, fmt.Errorf("make the directory of cluster %q: %w", name, err)
		}
		if *c, err = kubetest.Launch(ctx, kubetest.Config{Dir: dir, Controllers: o.Controllers}); err != nil {
			w.Close()
			return nil, fmt.Errorf("start cluster %q: %w", name, err)
		}
	}
	if out, err := w.DR.Kubectl("apply", "--server-side", "-f", filepath.Join(root, "charts", "dr-syncer", "crds")); err != nil {
		w.Close()
		return nil, fmt.Errorf("install the custom resources: %w\n%s", err, out)
	}
	ports, err := FreePorts(4)
	if err != nil {
		w.Close()
		return nil, err
	}
	w.NATS = fmt.Sprintf("nats://127.0.0.1:%d", ports[0])
	w.CollectorURL = fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	w.ApplierURL = fmt.Sprintf("http://127.0.0.1:%d", ports[2])
	log, err := w.logArgs(o, fmt.Sprintf("127.0.0.1:%d", ports[3]))
	if err != nil {
		w.Close()
		return nil, err
	}
	w.Collector = &Process{
		Name: "collector", Path: filepath.Join(o.Bin, "collector"), Log: filepath.Join(o.Dir, "collector.log"), Ready: w.CollectorURL + "/readyz",
		Args: slices.Concat([]string{
			"--site", Site, "--kubeconfig", w.Prod.Kubeconfig(),
			"--listen", fmt.Sprintf("127.0.0.1:%d", ports[1]), "--leader-elect=false",
		}, log.collector, o.CollectorArgs),
	}
	if o.CollectorConfig != "" {
		path := filepath.Join(o.Dir, "collector.yaml")
		if err := os.WriteFile(path, []byte(o.CollectorConfig), 0o600); err != nil {
			w.Close()
			return nil, fmt.Errorf("write the collector's configuration: %w", err)
		}
		w.Collector.Args = append(w.Collector.Args, "--config", path)
	}
	args := []string{"--kubeconfig", w.DR.Kubeconfig(), "--listen", fmt.Sprintf("127.0.0.1:%d", ports[2]), "--leader-elect=false"}
	store := filepath.Join(o.Dir, "log")
	if o.ExternalLog != "" {
		w.Log, err = externalLog(o, store, ports[0])
		if err != nil {
			w.Close()
			return nil, err
		}
		args = append(args, "--nats-url", w.NATS)
	} else {
		args = append(args, "--store-dir", store, "--nats-listen", fmt.Sprintf("127.0.0.1:%d", ports[0]))
	}
	args = append(args, log.applier...)
	w.Applier = &Process{
		Name: "applier", Path: filepath.Join(o.Bin, "applier"), Log: filepath.Join(o.Dir, "applier.log"), Ready: w.ApplierURL + "/readyz",
		Args: append(args, o.ApplierArgs...),
	}
	return w, nil
}

// logArgs are what tells the two programs where the log is.
type logArgs struct{ collector, applier []string }

// logArgs makes the arguments for a log at the applier's side, or for one that the collector holds
// and links to the applier's address link.
func (w *World) logArgs(o Options, link string) (logArgs, error) {
	if !o.Linked {
		return logArgs{collector: []string{"--nats-url", w.NATS}}, nil
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return logArgs{}, fmt.Errorf("make the key of the link: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return logArgs{}, fmt.Errorf("make the key of the link: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return logArgs{}, fmt.Errorf("make the key of the link: %w", err)
	}
	seedFile, users := filepath.Join(o.Dir, "link.seed"), filepath.Join(o.Dir, "users")
	for path, text := range map[string]string{seedFile: string(seed), users: Site + " " + public + " link\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return logArgs{}, fmt.Errorf("write the key of the link: %w", err)
		}
	}
	w.Link = link
	via := link
	if o.LinkVia != "" {
		via = o.LinkVia
	}
	return logArgs{
		collector: []string{"--link-url", "nats://" + via, "--link-no-tls", "--link-nkey", seedFile, "--store-dir", filepath.Join(o.Dir, "source-log")},
		applier:   []string{"--link-listen", link, "--nats-users-file", users},
	}, nil
}

func externalLog(o Options, store string, port int) (*Process, error) {
	path := filepath.Join(o.Dir, "nats.conf")
	monitor, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nhttp: \"127.0.0.1:%d\"\nmax_payload: 8MB\njetstream { store_dir: %q, sync_interval: always }\n", port, monitor[0], store)
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("write the server's configuration: %w", err)
	}
	return &Process{
		Name: "nats-server", Path: o.ExternalLog, Args: []string{"-c", path}, Log: filepath.Join(o.Dir, "nats.log"),
		Ready: fmt.Sprintf("http://127.0.0.1:%d/healthz", monitor[0]),
	}, nil
}

// Start starts the product: log, applier, collector.
func (w *World) Start(ctx context.Context) error {
	for _, p := range []*Process{w.Log, w.Applier, w.Collector} {
		if p == nil {
			continue
		}
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends everything that runs. It may be called again and on a World half made.
func (w *World) Close() {
	for _, p := range []*Process{w.Collector, w.Applier, w.Log} {
		if p == nil {
			continue
		}
		p.Thaw()
		if p.Stop(15*time.Second) != nil {
			p.Kill()
		}
	}
	for _, c := range []*kubetest.Cluster{w.Prod, w.DR} {
		if c != nil {
			_ = c.Close() // what is left of it is on disk for whoever looks
		}
	}
}

// Root is the directory of the module's go.mod.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	return filepath.Dir(string(out)), nil
}

// FreePorts returns n TCP ports of the loopback address, as kubetest.FreeAddress does.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		addr, err := kubetest.FreeAddress()
		if err != nil {
			return nil, err
		}
		if _, port, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("read the address %q: %w", addr, err)
		} else if ports[i], err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("read the address %q: %w", addr, err)
		}
	}
	return ports, nil
}
