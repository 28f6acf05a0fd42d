package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplaySpec is one run of a source's history into this cluster, up to a moment. It does not change.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a Replay is one run and does not change: make another one"
// +kubebuilder:validation:XValidation:rule="has(self.replication) != has(self.template)",message="give either replication, to run in the name of a Replication, or template, to run on its own"
type ReplaySpec struct {
	// Replication is a Replication of this namespace in whose name this runs: what it selects, where to and in which way, on its
	// copies. Only one that is not Continuous, or is paused, lets anything but a DryRun run.
	// +optional
	Replication *ReplicationReference `json:"replication,omitempty"`
	// Template says what is replayed, where to and in which way, as the spec of a Replication. The copies are this
	// Replay's own. What concerns standing work plays no part: mode, schedule, suspend, paused, onDelete, deletionPolicy.
	// +optional
	Template *ReplicationSpec `json:"template,omitempty"`
	// UpTo is the moment that the copies are to show; now if not set.
	// +optional
	UpTo *UpTo `json:"upTo,omitempty"`
	// Mode says whether anything is written.
	// +optional
	// +kubebuilder:default=Apply
	Mode ReplayMode `json:"mode,omitempty"`
	// Prune deletes the copies that the source did not have at the moment. Without it nothing is deleted.
	// +optional
	Prune bool `json:"prune,omitempty"`
	// DeletionGuard holds back deletions that are too many. That of the Replication or the template if not set.
	// +optional
	DeletionGuard *DeletionGuard `json:"deletionGuard,omitempty"`
	// TTLSecondsAfterFinished deletes the Replay, not its copies, that long after its end. It is kept if not set.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// ReplicationReference names a Replication of the same namespace.
type ReplicationReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// UpTo is a moment in a source's history.
//
// +kubebuilder:validation:XValidation:rule="(has(self.time) ? 1 : 0) + (has(self.position) ? 1 : 0) + (has(self.snapshot) ? 1 : 0) <= 1",message="give one of time, position and snapshot, or none for now"
type UpTo struct {
	// Time is the last moment whose changes are replayed, by the clock of the log.
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
	// Position is the last change that is replayed.
	// +optional
	Position *Position `json:"position,omitempty"`
	// Snapshot is the name of a snapshot of the source.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Snapshot string `json:"snapshot,omitempty"`
}

// ReplayMode says whether a Replay writes anything.
// +kubebuilder:validation:Enum=Apply;DryRun
type ReplayMode string

const (
	// ReplayApply brings the copies to the moment.
	ReplayApply ReplayMode = "Apply"
	// ReplayDryRun writes nothing and reports what would be created, changed and deleted.
	ReplayDryRun ReplayMode = "DryRun"
)

// DeletionGuard holds back deletions that are too many at once, of one kind or in one namespace, and any that only a list tells of
// which has nothing any more of a kind or a namespace, until somebody approves them
// with the annotation dr-syncer.io/approve-deletions, or has the copies kept with dr-syncer.io/discard-deletions. Nothing
// else waits for them.
type DeletionGuard struct {
	// Disabled lets deletions pass however many they are. Those that follow from a reset of the source alone
	// (it was restored to an earlier state, or is another cluster) are held all the same. Those that only a list without
	// anything of their kind or namespace tells of are not held then.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// MaxCount is how many deletions of a kind or in a namespace pass within Window.
	// +optional
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=0
	MaxCount *int32 `json:"maxCount,omitempty"`
	// MaxPercent is which part of the copies of a kind or in a namespace may be deleted within Window.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxPercent *int32 `json:"maxPercent,omitempty"`
	// MinCount is how many deletions pass whatever MaxPercent says.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	MinCount *int32 `json:"minCount,omitempty"`
	// Window is the time within which deletions are counted together. A Replay counts all of its own.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="write a duration from 1s to 24h, such as 10m or 1h30m"
	Window *metav1.Duration `json:"window,omitempty"`
}

// ReplayPhase sums the conditions of a Replay up in one word.
type ReplayPhase string

const (
	// ReplayPending has not begun.
	ReplayPending ReplayPhase = "Pending"
	// ReplayRunning is at work.
	ReplayRunning ReplayPhase = "Running"
	// ReplayComplete has done everything but what the deletion guard holds back.
	ReplayComplete ReplayPhase = "Complete"
	// ReplayFailed cannot be done, or objects of it could not be applied.
	ReplayFailed ReplayPhase = "Failed"
)

// ReplayStatus is what is true now.
type ReplayStatus struct {
	// +optional
	Phase ReplayPhase `json:"phase,omitempty"`
	// Conditions: Complete, Failed, DeletionsHeld.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Source is the site that is replayed.
	// +optional
	Source string `json:"source,omitempty"`
	// Position is what upTo was found to mean when the run began. It stays the same, whatever interrupts the run.
	// +optional
	Position *Position `json:"position,omitempty"`
	// PositionTime is when the log took the change at the position.
	// +optional
	PositionTime *metav1.Time `json:"positionTime,omitempty"`
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// Counts are of objects. The list is shown by `drsync replay results`.
	// +optional
	Counts ReplayCounts `json:"counts,omitempty"`
	// Kinds are the counts per kind, sorted by name.
	// +optional
	// +listType=map
	// +listMapKey=kind
	Kinds []ReplayKindCounts `json:"kinds,omitempty"`
	// Deletions are what the guard holds back and what was decided about it.
	// +optional
	Deletions *DeletionsStatus `json:"deletions,omitempty"`
	// LastError is the newest failure.
	// +optional
	LastError *LastError `json:"lastError,omitempty"`
}

// ReplayCounts are numbers of objects by what the run did with them or, with mode DryRun, would do.
type ReplayCounts struct {
	// Total are those that were looked at: in the end all that the source had at the moment, of the kinds and namespaces that are
	// selected, and those to be deleted.
	Total     int64 `json:"total"`
	Created   int64 `json:"created"`
	Changed   int64 `json:"changed"`
	Unchanged int64 `json:"unchanged"`
	Deleted   int64 `json:"deleted"`
	// Skipped belong to others, or to the rules of this cluster.
	Skipped int64 `json:"skipped"`
	// Held are deletions that the guard holds back.
	Held   int64 `json:"held"`
	Failed int64 `json:"failed"`
}

// ReplayKindCounts are the counts of one kind.
type ReplayKindCounts struct {
	// Kind is "resource" or "group/resource".
	Kind         string `json:"kind"`
	ReplayCounts `json:",inline"`
}

// DeletionsStatus is what a deletion guard holds back.
type DeletionsStatus struct {
	// Held is how many deletions are held back.
	Held int64 `json:"held"`
	// AfterReset is how many of them are held, however few they are, because the source was restored to an earlier
	// state or replaced by another cluster since their objects were seen, and does not have them any more.
	// +optional
	AfterReset int64 `json:"afterReset,omitempty"`
	// Emptied is how many of them are held, however few they are, because a list of the source has nothing any more of
	// their kind or namespace, and nobody saw them being deleted.
	// +optional
	Emptied int64 `json:"emptied,omitempty"`
	// Scopes are the kinds and namespaces with deletions that are held; at most twenty are named.
	// +optional
	Scopes []HeldScope `json:"scopes,omitempty"`
	// Approved and Discarded are the values of the annotations that were acted on last.
	// +optional
	Approved string `json:"approved,omitempty"`
	// +optional
	Discarded string `json:"discarded,omitempty"`
	// ApprovedThrough is the place in the history up to which deletions are approved.
	// +optional
	ApprovedThrough *Position `json:"approvedThrough,omitempty"`
	// DiscardedThrough is the place in the history up to which deletions that were held are not to be made any more.
	// +optional
	DiscardedThrough *Position `json:"discardedThrough,omitempty"`
}

// HeldScope is a kind or a namespace with deletions that are held.
type HeldScope struct {
	// Kind is "resource" or "group/resource"; empty for a namespace.
	// +optional
	Kind string `json:"kind,omitempty"`
	// Namespace is that of the source; empty for a kind.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Held is how many of its deletions are held back.
	Held int64 `json:"held"`
	// AfterReset is how many of these are held because the source was reset.
	// +optional
	AfterReset int64 `json:"afterReset,omitempty"`
	// Emptied is how many of these are held because the source lists nothing any more of the kind or the namespace.
	// +optional
	Emptied int64 `json:"emptied,omitempty"`
}

// Replay is one run of a source's history into this cluster, up to a moment.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rpl,categories=dr-syncer
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.status.source`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="As of",type=date,JSONPath=`.status.positionTime`,description="age of the moment that is replayed"
// +kubebuilder:printcolumn:name="Created",type=integer,JSONPath=`.status.counts.created`
// +kubebuilder:printcolumn:name="Changed",type=integer,JSONPath=`.status.counts.changed`
// +kubebuilder:printcolumn:name="Deleted",type=integer,JSONPath=`.status.counts.deleted`
// +kubebuilder:printcolumn:name="Held",type=integer,JSONPath=`.status.counts.held`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.counts.failed`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Unchanged",type=integer,JSONPath=`.status.counts.unchanged`,priority=1
// +kubebuilder:printcolumn:name="Position",type=integer,JSONPath=`.status.position.sequence`,priority=1
// +kubebuilder:printcolumn:name="Replication",type=string,JSONPath=`.spec.replication.name`,priority=1
type Replay struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ReplaySpec   `json:"spec"`
	Status ReplayStatus `json:"status,omitempty"`
}

// ReplayList is a list of Replays.
//
// +kubebuilder:object:root=true
type ReplayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Replay `json:"items"`
}
