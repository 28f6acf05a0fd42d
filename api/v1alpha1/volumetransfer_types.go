package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VolumeTransferSpec is one copy of the data of one claim of another cluster into a claim of this one. Only bandwidthLimit and suspend
// may change.
//
// +kubebuilder:validation:XValidation:rule="self.source == oldSelf.source && self.destination == oldSelf.destination && self.verify == oldSelf.verify && self.snapshots == oldSelf.snapshots && self.keep == oldSelf.keep && self.moverSecurity == oldSelf.moverSecurity && self.attempts == oldSelf.attempts && self.timeout == oldSelf.timeout && has(self.include) == has(oldSelf.include) && (!has(self.include) || self.include == oldSelf.include) && has(self.exclude) == has(oldSelf.exclude) && (!has(self.exclude) || self.exclude == oldSelf.exclude) && has(self.deletions) == has(oldSelf.deletions) && (!has(self.deletions) || self.deletions == oldSelf.deletions)",message="a VolumeTransfer is one copy and does not change, but for bandwidthLimit and suspend: make another one"
type VolumeTransferSpec struct {
	// Source is the claim that is read.
	Source VolumeSource `json:"source"`
	// Destination is the claim that is written.
	Destination VolumeDestination `json:"destination"`
	// Include and Exclude are patterns of paths as rsync knows them, from the volume's root if they begin with a slash. What is
	// included is never excluded.
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Include []string `json:"include,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Exclude []string `json:"exclude,omitempty"`
	// Deletions says which files that the source does not have are deleted from the copy. None are if not set.
	// +optional
	Deletions *VolumeDeletions `json:"deletions,omitempty"`
	// Verify says how the copy is compared with the source.
	// +optional
	// +kubebuilder:default=Sample
	Verify VolumeVerify `json:"verify,omitempty"`
	// Snapshots says whether a recovery point is made of the copy by a snapshot: Auto makes one where the storage can.
	// +optional
	// +kubebuilder:default=Auto
	Snapshots VolumeSnapshots `json:"snapshots,omitempty"`
	// Keep is how many recovery points of the destination's claim are kept, this one counted.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Keep int32 `json:"keep,omitempty"`
	// MoverSecurity is what the movers may do. Restricted passes the restricted Pod security standard and keeps what a plain user can
	// keep; Privileged runs as root with the capabilities that owners and modes need. The source's cluster has to allow it.
	// +optional
	// +kubebuilder:default=Restricted
	MoverSecurity MoverSecurity `json:"moverSecurity,omitempty"`
	// Attempts is how many times the copy is tried, each going on where the last one was, before it has failed.
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Attempts int32 `json:"attempts,omitempty"`
	// Timeout is how long one attempt may take.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="write a duration from 1m to 720h, such as 90m or 24h"
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// BandwidthLimit is how many bytes per second go between the clusters, such as 50Mi; no limit if not set. It may change while
	// the copy runs.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).isGreaterThan(quantity('1023'))",message="a bandwidth limit is bytes per second, 1Ki or more: leave it out for no limit"
	BandwidthLimit *resource.Quantity `json:"bandwidthLimit,omitempty"`
	// Suspend stops the copy until it is taken back. What has arrived stays.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// VolumeSource names a claim of another cluster.
type VolumeSource struct {
	// Site is the name of the source's cluster in the log.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",message="a site's name is made of lower-case letters, digits and -, and begins and ends with a letter or digit"
	Site string `json:"site"`
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",message="a namespace is named with at most 63 lower-case letters, digits and -, and begins and ends with a letter or digit"
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",message="a claim is named with lower-case letters, digits, - and ., and begins and ends with a letter or digit"
	Claim string `json:"claim"`
}

// VolumeDestination is the claim that is written, in the namespace of the VolumeTransfer. It is made if it is not there, and grown if
// it is smaller than the source's.
type VolumeDestination struct {
	// Claim is its name; that of the source if not set.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",message="a claim is named with lower-case letters, digits, - and ., and begins and ends with a letter or digit"
	Claim string `json:"claim,omitempty"`
	// StorageClass of a claim that is made; this cluster's default if not set.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	StorageClass string `json:"storageClass,omitempty"`
	// Capacity of a claim that is made, and the least of one that is there; the source's if not set.
	// +optional
	Capacity *resource.Quantity `json:"capacity,omitempty"`
	// AccessModes of a claim that is made; the source's if not set.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:XValidation:rule="!self.exists(m, m == 'ReadOnlyMany')",message="a copy is written: give ReadWriteOnce, ReadWriteMany or ReadWriteOncePod"
	AccessModes []AccessMode `json:"accessModes,omitempty"`
	// Adopt allows to write into a claim that DR-Syncer has not made.
	// +optional
	Adopt bool `json:"adopt,omitempty"`
}

// VolumeDeletions limits what is deleted from a copy. The larger of the two limits counts.
type VolumeDeletions struct {
	// MaxCount is how many files may be deleted.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=0
	MaxCount int32 `json:"maxCount,omitempty"`
	// MaxPercent is which part of as many files as the source has may be deleted.
	// +optional
	// +kubebuilder:default=25
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxPercent int32 `json:"maxPercent,omitempty"`
	// AllowEmpty lets an empty source empty the copy, within the limits.
	// +optional
	AllowEmpty bool `json:"allowEmpty,omitempty"`
}

// VolumeVerify says how a copy is compared with its source.
// +kubebuilder:validation:Enum=None;Sample;Full
type VolumeVerify string

// VolumeSnapshots says whether snapshots are made of a copy.
// +kubebuilder:validation:Enum=Auto;Require;Never
type VolumeSnapshots string

const (
	// SnapshotsAuto makes a recovery point by a snapshot where the storage can.
	SnapshotsAuto VolumeSnapshots = "Auto"
	// SnapshotsRequire fails where it cannot.
	SnapshotsRequire VolumeSnapshots = "Require"
	// SnapshotsNever makes none: the claim itself is the recovery point.
	SnapshotsNever VolumeSnapshots = "Never"
)

// MoverSecurity is what the movers may do.
// +kubebuilder:validation:Enum=Restricted;Privileged
type MoverSecurity string

const (
	// MoverRestricted passes the restricted Pod security standard.
	MoverRestricted MoverSecurity = "Restricted"
	// MoverPrivileged is root with the few capabilities that owners, modes and files of others need.
	MoverPrivileged MoverSecurity = "Privileged"
)

// VolumeTransferPhase is where a VolumeTransfer is.
type VolumeTransferPhase string

const (
	// VolumeTransferPending waits to be admitted, or for its next attempt. Nothing of it exists.
	VolumeTransferPending VolumeTransferPhase = "Pending"
	// VolumeTransferPreparing asks the source, and makes the claim and the identity.
	VolumeTransferPreparing VolumeTransferPhase = "Preparing"
	// VolumeTransferConnecting waits for the source to serve and for the mover to start.
	VolumeTransferConnecting VolumeTransferPhase = "Connecting"
	// VolumeTransferTransferring copies.
	VolumeTransferTransferring VolumeTransferPhase = "Transferring"
	// VolumeTransferVerifying compares the copy with the source.
	VolumeTransferVerifying VolumeTransferPhase = "Verifying"
	// VolumeTransferPublishing makes the recovery point.
	VolumeTransferPublishing VolumeTransferPhase = "Publishing"
	// VolumeTransferCleaningUp removes what the attempt has made.
	VolumeTransferCleaningUp VolumeTransferPhase = "CleaningUp"
	// VolumeTransferComplete has copied everything, and verified it as it was asked to.
	VolumeTransferComplete VolumeTransferPhase = "Complete"
	// VolumeTransferFailed will not be tried again.
	VolumeTransferFailed VolumeTransferPhase = "Failed"
)

// VolumeTransferStatus is what is true now.
type VolumeTransferStatus struct {
	// +optional
	Phase VolumeTransferPhase `json:"phase,omitempty"`
	// PhaseTime is when the phase began.
	// +optional
	PhaseTime *metav1.Time `json:"phaseTime,omitempty"`
	// Conditions: Complete, Failed.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ObservedGeneration is that of the spec that was acted on.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Progress sums it up in a few words.
	// +optional
	Progress string `json:"progress,omitempty"`
	// Epoch counts the attempts that were begun. What belongs to an earlier one is void.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// Failures counts the attempts that failed.
	// +optional
	Failures int32 `json:"failures,omitempty"`
	// StartTime is when it was first admitted, AttemptTime when the present attempt was.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// +optional
	AttemptTime *metav1.Time `json:"attemptTime,omitempty"`
	// NextAttemptTime is when another attempt may begin.
	// +optional
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// Outcome is how the attempt ended that is being cleaned up, or the whole of it.
	// +optional
	Outcome *VolumeOutcome `json:"outcome,omitempty"`
	// LastError is the newest failure of an attempt.
	// +optional
	LastError *VolumeOutcome `json:"lastError,omitempty"`
	// Copy is what the mover tells of the present attempt, or told of the last.
	// +optional
	Copy *VolumeCopy `json:"copy,omitempty"`
	// Source is what the source's cluster tells of its claim.
	// +optional
	Source *VolumeFacts `json:"source,omitempty"`
	// RecoveryPoint is what was published.
	// +optional
	RecoveryPoint *VolumeRecoveryPoint `json:"recoveryPoint,omitempty"`
}

// VolumeOutcome is how an attempt ended.
type VolumeOutcome struct {
	// Class is Done, or says what kind of failure it was.
	Class string `json:"class"`
	// Message says what happened and, of a failure, what to do.
	Message string      `json:"message"`
	Time    metav1.Time `json:"time"`
}

// VolumeCopy is how far a copy is.
type VolumeCopy struct {
	// Pass is what the mover is doing: Data, Replace, Delete, Sample, Full.
	// +optional
	Pass string `json:"pass,omitempty"`
	// Carrier is the way that the data goes: direct or relay.
	// +optional
	Carrier string `json:"carrier,omitempty"`
	// Bytes of the files that were gone through in this pass; TotalBytes is of all, once that is known.
	Bytes int64 `json:"bytes"`
	// +optional
	TotalBytes int64 `json:"totalBytes,omitempty"`
	// Files that were gone through in this pass, and all that are known of.
	Files int64 `json:"files"`
	// +optional
	TotalFiles int64 `json:"totalFiles,omitempty"`
	// Sent and Received are bytes on the wire, Rate is of both, per second.
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
	Rate     int64 `json:"rate"`
	// ETA is when this pass will be done, if it goes on like this.
	// +optional
	ETA *metav1.Time `json:"eta,omitempty"`
	// Deleted files of the copy.
	// +optional
	Deleted int64 `json:"deleted,omitempty"`
	// Node is where the destination's mover runs.
	// +optional
	Node string `json:"node,omitempty"`
	// NotKept is what of files could not be kept, for want of privileges.
	// +optional
	NotKept []string `json:"notKept,omitempty"`
	// Verified is how the copy was compared: None, Sample or Full.
	// +optional
	Verified VolumeVerify `json:"verified,omitempty"`
	// Different names the first files that were found to differ.
	// +optional
	Different []string `json:"different,omitempty"`
	// Problems are the first things that rsync complained of.
	// +optional
	Problems []string `json:"problems,omitempty"`
	// +optional
	Updated *metav1.Time `json:"updated,omitempty"`
}

// VolumeFacts is what the source's cluster tells of its claim.
type VolumeFacts struct {
	// +optional
	UID string `json:"uid,omitempty"`
	// +optional
	Capacity *resource.Quantity `json:"capacity,omitempty"`
	// +optional
	AccessModes []AccessMode `json:"accessModes,omitempty"`
	// VolumeMode is Filesystem or Block.
	// +optional
	VolumeMode string `json:"volumeMode,omitempty"`
	// Node that the source's mover is held to, because the volume is in use there.
	// +optional
	Node string `json:"node,omitempty"`
	// InUse says that somebody may write to the volume while it is copied.
	// +optional
	InUse bool `json:"inUse,omitempty"`
	// State of the source: Preparing, Serving, Refused, Silent.
	// +optional
	State string `json:"state,omitempty"`
	// Message says what it waits for, or why it refuses.
	// +optional
	Message string `json:"message,omitempty"`
}

// VolumeRecoveryPoint is a copy that one can go back to.
type VolumeRecoveryPoint struct {
	// Snapshot is the VolumeSnapshot that holds it; without one it is the claim itself, until the next copy begins.
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// Time is when the copy that it holds began: what the source wrote before that is in it.
	Time metav1.Time `json:"time"`
	// Consistency is Fuzzy when the source was in use while it was copied: its files may be of different moments.
	Consistency string `json:"consistency"`
}

// VolumeTransfer is one copy of the data of one claim of another cluster into a claim of this one.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=vt,categories=dr-syncer
// +kubebuilder:printcolumn:name="Site",type=string,JSONPath=`.spec.source.site`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source.claim`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Carrier",type=string,JSONPath=`.status.copy.carrier`
// +kubebuilder:printcolumn:name="Failures",type=integer,JSONPath=`.status.failures`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Snapshot",type=string,JSONPath=`.status.recoveryPoint.snapshot`,priority=1
// +kubebuilder:printcolumn:name="Verified",type=string,JSONPath=`.status.copy.verified`,priority=1
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.copy.node`,priority=1
type VolumeTransfer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VolumeTransferSpec   `json:"spec"`
	Status VolumeTransferStatus `json:"status,omitempty"`
}

// VolumeTransferList is a list of VolumeTransfers.
//
// +kubebuilder:object:root=true
type VolumeTransferList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VolumeTransfer `json:"items"`
}
