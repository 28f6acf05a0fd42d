package transfer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// The kinds that transfers are made of.
var (
	pods = kube.Kind{
		GroupResource: pipeline.GroupResource{Resource: "pods"}, Version: "v1", Kind: "Pod", Namespaced: true, StatusSubresource: true,
	}
	claims = kube.Kind{
		GroupResource: pipeline.GroupResource{Resource: "persistentvolumeclaims"}, Version: "v1", Kind: "PersistentVolumeClaim", Namespaced: true,
		StatusSubresource: true,
	}
)

const (
	modeOnce     = string(corev1.ReadWriteOnce)
	modeReadOnly = string(corev1.ReadOnlyMany)
	modeMany     = string(corev1.ReadWriteMany)
	modeOncePod  = string(corev1.ReadWriteOncePod)
)

// Image says how the movers of a site run.
type Image struct {
	// Name of the image of cmd/rsync.
	Name string
	// PullSecret, if not empty, names a Secret in the claims' namespaces.
	PullSecret string
	// Rsync is the program within the image; the image's own if not set.
	Rsync rsync.Program
	// Relay is the NATS to go over where there is no direct way; nil for none.
	Relay *stream.RelayConfig
}

const (
	moverPort   = 4440
	dataPath    = "/data"
	devicePath  = "/dev/volume"
	configPath  = "/etc/mover"
	configFile  = "config.json"
	workPath    = "/work"
	identityKey = "identity.pem"
	container   = "mover"
	// plainUser runs movers that are restricted.
	plainUser = 65532
)

// moverConfig is the configuration file of a mover.
type moverConfig struct {
	Session  stream.Session      `json:"session"`
	Peer     stream.Pin          `json:"peer"`
	Root     string              `json:"root"`
	Listen   string              `json:"listen,omitempty"`
	Dial     []string            `json:"dial,omitempty"`
	Relay    *stream.RelayConfig `json:"relay,omitempty"`
	Rsync    rsync.Program       `json:"rsync,omitzero"`
	Limit    int64               `json:"limit,omitempty"`
	Settings rsync.Settings      `json:"settings"`
}

func root(block bool) string {
	if block {
		return devicePath
	}
	return dataPath
}

// moverPod is what a mover's Pod is made from.
type moverPod struct {
	image      Image
	role       stream.Role
	namespace  string
	name       string
	labels     map[string]string
	owners     []metav1.OwnerReference
	claim      string
	secret     string
	block      bool
	privileged bool
	// node holds it to a node, whatever its taints.
	node string
	// deadline is when the kubelet ends it, from its start.
	deadline time.Duration
}

// The capabilities of privileged movers, all others dropped.
var (
	sourceCapabilities      = []corev1.Capability{"DAC_READ_SEARCH"}
	destinationCapabilities = []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}
)

// build makes the Pod: no token of the API, no privilege that is not listed, nothing writable but the volume and a working directory, and no
// group of the filesystem, which would have the kubelet walk the whole volume.
func (p moverPod) build() *corev1.Pod {
	no, yes, user := false, true, int64(plainUser)
	security := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if p.privileged {
		super := int64(0)
		security.RunAsNonRoot, security.RunAsUser, security.RunAsGroup = &no, &super, &super
		security.Capabilities.Add = destinationCapabilities
		if p.role == stream.Source {
			security.Capabilities.Add = sourceCapabilities
		}
	}
	readOnly := p.role == stream.Source
	args := []string{p.role.String(), "--config", configPath + "/" + configFile, "--listen", "", "--termination", "/dev/termination-log"}
	if p.role == stream.Destination {
		args = append(args, "--work", workPath)
	}
	c := corev1.Container{
		Name: container, Image: p.image.Name, Args: args, SecurityContext: security,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: configPath, ReadOnly: true}, {Name: "work", MountPath: workPath}},
	}
	if readOnly {
		c.Ports = []corev1.ContainerPort{{Name: "stream", ContainerPort: moverPort}}
	}
	if p.block {
		c.VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: devicePath}}
	} else {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: dataPath, ReadOnly: readOnly})
	}
	deadline := max(int64(p.deadline/time.Second), 1)
	mode := int32(0o440)
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, Labels: p.labels, OwnerReferences: p.owners},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no, ActiveDeadlineSeconds: &deadline,
			Containers: []corev1.Container{c},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: p.claim}}},
				{Name: "config", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: p.secret, DefaultMode: &mode}}},
				{Name: "work", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	if !p.privileged {
		// What is readable by the group is readable to the user: the Secret's files are root's.
		open := int32(0o444)
		pod.Spec.Volumes[1].Secret.DefaultMode = &open
	}
	if p.image.PullSecret != "" {
		pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: p.image.PullSecret}}
	}
	if p.node != "" {
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
				Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{p.node},
			}}}},
		}}}
		pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	return pod
}

// secret makes the Secret of a mover: its identity, and its configuration once that is known.
func secret(namespace, name string, labels map[string]string, owners []metav1.OwnerReference, identity []byte, c *moverConfig) (*corev1.Secret, error) {
	s := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, OwnerReferences: owners},
		Data:       map[string][]byte{identityKey: identity},
	}
	if c != nil {
		text, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("encode the configuration of a mover: %w", err)
		}
		s.Data[configFile] = text
	}
	return s, nil
}

// moverOf reads how a mover's Pod is doing. session is the one that its report has to be of.
func moverOf(p *corev1.Pod, transfer string) *Mover {
	m := &Mover{Ours: p.Labels[LabelTransfer] == transfer, Going: p.DeletionTimestamp != nil}
	m.Epoch, _ = strconv.ParseUint(p.Labels[LabelEpoch], 10, 64) // 0 is of no attempt
	switch p.Status.Phase {
	case corev1.PodRunning:
		m.Running = true
	case corev1.PodSucceeded, corev1.PodFailed:
		m.Ended = true
		m.Outcome, _ = endOf(p, sessionID(transfer, m.Epoch))
	case corev1.PodPending, corev1.PodUnknown:
		m.Why = waitsFor(p)
	}
	return m
}

// endOf is how a mover ended: what it told, if that can be believed, or else what the kubelet tells.
func endOf(p *corev1.Pod, session string) (Outcome, *Report) {
	var end *corev1.ContainerStateTerminated
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container && c.State.Terminated != nil {
			end = c.State.Terminated
		}
	}
	if end != nil && end.Message != "" {
		r, err := ParseReport([]byte(end.Message))
		good := err == nil && r.Session == session && r.Verdict != nil
		if good && (r.Verdict.Class == rsync.Done) == (end.ExitCode == 0) {
			return r.outcome(), &r
		}
	}
	switch {
	case end != nil && end.Reason == "OOMKilled":
		return Outcome{Memory, "the mover was killed for using more memory than it may"}, nil
	case p.Status.Reason != "":
		return Outcome{Transient, "the mover's Pod was ended: " + harmless(p.Status.Reason+" "+p.Status.Message, maxText)}, nil
	case end != nil:
		return Outcome{Transient, fmt.Sprintf("the mover ended with code %d and did not say why", end.ExitCode)}, nil
	}
	return Outcome{Transient, "the mover's Pod ended and did not say why"}, nil
}

// waitsFor says why a Pod does not run yet.
func waitsFor(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return harmless(w.Reason+": "+w.Message, maxText)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return harmless(c.Message, maxText)
		}
	}
	return "the Pod is being started"
}
