package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

// StorageClass is the class of claims that directories of the node are made for.
const StorageClass = "directory"

const providerName = "directory.dr-syncer.test"

// provider makes a directory and a PersistentVolume for each claim of the class, and
// removes both when the claim is gone.
type provider struct {
	client *kubernetes.Clientset
	node   string
	dir    string

	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	last error
}

// startProvider makes the class, the default one, and serves it until stopped.
func startProvider(ctx context.Context, c *Cluster) (*provider, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("start provider of volumes: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("start provider of volumes: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &provider{client: client, node: c.Name, dir: filepath.Join(c.machine.dir, "volumes"), cancel: cancel}
	if _, err := client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: StorageClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner:       providerName,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{}); err != nil {
		cancel()
		return nil, fmt.Errorf("make storage class: %w", err)
	}
	p.done.Go(func() { p.run(ctx) })
	return p, nil
}

func (p *provider) stop() {
	p.cancel()
	p.done.Wait()
}

// run looks at all claims and volumes a few times per second: there are few of them.
func (p *provider) run(ctx context.Context) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.provide(ctx)
		p.mu.Lock()
		p.last = err // an API server that is away is met again at the next look
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// problem is why the last look failed; nil if it did not, or there was none yet.
func (p *provider) problem() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *provider) provide(ctx context.Context) error {
	claims, err := p.client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	for i := range claims.Items {
		if c := &claims.Items[i]; c.Spec.VolumeName == "" && c.Annotations["volume.kubernetes.io/selected-node"] == p.node &&
			c.Annotations["volume.kubernetes.io/storage-provisioner"] == providerName {
			if err := p.make(ctx, c); err != nil {
				return err
			}
		}
	}
	volumes, err := p.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	for i := range volumes.Items {
		v := &volumes.Items[i]
		if v.Status.Phase != corev1.VolumeReleased || v.Annotations["pv.kubernetes.io/provisioned-by"] != providerName ||
			v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.dir, v.Name)); err != nil {
			return fmt.Errorf("remove volume %q: %w", v.Name, err)
		}
		if err := p.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// make makes a claim's volume. It may be made already.
func (p *provider) make(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	name := "pvc-" + string(c.UID)
	dir := filepath.Join(p.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make volume %q: %w", name, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return fmt.Errorf("make volume %q: %w", name, err)
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": providerName}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              StorageClass,
			AccessModes:                   c.Spec.AccessModes,
			Capacity:                      c.Spec.Resources.Requests,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.node}}},
			}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make volume %q: %w", name, err)
	}
	return nil
}

// Volume is the directory of this machine that holds the data of a claim, which has to
// have its volume already.
func (c *Cluster) Volume(namespace, claim string) (string, error) {
	name, err := c.Kubectl("get", "persistentvolumeclaim", "--namespace="+namespace, claim, "--output=jsonpath={.spec.volumeName}")
	if err != nil {
		return "", err
	}
	if name == "" {
		return "", fmt.Errorf("find the volume of claim %q: it has none", namespace+"/"+claim)
	}
	return filepath.Join(c.provider.dir, name), nil
}
