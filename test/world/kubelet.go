package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/dr-syncer/dr-syncer/kube/kubetest"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// Kubelet is a node for movers, without containers: it runs those of one cluster as processes, on directories that stand for
// the claims, and does of a kubelet, a scheduler and a provisioner what movers need. Each Pod has an address of its own on the loopback.
type Kubelet struct {
	// Dir is where everything lies, claims in Dir/claims/NAMESPACE/NAME.
	Dir string
	// Binary is the mover, Rsync the program that it runs.
	Binary, Rsync string
	// Node is its name.
	Node string

	client client.Client
	logs   *httptest.Server
	stop   context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	pods  map[string]*runningPod // by UID
	next  int
	fails []error
	works []string
}

type runningPod struct {
	process   *Process
	dir       string
	ip        string
	namespace string
	name      string
	role      string
	config    string
	told      corev1.PodPhase
}

// Start registers the node and begins to run what is there to be run.
func (k *Kubelet) Start(ctx context.Context, c *kubetest.Cluster) (err error) {
	log.SetLogger(logr.Discard()) // or the library complains that nobody did
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return err
	}
	if k.client, err = client.New(c.Client().REST(), client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("connect the node: %w", err)
	}
	k.pods, k.done = map[string]*runningPod{}, make(chan struct{})
	k.logs = httptest.NewTLSServer(http.HandlerFunc(k.serveLogs))
	at, err := url.Parse(k.logs.URL)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(at.Port(), 10, 32)
	if err != nil {
		return err
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Node}}
	if err := k.client.Create(ctx, node); err != nil {
		return fmt.Errorf("register the node: %w", err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	if err := k.client.Status().Update(ctx, node); err != nil {
		return fmt.Errorf("register the node: %w", err)
	}
	ctx, k.stop = context.WithCancel(ctx)
	go k.run(ctx)
	return nil
}

// Close ends all movers and waits until the node is gone. It returns what went wrong meanwhile.
func (k *Kubelet) Close() error {
	k.stop()
	<-k.done
	k.logs.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		p.process.Kill()
	}
	for _, dir := range k.works {
		k.fails = append(k.fails, os.RemoveAll(dir))
	}
	return errors.Join(k.fails...)
}

// Claim is the directory of a claim.
func (k *Kubelet) Claim(namespace, name string) (string, error) {
	dir := filepath.Join(k.Dir, "claims", namespace, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// Kill kills the movers of a role with kill -9, and returns how many there were.
func (k *Kubelet) Kill(role string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, p := range k.pods {
		if p.role == role && p.process.Alive() {
			p.process.Kill()
			n++
		}
	}
	return n
}

// Running are the movers that run, by role.
func (k *Kubelet) Running() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := map[string]int{}
	for _, p := range k.pods {
		if p.process.Alive() {
			n[p.role]++
		}
	}
	return n
}

// Tails is the end of what each mover has said.
func (k *Kubelet) Tails() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, p := range k.pods {
		fmt.Fprintf(&b, "%s %s:\n%s\n", p.role, p.name, p.process.Tail(15))
	}
	return b.String()
}

func (k *Kubelet) run(ctx context.Context) {
	defer close(k.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := k.turn(ctx); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			k.mu.Lock()
			const enough = 10
			if len(k.fails) < enough {
				k.fails = append(k.fails, err)
			}
			k.mu.Unlock()
		}
	}
}

// turn brings everything to where it should be.
func (k *Kubelet) turn(ctx context.Context) error {
	var errs []error
	claims := &corev1.PersistentVolumeClaimList{}
	if err := k.client.List(ctx, claims); err != nil {
		return err
	}
	for i := range claims.Items {
		errs = append(errs, k.provide(ctx, &claims.Items[i]))
	}
	pods := &corev1.PodList{}
	if err := k.client.List(ctx, pods, client.HasLabels{transfer.LabelEnd}); err != nil {
		return err
	}
	present := map[string]bool{}
	for i := range pods.Items {
		present[string(pods.Items[i].UID)] = true
		errs = append(errs, k.sync(ctx, &pods.Items[i]))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, p := range k.pods {
		if !present[uid] {
			p.process.Kill()
			delete(k.pods, uid)
		}
	}
	return errors.Join(errs...)
}

// provide binds a claim, and grows it.
func (k *Kubelet) provide(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	asked := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := c.Status.Capacity[corev1.ResourceStorage]; c.Status.Phase == corev1.ClaimBound && has.Cmp(asked) >= 0 {
		return nil
	}
	c.Status.Phase, c.Status.AccessModes = corev1.ClaimBound, c.Spec.AccessModes
	c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: asked}
	return k.client.Status().Update(ctx, c)
}

// sync brings one Pod to where it should be.
func (k *Kubelet) sync(ctx context.Context, pod *corev1.Pod) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pods[string(pod.UID)]
	switch {
	case pod.DeletionTimestamp != nil:
		if p != nil {
			p.process.Kill()
			delete(k.pods, string(pod.UID))
		}
		now := int64(0)
		return k.client.Delete(ctx, pod, &client.DeleteOptions{GracePeriodSeconds: &now})
	case pod.Spec.NodeName == "":
		return k.client.SubResource("binding").Create(ctx, pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: k.Node}})
	case p == nil && pod.Status.Phase != corev1.PodPending:
		return nil // of an earlier life
	case p == nil:
		started, err := k.launch(ctx, pod)
		if started != nil {
			k.pods[string(pod.UID)] = started
		}
		return err
	}
	if err := k.configure(ctx, pod, p); err != nil {
		return err
	}
	phase, state := corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	if !p.process.Alive() {
		end := &corev1.ContainerStateTerminated{Reason: "Completed"}
		phase = corev1.PodSucceeded
		if err := p.process.exitError(); err != nil {
			phase, end.Reason, end.ExitCode = corev1.PodFailed, "Error", 1
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				end.ExitCode = int32(max(exit.ExitCode(), 1))
			}
		}
		text, err := os.ReadFile(filepath.Join(p.dir, "termination"))
		if err != nil {
			return err
		}
		end.Message = string(text)
		state = corev1.ContainerState{Terminated: end}
	}
	if p.told == phase {
		return nil
	}
	pod.Status.Phase, pod.Status.PodIP = phase, p.ip
	pod.Status.PodIPs = []corev1.PodIP{{IP: p.ip}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, Image: pod.Spec.Containers[0].Image, State: state}}
	if err := k.client.Status().Update(ctx, pod); err != nil {
		return err
	}
	p.told = phase
	return nil
}

// launch starts a Pod's process.
func (k *Kubelet) launch(ctx context.Context, pod *corev1.Pod) (*runningPod, error) {
	k.next++
	const perByte = 250
	p := &runningPod{
		dir: filepath.Join(k.Dir, "pods", string(pod.UID)), namespace: pod.Namespace, name: pod.Name, role: pod.Labels[transfer.LabelEnd],
		ip: fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%128, 1+k.next/perByte, 1+k.next%perByte),
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "termination"), nil, 0o600); err != nil {
		return nil, err
	}
	if err := k.configure(ctx, pod, p); err != nil {
		return nil, err
	}
	p.process = &Process{Name: pod.Name, Path: k.Binary, Log: filepath.Join(p.dir, "log")}
	work, err := os.MkdirTemp("/tmp", "drs") // the path of a socket has to be short
	if err != nil {
		return nil, err
	}
	k.works = append(k.works, work)
	in := strings.NewReplacer("/etc/mover", p.dir, "/dev/termination-log", filepath.Join(p.dir, "termination"), "/work", work)
	for _, arg := range pod.Spec.Containers[0].Args {
		p.process.Args = append(p.process.Args, in.Replace(arg))
	}
	if err := p.process.Launch(); err != nil {
		return nil, err
	}
	return p, nil
}

// configure writes the Pod's Secret where its process reads it, with the paths and the address that it has here.
func (k *Kubelet) configure(ctx context.Context, pod *corev1.Pod, p *runningPod) error {
	var claim, name string
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			claim = v.PersistentVolumeClaim.ClaimName
		case v.Secret != nil:
			name = v.Secret.SecretName
		}
	}
	secret := &corev1.Secret{}
	if err := k.client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, secret); err != nil {
		return err
	}
	if string(secret.Data["config.json"]) == p.config {
		return nil
	}
	var c map[string]any
	if err := json.Unmarshal(secret.Data["config.json"], &c); err != nil {
		return fmt.Errorf("read the configuration of %s: %w", pod.Name, err)
	}
	dir, err := k.Claim(pod.Namespace, claim)
	if err != nil {
		return err
	}
	c["root"], c["rsync"] = dir, map[string]string{"path": k.Rsync}
	if listen, ok := c["listen"].(string); ok {
		c["listen"] = p.ip + listen
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, "config.json")
	if err := errors.Join(os.WriteFile(filepath.Join(p.dir, "identity.pem"), secret.Data["identity.pem"], 0o600),
		os.WriteFile(path+".next", text, 0o600), os.Rename(path+".next", path)); err != nil {
		return err
	}
	p.config = string(secret.Data["config.json"])
	return nil
}

// serveLogs answers what the API server asks of a kubelet for `kubectl logs`.
func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // containerLogs/namespace/pod/container
	const four = 4
	if len(parts) != four || parts[0] != "containerLogs" {
		http.NotFound(w, r)
		return
	}
	lines, err := strconv.Atoi(r.URL.Query().Get("tailLines"))
	if err != nil {
		lines = 100
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		if p.namespace == parts[1] && p.name == parts[2] {
			_, _ = fmt.Fprintln(w, p.process.Tail(lines)) // who asked has gone
			return
		}
	}
	http.NotFound(w, r)
}
