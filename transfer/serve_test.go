package transfer

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

func bound(modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "c"},
		Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes},
		Status: corev1.PersistentVolumeClaimStatus{
			Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")},
		},
	}
}

func user(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: corev1.PodSpec{NodeName: node}}
}

// TestServe decides about wishes in every situation that a claim may be in.
func TestServe(t *testing.T) {
	allow := Policy{Allows: func(namespace, _ string) bool { return namespace == "shop" }}
	running := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.2.3"}}
	for name, tc := range map[string]struct {
		change func(*Policy, *Wish, *scene)
		state  SourceState
		class  Class
		says   string
		node   string
		make   bool
	}{
		"Idle":  {change: func(*Policy, *Wish, *scene) {}, state: SourcePreparing, make: true},
		"InUse": {change: func(_ *Policy, _ *Wish, s *scene) { s.users = []*corev1.Pod{user("n1")} }, state: SourcePreparing, node: "n1", make: true},
		"SharedUse": {change: func(_ *Policy, _ *Wish, s *scene) {
			s.claim, s.users = bound("ReadWriteMany"), []*corev1.Pod{user("n1")}
		}, state: SourcePreparing, make: true},
		"OncePod": {change: func(_ *Policy, _ *Wish, s *scene) {
			s.claim, s.users = bound("ReadWriteOncePod"), []*corev1.Pod{user("n1")}
		}, state: SourceRefused, class: InUse, says: "ReadWriteOncePod", node: "n1"},
		"OncePodOut": {change: func(_ *Policy, _ *Wish, s *scene) { s.claim = bound("ReadWriteOncePod") }, state: SourcePreparing, make: true},
		"NoClaim":    {change: func(_ *Policy, _ *Wish, s *scene) { s.claim = nil }, state: SourceRefused, class: Transient, says: "no such claim"},
		"Unbound":    {change: func(_ *Policy, _ *Wish, s *scene) { s.claim.Status.Phase = corev1.ClaimPending }, state: SourceRefused, class: Transient, says: "not bound"},
		"NotAllowed": {change: func(p *Policy, _ *Wish, _ *scene) { p.Allows = func(string, string) bool { return false } }, state: SourceRefused, class: Refused, says: "not collected"},
		"NoPolicy":   {change: func(p *Policy, _ *Wish, _ *scene) { *p = Policy{} }, state: SourceRefused, class: Refused, says: "not collected"},
		"Prevented":  {change: func(_ *Policy, _ *Wish, s *scene) { s.claim.Annotations = map[string]string{AnnotationPrevent: "true"} }, state: SourceRefused, class: Refused, says: AnnotationPrevent},
		"NamespacePrevented": {
			change: func(_ *Policy, _ *Wish, s *scene) {
				s.namespace.Annotations = map[string]string{AnnotationPrevent: "true"}
			}, state: SourceRefused, class: Refused, says: AnnotationPrevent,
		},
		"Privileged":        {change: func(_ *Policy, w *Wish, _ *scene) { w.Privileged = true }, state: SourceRefused, class: Refused, says: "--mover-privileged"},
		"PrivilegedAllowed": {change: func(p *Policy, w *Wish, _ *scene) { w.Privileged, p.Privileged = true, true }, state: SourcePreparing, make: true},
		"Serving":           {change: func(_ *Policy, _ *Wish, s *scene) { s.pod, s.secret = running, &corev1.Secret{} }, state: SourceServing},
		"SecretLost":        {change: func(_ *Policy, _ *Wish, s *scene) { s.pod = running }, state: SourcePreparing, make: true},
		"Ended": {
			change: func(_ *Policy, _ *Wish, s *scene) {
				s.secret, s.pod = &corev1.Secret{}, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}}
			},
			state: SourceRefused, class: Transient, says: "Evicted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, w := allow, wish("t", 1)
			s := scene{namespace: &corev1.Namespace{}, claim: bound(corev1.ReadWriteOnce)}
			tc.change(&p, &w, &s)
			got := serve(p, w, s)
			if got.answer.State != tc.state || got.answer.Class != tc.class || !strings.Contains(got.answer.Message, tc.says) || got.make != tc.make || got.make && got.node != tc.node {
				t.Errorf("it decides %+v", got)
			}
			got.answer.Pin = stream.Pin{1} // which the shell adds
			if err := got.answer.check(); err != nil {
				t.Errorf("the other side would not take the answer: %v", err)
			}
			if got.answer.State == SourceServing && got.answer.Addresses[0] != "10.1.2.3:4440" {
				t.Errorf("reached at %v", got.answer.Addresses)
			}
		})
	}
}

// TestMoverPod holds the movers' Pods to the restricted standard, or to the capabilities that are listed.
func TestMoverPod(t *testing.T) {
	p := moverPod{image: Image{Name: "i"}, role: stream.Source, namespace: "shop", name: "m", claim: "db", secret: "s", node: "n1", deadline: time.Hour}
	plain := p.build()
	c := plain.Spec.Containers[0]
	if *plain.Spec.AutomountServiceAccountToken || *c.SecurityContext.AllowPrivilegeEscalation || !*c.SecurityContext.ReadOnlyRootFilesystem || !*c.SecurityContext.RunAsNonRoot {
		t.Errorf("it may too much: %+v", c.SecurityContext)
	}
	want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	if diff := cmp.Diff(want, c.SecurityContext.Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got)\n%s", diff)
	}
	if m := c.VolumeMounts[len(c.VolumeMounts)-1]; m.MountPath != dataPath || !m.ReadOnly {
		t.Errorf("the source's volume is mounted as %+v", m)
	}
	if term := plain.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]; term.MatchFields[0].Values[0] != "n1" {
		t.Errorf("held to %+v", term)
	}
	p.privileged, p.role, p.block, p.node = true, stream.Destination, true, ""
	super := p.build()
	c = super.Spec.Containers[0]
	want.Add = []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}
	if diff := cmp.Diff(want, c.SecurityContext.Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got)\n%s", diff)
	}
	if len(c.VolumeDevices) != 1 || super.Spec.Affinity != nil || *super.Spec.ActiveDeadlineSeconds != 3600 {
		t.Errorf("made as %+v", super.Spec)
	}
}

// TestEndOf believes a mover only about its own session, and only if its exit code agrees.
func TestEndOf(t *testing.T) {
	const session = "abc"
	told := `{"session":"abc","epoch":1,"phase":"Finished","verdict":{"class":"Done","reason":"copied and verified"}}`
	for name, tc := range map[string]struct {
		message string
		code    int32
		reason  string
		want    Class
	}{
		"Done":         {told, 0, "", Done},
		"OtherSession": {strings.ReplaceAll(told, "abc", "xyz"), 0, "", Transient},
		"WrongCode":    {told, 1, "", Transient},
		"Garbage":      {"}{", 2, "", Transient},
		"Nothing":      {"", 0, "", Transient},
		"OutOfMemory":  {"", 137, "OOMKilled", Memory},
		"Different":    {strings.ReplaceAll(told, "Done", "Different"), 2, "", Different},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: tc.code, Message: tc.message, Reason: tc.reason}},
			}}}}
			if got, _ := endOf(p, session); got.Class != tc.want || got.Message == "" {
				t.Errorf("it ended %+v, want %s", got, tc.want)
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	caps := Caps{Total: 3, PerNode: 1, PerClass: 2}
	running := []Place{{Claim: "a/1", Node: "n1", Class: "fast"}, {Claim: "a/2", Class: "fast"}}
	for name, tc := range map[string]struct {
		p    Place
		says string
	}{
		"Free":      {Place{Claim: "a/3", Node: "n2", Class: "slow"}, ""},
		"Unknown":   {Place{Claim: "a/3"}, ""},
		"SameClaim": {Place{Claim: "a/1"}, "this claim"},
		"Node":      {Place{Claim: "a/3", Node: "n1"}, "node n1"},
		"Class":     {Place{Claim: "a/3", Class: "fast"}, "class fast"},
	} {
		t.Run(name, func(t *testing.T) {
			ok, why := caps.Admit(running, tc.p)
			if ok != (tc.says == "") || !strings.Contains(why, tc.says) {
				t.Errorf("admitted %t: %s", ok, why)
			}
		})
	}
	if ok, why := caps.Admit(append(running, Place{Claim: "a/4"}), Place{Claim: "a/3"}); ok || !strings.Contains(why, "limit") {
		t.Errorf("a fourth is admitted: %s", why)
	}
}

func TestSuperfluous(t *testing.T) {
	at := func(name string, minute int, ready bool) *volumeSnapshot {
		s := &volumeSnapshot{Status: &volumeSnapshotStatus{Ready: &ready}}
		s.Name, s.CreationTimestamp = name, metav1.NewTime(time.Unix(int64(60*minute), 0))
		return s
	}
	kept := at("pinned", 0, true)
	kept.Annotations = map[string]string{AnnotationKeep: "true"}
	all := []*volumeSnapshot{at("c", 3, true), at("a", 1, true), kept, at("broken", 2, false), at("b", 2, true), at("later", 9, true)}
	var got []string
	for _, s := range superfluous(all, "c", 2) {
		got = append(got, s.Name)
	}
	if diff := cmp.Diff([]string{"broken", "a"}, got); diff != "" {
		t.Errorf("to remove (-want +got)\n%s", diff)
	}
	if got := superfluous(all, "not made", 1); got != nil {
		t.Errorf("without the newest, %v are to be removed", got)
	}
}
