package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/kube"
)

// EnvBinary names the environment variable that holds the path of the binary of
// all control-plane programs; without it, .cache/bin/kube of the repository is used.
const EnvBinary = "DRS_KUBE"

// readyLimit is how long a program may take until it serves, on a busy machine.
const readyLimit = 90 * time.Second

// Config says what cluster to launch.
type Config struct {
	// Dir is an empty directory that everything is kept in: data, keys, logs.
	Dir string
	// Binary is the path of the control-plane binary. Empty: see EnvBinary.
	Binary string
	// Controllers adds the controller manager: namespace deletion, garbage
	// collection, service accounts, workloads.
	Controllers bool
	// APIServerArgs are further flags of kube-apiserver.
	APIServerArgs []string
	// Machine is where the programs run, if nodes are to join. Without one it is this
	// machine, at its loopback address.
	Machine *Machine
}

// Machine is a machine of a cluster's own: a network namespace.
type Machine struct {
	// Address is the machine's, which this process and the cluster's nodes reach.
	Address netip.Addr
	// Enter is the command, with its arguments, that runs the command that follows in
	// the machine and becomes it.
	Enter []string
	// Services is the range of the addresses of Services.
	Services netip.Prefix
}

// Cluster is a running control plane. Its methods are safe for concurrent use, but
// those that stop and start it exclude each other. A Cluster of a test (Start,
// Shared) fails the test at once where a method returns an error.
type Cluster struct {
	*plane
	fail func(err error) // nil outside of tests
}

// plane is the cluster itself, which several handles may share.
type plane struct {
	cfg        Config
	ca         *authority
	kubeconfig string
	etcdAddr   string
	etcdPeer   string
	serverAddr string
	http       *http.Client // admin, for probes

	mu          sync.Mutex // serializes starts and stops
	etcd        *process
	server      *process
	controllers *process

	once    sync.Once
	client  *kube.Client
	connect error

	usersMu sync.Mutex
	users   int
	proxies []*Proxy
}

// Launch starts a cluster and waits until it is ready. The caller closes it.
func Launch(ctx context.Context, cfg Config) (*Cluster, error) {
	p := &plane{cfg: cfg}
	if p.cfg.Binary == "" {
		binary, err := findBinary()
		if err != nil {
			return nil, err
		}
		p.cfg.Binary = binary
	}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("prepare cluster in %q: %w", cfg.Dir, err)
	}
	c := &Cluster{plane: p}
	// Another process may take a port between its choice and its use: choose again.
	var err error
	for range 3 {
		if err = p.choosePorts(); err != nil {
			return nil, err
		}
		p.mu.Lock()
		err = p.start(ctx)
		p.mu.Unlock()
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// findBinary returns the control-plane binary's path or says how to get it.
func findBinary() (string, error) {
	path := os.Getenv(EnvBinary)
	if path == "" {
		root, err := repositoryRoot()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, ".cache", "bin", "kube")
	}
	if _, err := os.Stat(path); err != nil { //nolint:gosec // the developer's own environment says where
		return "", fmt.Errorf("control-plane binary %q is missing: run `make kube` first (or set %s)", path, EnvBinary)
	}
	return path, nil
}

// repositoryRoot is the nearest directory above the working directory that
// holds test/kube, which only the repository's root does.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "kube", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("the working directory is not in the repository: set %s to the binary that `make kube` builds", EnvBinary)
		}
		dir = parent
	}
}

func (p *plane) path(name string) string { return filepath.Join(p.cfg.Dir, name) }

// prepare makes keys and certificates.
func (p *plane) prepare() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	p.ca = ca
	hosts := []net.IP{net.IPv4(127, 0, 0, 1)}
	if m := p.cfg.Machine; m != nil {
		hosts = append(hosts, m.Address.AsSlice(), m.Services.Addr().Next().AsSlice()) // the first is that of the API server itself
	}
	cert, key, err := ca.issue(pkix.Name{CommonName: "kube-apiserver"}, hosts...)
	if err != nil {
		return err
	}
	serviceKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("generate service account key: %w", err)
	}
	return writeFiles(map[string][]byte{
		p.path("ca.crt"):     ca.pem,
		p.path("server.crt"): cert,
		p.path("server.key"): key,
		p.path("sa.key"): pem.EncodeToMemory(&pem.Block{
			Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(serviceKey),
		}),
	})
}

// choosePorts picks addresses and writes the admin's kubeconfig for them.
func (p *plane) choosePorts() error {
	for _, addr := range []*string{&p.etcdAddr, &p.etcdPeer, &p.serverAddr} {
		free, err := FreeAddress()
		if err != nil {
			return err
		}
		if m := p.cfg.Machine; m != nil {
			_, port, _ := net.SplitHostPort(free)
			free = net.JoinHostPort(m.Address.String(), port)
		}
		*addr = free
	}
	cert, key, err := p.ca.issue(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("load admin certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.ca.cert)
	p.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}
	p.kubeconfig = p.path("admin.kubeconfig")
	return writeFiles(map[string][]byte{p.kubeconfig: p.kubeconfigFor(p.serverAddr, cert, key)})
}

// kubeconfigFor is the kubeconfig of the user with this certificate.
func (p *plane) kubeconfigFor(addr string, cert, key []byte) []byte {
	enc := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: kubetest
contexts:
- name: kubetest
  context: {cluster: kubetest, user: user}
clusters:
- name: kubetest
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: user
  user:
    client-certificate-data: %s
    client-key-data: %s
`, addr, enc(p.ca.pem), enc(cert), enc(key))
}

// start starts what is not running and waits until it serves.
func (p *plane) start(ctx context.Context) error {
	if err := p.startEtcd(ctx); err != nil {
		return err
	}
	if p.server == nil || !p.server.running() {
		server, err := p.spawn("kube-apiserver", p.serverArgs()...)
		if err != nil {
			return err
		}
		p.server = server
	}
	if err := p.server.waitFor(ctx, readyLimit, p.ready); err != nil {
		return err
	}
	if p.cfg.Controllers && (p.controllers == nil || !p.controllers.running()) {
		controllers, err := p.spawn("kube-controller-manager",
			"--kubeconfig="+p.kubeconfig,
			"--authentication-kubeconfig="+p.kubeconfig,
			"--authorization-kubeconfig="+p.kubeconfig,
			"--service-account-private-key-file="+p.path("sa.key"),
			"--root-ca-file="+p.path("ca.crt"),
			"--leader-elect=false",
			"--secure-port=0",
			"--min-resync-period=1h",
		)
		if err != nil {
			return err
		}
		p.controllers = controllers
		// The default service account is the sign that controllers run.
		return controllers.waitFor(ctx, readyLimit, func(ctx context.Context) error {
			return p.probe(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
		})
	}
	return nil
}

// spawn starts a program of the control plane where it is to run.
func (p *plane) spawn(name string, args ...string) (*process, error) {
	var enter []string
	if p.cfg.Machine != nil {
		enter = p.cfg.Machine.Enter
	}
	return spawn(enter, p.cfg.Binary, name, p.path(name+".log"), args...)
}

func (p *plane) startEtcd(ctx context.Context) error {
	if p.etcd != nil && p.etcd.running() {
		return nil
	}
	etcd, err := p.spawn("etcd",
		"--dir="+p.path("etcd"), "--client-addr="+p.etcdAddr, "--peer-addr="+p.etcdPeer)
	if err != nil {
		return err
	}
	p.etcd = etcd
	return etcd.waitFor(ctx, readyLimit, func(ctx context.Context) error {
		_, err := p.etcdCall(ctx, "/v3/maintenance/status", "{}")
		return err
	})
}

func (p *plane) serverArgs() []string {
	host, port, _ := net.SplitHostPort(p.serverAddr)
	services, endpoints := "10.96.0.0/16", "none"
	if m := p.cfg.Machine; m != nil { // there are Pods, which reach the server by its Service
		services, endpoints = m.Services.String(), "lease"
	}
	return append([]string{
		"--etcd-servers=http://" + p.etcdAddr,
		"--bind-address=" + host,
		"--secure-port=" + port,
		"--advertise-address=" + host,
		"--endpoint-reconciler-type=" + endpoints,
		"--cert-dir=" + p.path("certs"),
		"--tls-cert-file=" + p.path("server.crt"),
		"--tls-private-key-file=" + p.path("server.key"),
		"--client-ca-file=" + p.path("ca.crt"),
		"--service-account-key-file=" + p.path("sa.key"),
		"--service-account-signing-key-file=" + p.path("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=" + services,
		"--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP",
	}, p.cfg.APIServerArgs...)
}

// ready succeeds when the API server is ready and has made the system namespaces.
func (p *plane) ready(ctx context.Context) error {
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default", "/api/v1/namespaces/kube-system"} {
		if err := p.probe(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// probe succeeds when GET path is answered with 200.
func (p *plane) probe(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.serverAddr+path, nil)
	if err != nil {
		return fmt.Errorf("probe %s: %w", path, err)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("probe %s: %s", path, resp.Status)
	}
	return nil
}

// etcdCall posts to etcd's JSON gateway.
func (p *plane) etcdCall(ctx context.Context, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.etcdAddr+path, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call etcd %s: %w", path, err)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call etcd %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("call etcd %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("call etcd %s: %s: %s", path, resp.Status, data)
	}
	return data, nil
}

// report hands err to the test, if there is one, and returns it.
func (c *Cluster) report(err error) error {
	if err != nil && c.fail != nil {
		c.fail(err)
	}
	return err
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// Dir is where the cluster keeps its data, keys and logs.
func (c *Cluster) Dir() string { return c.cfg.Dir }

// Client is the administrator's client, the same at every call.
func (c *Cluster) Client() *kube.Client {
	c.once.Do(func() { c.client, c.connect = kube.Connect(kube.Settings{Kubeconfig: c.kubeconfig}) })
	_ = c.report(c.connect)
	return c.client
}

// Kubectl runs kubectl as the administrator and returns what it prints.
func (c *Cluster) Kubectl(args ...string) (string, error) {
	return c.kubectl("", args...)
}

func (c *Cluster) kubectl(stdin string, args ...string) (string, error) {
	//nolint:gosec // running kubectl with the caller's arguments is the purpose
	cmd := exec.Command(c.cfg.Binary, append([]string{"kubectl", "--kubeconfig=" + c.kubeconfig, "--cache-dir=" + c.path("kubectl")}, args...)...)
	cmd.SysProcAttr = dieWithParent()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Apply creates or changes the objects in yaml, server-side, as kubectl.
func (c *Cluster) Apply(yaml string) error {
	_, err := c.kubectl(yaml, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return c.report(err)
}

// Remove deletes the objects in yaml and waits until they are gone.
func (c *Cluster) Remove(yaml string) error {
	_, err := c.kubectl(yaml, "delete", "--ignore-not-found", "-f", "-")
	return c.report(err)
}

// User returns the kubeconfig of a user in the given groups who has no rights
// but those that RBAC objects of the test's own bind to the name or groups.
func (c *Cluster) User(name string, groups ...string) string {
	path, err := c.userConfig(name, groups)
	_ = c.report(err)
	return path
}

func (p *plane) userConfig(name string, groups []string) (string, error) {
	cert, key, err := p.ca.issue(pkix.Name{CommonName: name, Organization: groups})
	if err != nil {
		return "", err
	}
	p.usersMu.Lock()
	defer p.usersMu.Unlock()
	p.users++
	path := p.path(fmt.Sprintf("user-%d.kubeconfig", p.users))
	return path, writeFiles(map[string][]byte{path: p.kubeconfigFor(p.serverAddr, cert, key)})
}

// Close ends all processes, proxies and connections. Closing again does nothing.
func (c *Cluster) Close() error {
	c.usersMu.Lock()
	proxies := c.proxies
	c.proxies = nil
	c.usersMu.Unlock()
	for _, proxy := range proxies {
		proxy.Close()
	}
	c.once.Do(func() { c.connect = errors.New("the cluster is closed") })
	if c.client != nil {
		c.client.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nothing of the data is needed any more, so nobody has to finish in order.
	return errors.Join(c.controllers.stop(true), c.server.stop(true), c.etcd.stop(true))
}
