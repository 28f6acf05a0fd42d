package transfer

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// Policy says what of a source may be read. A claim, or its namespace, is kept from it by the annotation dr-syncer.io/prevent-volume-copy: "true",
// and a claim by the label dr-syncer.io/ignore too.
type Policy struct {
	// Allows reports whether a claim may be read.
	Allows func(namespace, claim string) bool
	// Privileged allows movers that read the files of all owners.
	Privileged bool
}

// scene is what is at the source of one wish.
type scene struct {
	namespace *corev1.Namespace             // nil: there is none
	claim     *corev1.PersistentVolumeClaim // nil: there is none
	// users are Pods that mount the claim and are not over, ours not counted.
	users []*corev1.Pod
	// pod is the session's mover, secret its Secret; nil if there is none.
	pod    *corev1.Pod
	secret *corev1.Secret
}

// serving is what is to be done for a wish: tell the answer and, if make is set, make what is not there, the mover held to node.
type serving struct {
	answer Answer
	make   bool
	node   string
}

// serve decides what becomes of a wish. It is a function of its arguments.
func serve(p Policy, w Wish, s scene) serving {
	out := serving{answer: Answer{Session: w.Session.ID, State: SourcePreparing, Message: "prepares"}}
	refuse := func(c Class, format string, args ...any) serving {
		out.answer.State, out.answer.Class, out.answer.Message, out.make = SourceRefused, c, fmt.Sprintf(format, args...), false
		return out
	}
	if why := p.forbids(w, s); why != "" {
		return refuse(Refused, "%s", why)
	}
	if s.claim == nil {
		return refuse(Transient, "there is no such claim")
	}
	out.answer.Facts = factsOf(s.claim)
	if s.claim.DeletionTimestamp != nil {
		return refuse(Transient, "the claim is being deleted")
	}
	if s.claim.Status.Phase != corev1.ClaimBound {
		return refuse(Transient, "the claim is not bound to a volume yet")
	}
	if len(s.users) > 0 {
		out.answer.Facts.Live = true
		if has(s.claim, corev1.ReadWriteOncePod) {
			return refuse(InUse, "the claim is ReadWriteOncePod and the Pod %q uses it: it can be read only while no Pod does", s.users[0].Name)
		}
		if !has(s.claim, corev1.ReadWriteMany) && !has(s.claim, corev1.ReadOnlyMany) {
			for _, u := range s.users {
				if u.Spec.NodeName != "" {
					out.node = u.Spec.NodeName
				}
			}
		}
	}
	out.answer.Facts.Node = out.node
	switch {
	case s.pod == nil || s.secret == nil:
		out.make = true
	case s.pod.DeletionTimestamp != nil:
		return refuse(Transient, "the mover's Pod is being deleted")
	case s.pod.Status.Phase == corev1.PodSucceeded, s.pod.Status.Phase == corev1.PodFailed:
		end, _ := endOf(s.pod, w.Session.ID)
		return refuse(Transient, "the mover ended: %s", end.Message)
	case s.pod.Status.Phase == corev1.PodRunning && s.pod.Status.PodIP != "":
		out.answer.State, out.answer.Message = SourceServing, ""
		out.answer.Addresses = []string{net.JoinHostPort(s.pod.Status.PodIP, strconv.Itoa(moverPort))}
	default:
		out.answer.Message = waitsFor(s.pod)
	}
	return out
}

// forbids says why a wish is against the policy, empty if it is not.
func (p Policy) forbids(w Wish, s scene) string {
	_, namespace, name, _ := w.parts()
	const cure = ": the source's cluster decides that"
	switch {
	case s.namespace == nil:
		return fmt.Sprintf("there is no namespace %q, or it may not be read", namespace)
	case p.Allows == nil || !p.Allows(namespace, name):
		return fmt.Sprintf("the claim %q may not be read, since it is not collected%s", name, cure)
	case s.namespace.Annotations[AnnotationPrevent] == "true":
		return fmt.Sprintf("claims of namespace %q may not be read, by its annotation %s", namespace, AnnotationPrevent)
	case s.claim != nil && (s.claim.Annotations[AnnotationPrevent] == "true" || s.claim.Labels[v1alpha1.LabelIgnore] == "true"):
		return fmt.Sprintf("the claim %q may not be read, by its annotation %s or label %s", name, AnnotationPrevent, v1alpha1.LabelIgnore)
	case w.Privileged && !p.Privileged:
		return "movers may not be privileged there: give the collector --mover-privileged, or the VolumeTransfer moverSecurity: Restricted"
	}
	return ""
}

func has(c *corev1.PersistentVolumeClaim, mode corev1.PersistentVolumeAccessMode) bool {
	return slices.Contains(c.Spec.AccessModes, mode)
}

func factsOf(c *corev1.PersistentVolumeClaim) *Facts {
	f := &Facts{UID: string(c.UID), Block: c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock}
	size, ok := c.Status.Capacity[corev1.ResourceStorage]
	if !ok {
		size = c.Spec.Resources.Requests[corev1.ResourceStorage]
	}
	if size.Sign() > 0 {
		f.Capacity = size.String()
	}
	for _, m := range c.Spec.AccessModes {
		f.AccessModes = append(f.AccessModes, string(m))
	}
	return f
}
