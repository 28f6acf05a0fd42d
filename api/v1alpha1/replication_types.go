package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplicationSpec is the wish: this source, these objects, into here, in this way.
//
// +kubebuilder:validation:XValidation:rule="has(self.schedule) == (has(self.mode) && self.mode == 'Scheduled')",message="mode: Scheduled needs a schedule, such as \"30 2 * * *\", and no other mode has one"
// +kubebuilder:validation:XValidation:rule="self.source.site == oldSelf.source.site",message="a Replication keeps its source for life, because its copies are marked with it: make another Replication for another site",fieldPath=".source.site"
type ReplicationSpec struct {
	// Source is the cluster to replicate from.
	Source Source `json:"source"`
	// Namespaces selects the source's namespaces, and with them their objects. All collected namespaces if not set.
	// +optional
	Namespaces *NamespaceSelector `json:"namespaces,omitempty"`
	// NamespaceMapping gives the namespaces other names here. The same names if not set.
	// +optional
	NamespaceMapping *NamespaceMapping `json:"namespaceMapping,omitempty"`
	// Kinds selects kinds as "resource" (core group) or "group/resource"; "*" stands for any group, any resource or, alone,
	// everything collected.
	// +optional
	// +kubebuilder:default={"*"}
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="list at least one kind, or leave kinds out for everything collected"
	// +kubebuilder:validation:items:MaxLength=317
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/|[*]/)?([a-z]([a-z0-9-]*[a-z0-9])?|[*])$')",message="write a kind as resource (core group) or group/resource, by its plural lower-case name, for example configmaps or apps/deployments; * stands for any"
	Kinds []string `json:"kinds,omitempty"`
	// ExcludeKinds takes kinds out again, in the same form.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="!self.exists(k, k == '*' || k == '*/*')",message="excluding every kind leaves nothing to replicate: set paused instead"
	// +kubebuilder:validation:items:MaxLength=317
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/|[*]/)?([a-z]([a-z0-9-]*[a-z0-9])?|[*])$')",message="write a kind as resource (core group) or group/resource, by its plural lower-case name, for example configmaps or apps/deployments; * stands for any"
	ExcludeKinds []string `json:"excludeKinds,omitempty"`
	// LabelSelector keeps only objects that match. Namespaces themselves are not filtered by it.
	// +optional
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
	// ExcludeLabels drops objects that match.
	// +optional
	ExcludeLabels *metav1.LabelSelector `json:"excludeLabels,omitempty"`
	// IncludeClusterScoped replicates cluster-scoped objects too. The selected Namespaces are created in any case.
	// +optional
	IncludeClusterScoped bool `json:"includeClusterScoped,omitempty"`
	// Mode says when changes are applied.
	// +optional
	// +kubebuilder:default=Continuous
	Mode Mode `json:"mode,omitempty"`
	// Schedule is when mode Scheduled makes a run: a cron line of minute, hour, day of month, month and day of week, or
	// @hourly, @daily, @weekly, @monthly. Each run is a Replay up to now, and one that is under way keeps the next from beginning.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	Schedule string `json:"schedule,omitempty"`
	// TimeZone is the schedule's, by its IANA name; UTC if not set.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`
	// StartingDeadlineSeconds is how late a run may begin. One that cannot begin in time is missed. Without it the newest
	// that was missed is made up for, however late it is.
	// +optional
	// +kubebuilder:validation:Minimum=1
	StartingDeadlineSeconds *int64 `json:"startingDeadlineSeconds,omitempty"`
	// ConcurrencyPolicy says what happens when a run is due while one is under way: it waits for the other to end.
	// +optional
	// +kubebuilder:default=Forbid
	ConcurrencyPolicy ConcurrencyPolicy `json:"concurrencyPolicy,omitempty"`
	// Suspend keeps the schedule from beginning runs; one under way goes on, and sync-now still makes one.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// SuccessfulRunsHistoryLimit is how many Replays of this are kept that were completed.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	SuccessfulRunsHistoryLimit *int32 `json:"successfulRunsHistoryLimit,omitempty"`
	// FailedRunsHistoryLimit is how many Replays of this are kept that failed.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	FailedRunsHistoryLimit *int32 `json:"failedRunsHistoryLimit,omitempty"`
	// Paused stops applying; the log keeps what comes meanwhile, and unpausing catches up.
	// +optional
	Paused bool `json:"paused,omitempty"`
	// DeletionPolicy says what a deletion at the source does here.
	// +optional
	// +kubebuilder:default=Mirror
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
	// DeletionGuard holds back deletions that are too many at once. One with the defaults of its fields if not set.
	// +optional
	DeletionGuard *DeletionGuard `json:"deletionGuard,omitempty"`
	// OnDelete says what becomes of the copies when this Replication is deleted.
	// +optional
	// +kubebuilder:default=Retain
	OnDelete OnDelete `json:"onDelete,omitempty"`
	// ConflictPolicy says what to do about an object of the same name that is not ours.
	// +optional
	// +kubebuilder:default=Refuse
	ConflictPolicy ConflictPolicy `json:"conflictPolicy,omitempty"`
	// ImmutablePolicy says what to do when a field that cannot be changed has changed.
	// +optional
	ImmutablePolicy *ImmutablePolicy `json:"immutablePolicy,omitempty"`
	// Workers is how many objects are applied at the same time.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	Workers int32 `json:"workers,omitempty"`
	// Retry says how failing objects are tried again before they are parked.
	// +optional
	Retry *RetryPolicy `json:"retry,omitempty"`
	// Mapping gives things inside objects the names that they have here.
	// +optional
	Mapping *Mapping `json:"mapping,omitempty"`
	// Standby keeps the copies asleep until failover; on if not set.
	// +optional
	Standby *Standby `json:"standby,omitempty"`
	// Transforms says which rules rewrite the objects on their way. None if not set.
	// +optional
	Transforms *Transforms `json:"transforms,omitempty"`
}

// Source names a source.
type Source struct {
	// Site is the name its collector was given with --site.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",message="a site's name is made of lower-case letters, digits and -, and begins and ends with a letter or digit"
	Site string `json:"site"`
}

// NamespaceSelector selects namespaces by name or label; a namespace that matches either is selected.
type NamespaceSelector struct {
	// Names are names or globs ("*" any run of characters, "?" one character).
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9*?-]+$')",message="a namespace is named with lower-case letters, digits and -, and the wildcards * and ?"
	Names []string `json:"names,omitempty"`
	// Exclude are names or globs that are not selected whatever else matches.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9*?-]+$')",message="a namespace is named with lower-case letters, digits and -, and the wildcards * and ?"
	Exclude []string `json:"exclude,omitempty"`
	// LabelSelector matches the labels of the source's Namespace objects.
	// +optional
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
}

// DestinationNamespace is the name of a namespace here.
//
// +kubebuilder:validation:MaxLength=63
type DestinationNamespace = string // an alias: only the schema needs to tell it from other strings

// NamespaceMapping gives namespaces other names at the destination. Names wins over Prefix and Suffix.
//
// +kubebuilder:object:generate=false
// +kubebuilder:validation:XValidation:rule="(has(self.prefix) ? size(self.prefix) : 0) + (has(self.suffix) ? size(self.suffix) : 0) < 63",message="prefix and suffix together leave no room for a name: a namespace has at most 63 characters"
type NamespaceMapping struct {
	// Names maps a source name to a destination name.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(n, size(n) < 64 && n.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'))",message="a source namespace is named exactly, with at most 63 lower-case letters, digits and -: wildcards cannot be mapped to one name"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.all(b, a == b || self[a] != self[b]))",message="two source namespaces must not be mapped to one: their objects would overwrite each other"
	// +kubebuilder:validation:XValidation:rule="self.all(n, size(self[n]) < 64 && self[n].matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'))",message="a destination namespace is named with at most 63 lower-case letters, digits and -, and begins and ends with a letter or digit"
	// +kubebuilder:validation:XValidation:rule="self.all(n, !self[n].startsWith('kube-'))",message="namespaces that begin with kube- belong to Kubernetes and cannot be a destination"
	Names map[string]DestinationNamespace `json:"names,omitempty"`
	// Prefix is put before the other names.
	// +optional
	// +kubebuilder:validation:MaxLength=62
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9][a-z0-9-]*$')",message="a prefix is made of lower-case letters, digits and -, and begins with a letter or digit"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('kube-')",message="namespaces that begin with kube- belong to Kubernetes and cannot be a destination"
	Prefix string `json:"prefix,omitempty"`
	// Suffix is put behind the other names.
	// +optional
	// +kubebuilder:validation:MaxLength=62
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9-]*[a-z0-9]$')",message="a suffix is made of lower-case letters, digits and -, and ends with a letter or digit"
	Suffix string `json:"suffix,omitempty"`
}

// Mode says when changes are applied.
// +kubebuilder:validation:Enum=Continuous;Scheduled;Manual
type Mode string

const (
	// ModeContinuous applies every change as it comes.
	ModeContinuous Mode = "Continuous"
	// ModeScheduled makes a run at the times of a schedule; nothing reaches the destination in between.
	ModeScheduled Mode = "Scheduled"
	// ModeManual makes a run when it is asked to, with the annotation dr-syncer.io/sync-now.
	ModeManual Mode = "Manual"
)

// ConcurrencyPolicy says what happens when a run is due while one is under way.
// +kubebuilder:validation:Enum=Forbid
type ConcurrencyPolicy string

// ConcurrencyForbid has a run wait for the one before.
const ConcurrencyForbid ConcurrencyPolicy = "Forbid"

// DeletionPolicy says what a deletion at the source does here.
// +kubebuilder:validation:Enum=Mirror;Retain
type DeletionPolicy string

const (
	// DeletionMirror deletes the copy.
	DeletionMirror DeletionPolicy = "Mirror"
	// DeletionRetain keeps the copy.
	DeletionRetain DeletionPolicy = "Retain"
)

// OnDelete says what becomes of the copies when the Replication is deleted.
// +kubebuilder:validation:Enum=Retain;DeleteCopies
type OnDelete string

const (
	// OnDeleteRetain keeps the copies, with their marks.
	OnDeleteRetain OnDelete = "Retain"
	// OnDeleteCopies deletes what carries this Replication's mark.
	OnDeleteCopies OnDelete = "DeleteCopies"
)

// ConflictPolicy says what to do about a foreign object of the same name.
// +kubebuilder:validation:Enum=Refuse;Adopt
type ConflictPolicy string

const (
	// ConflictRefuse parks the event and leaves the object alone.
	ConflictRefuse ConflictPolicy = "Refuse"
	// ConflictAdopt makes it ours.
	ConflictAdopt ConflictPolicy = "Adopt"
)

// ImmutableAction says what to do when a field that cannot be changed has changed.
// +kubebuilder:validation:Enum=Recreate;Skip;Park
type ImmutableAction string

const (
	// ImmutableRecreate deletes the copy and makes it anew.
	ImmutableRecreate ImmutableAction = "Recreate"
	// ImmutableSkip leaves the copy as it is.
	ImmutableSkip ImmutableAction = "Skip"
	// ImmutablePark leaves the copy as it is and parks the event.
	ImmutablePark ImmutableAction = "Park"
)

// ImmutablePolicy is a default and exceptions.
type ImmutablePolicy struct {
	// Default is for kinds not named in Kinds. Whatever it says, claims, volumes, namespaces and CRDs, whose re-creation
	// loses data, are parked unless Kinds names them.
	// +optional
	// +kubebuilder:default=Recreate
	Default ImmutableAction `json:"default,omitempty"`
	// Kinds are exceptions by kind ("resource" or "group/resource").
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) < 318 && k.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[a-z]([a-z0-9-]*[a-z0-9])?$'))",message="name a kind as resource (core group) or group/resource, by its plural lower-case name, for example services or batch/jobs"
	Kinds map[string]ImmutableAction `json:"kinds,omitempty"`
}

// RetryPolicy says how a failing object is tried again.
//
// +kubebuilder:validation:XValidation:rule="!has(self.initialDelay) || !has(self.maxDelay) || !self.initialDelay.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || !self.maxDelay.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self.initialDelay) <= duration(self.maxDelay)",message="initialDelay must not be longer than maxDelay"
type RetryPolicy struct {
	// Attempts before the event is parked.
	// +optional
	// +kubebuilder:default=12
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Attempts int32 `json:"attempts,omitempty"`
	// InitialDelay is the delay before the second attempt; it doubles from there, with jitter.
	// +optional
	// +kubebuilder:default="200ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('10m')",message="write a duration from 10ms to 10m, such as 500ms or 1m30s"
	InitialDelay *metav1.Duration `json:"initialDelay,omitempty"`
	// MaxDelay bounds the delay.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('1h')",message="write a duration from 10ms to 1h, such as 500ms or 1m30s"
	MaxDelay *metav1.Duration `json:"maxDelay,omitempty"`
}

// Phase sums the conditions up in one word.
type Phase string

const (
	// PhasePending waits for the source's history or a valid spec.
	PhasePending Phase = "Pending"
	// PhaseCopying makes the first copy.
	PhaseCopying Phase = "Copying"
	// PhaseReplicating follows the log.
	PhaseReplicating Phase = "Replicating"
	// PhaseIdle waits for its schedule, or to be asked for a run.
	PhaseIdle Phase = "Idle"
	// PhaseRunning has a run under way: a Replay.
	PhaseRunning Phase = "Running"
	// PhasePaused does nothing, by wish.
	PhasePaused Phase = "Paused"
	// PhaseFailed cannot go on without help; the Ready condition says why.
	PhaseFailed Phase = "Failed"
	// PhaseDeleting removes its copies.
	PhaseDeleting Phase = "Deleting"
)

// ReplicationStatus is what is true now.
type ReplicationStatus struct {
	// ObservedGeneration is the spec that the status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Conditions: Ready, SourceAvailable, CaughtUp, Degraded, and TransformsReady with spec.transforms.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// FirstCopyTime is when everything the spec selects had been copied once. A spec that selects otherwise clears it.
	// +optional
	FirstCopyTime *metav1.Time `json:"firstCopyTime,omitempty"`
	// Position is the place in the source's history through which everything was settled. While nothing else changes it
	// is brought up to date every ten minutes only.
	// +optional
	Position *Position `json:"position,omitempty"`
	// Lag is how far the destination is behind.
	// +optional
	Lag *Lag `json:"lag,omitempty"`
	// Counts over all kinds.
	// +optional
	Counts Counts `json:"counts,omitempty"`
	// Kinds are the counts per kind, sorted by name.
	// +optional
	// +listType=map
	// +listMapKey=kind
	Kinds []KindCounts `json:"kinds,omitempty"`
	// OldestMoment is the first of the moments of the source of which each can be read back: by a Replay, and by drsync.
	// How far back that is to be is the applier's promise, --history-window.
	// +optional
	OldestMoment *metav1.Time `json:"oldestMoment,omitempty"`
	// LastSyncNow is the value of the annotation dr-syncer.io/sync-now that a run was begun for last.
	// +optional
	LastSyncNow string `json:"lastSyncNow,omitempty"`
	// Runs are those of the modes Scheduled and Manual.
	// +optional
	Runs *RunsStatus `json:"runs,omitempty"`
	// Deletions are what the guard holds back and what was decided about it.
	// +optional
	Deletions *DeletionsStatus `json:"deletions,omitempty"`
	// LastEvent is the newest change applied.
	// +optional
	LastEvent *LastEvent `json:"lastEvent,omitempty"`
	// LastError is the newest failure.
	// +optional
	LastError *LastError `json:"lastError,omitempty"`
}

// RunsStatus is how the runs of a Replication stand.
type RunsStatus struct {
	// Active is the Replay under way.
	// +optional
	Active string `json:"active,omitempty"`
	// Through is the moment up to which the schedule was dealt with.
	// +optional
	Through *metav1.Time `json:"through,omitempty"`
	// NextTime is when the schedule makes the next run.
	// +optional
	NextTime *metav1.Time `json:"nextTime,omitempty"`
	// Missed counts the runs that the schedule did not get to since the last one that began; it is counted up to 100.
	// +optional
	Missed int32 `json:"missed,omitempty"`
	// Last is the Replay that ended last.
	// +optional
	Last *RunSummary `json:"last,omitempty"`
	// LastSuccessTime is when a run was completed last.
	// +optional
	LastSuccessTime *metav1.Time `json:"lastSuccessTime,omitempty"`
}

// RunSummary sums up a Replay that ended.
type RunSummary struct {
	// Replay is its name.
	Replay string `json:"replay"`
	// Phase is Complete or Failed.
	Phase ReplayPhase `json:"phase"`
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// Seconds is how long it took.
	Seconds int64 `json:"seconds"`
	// +optional
	Counts ReplayCounts `json:"counts,omitempty"`
}

// Position is a place in a source's history.
type Position struct {
	Epoch    string `json:"epoch"`
	Sequence int64  `json:"sequence"`
}

// Lag is how far the destination is behind the log.
type Lag struct {
	// Events in the log not settled yet.
	Events int64 `json:"events"`
	// Seconds is the age of the oldest of them; without any, the time since the source was last heard of in excess of its
	// heartbeat interval.
	Seconds int64 `json:"seconds"`
}

// Counts are numbers of objects.
type Counts struct {
	// Synced are copies here that are as the log says.
	Synced int64 `json:"synced"`
	// Pending are being applied or waiting for it.
	Pending int64 `json:"pending"`
	// Failed are being tried again after a failure.
	Failed int64 `json:"failed"`
	// Parked are in the dead letters.
	Parked int64 `json:"parked"`
}

// KindCounts are the Counts of one kind.
type KindCounts struct {
	// Kind is "resource" or "group/resource".
	Kind   string `json:"kind"`
	Counts `json:",inline"`
}

// LastEvent is the newest change applied.
type LastEvent struct {
	// Object is "group/resource namespace/name", by its name at the source.
	Object string `json:"object"`
	// Action is Created, Configured, Deleted or Recreated.
	Action string      `json:"action"`
	Time   metav1.Time `json:"time"`
}

// LastError is the newest failure.
type LastError struct {
	Object  string      `json:"object,omitempty"`
	Reason  string      `json:"reason"`
	Message string      `json:"message"`
	Time    metav1.Time `json:"time"`
}

// Replication keeps this cluster in step with namespaces of another.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=repl,categories=dr-syncer
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source.site`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Synced",type=integer,JSONPath=`.status.counts.synced`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.counts.failed`
// +kubebuilder:printcolumn:name="Parked",type=integer,JSONPath=`.status.counts.parked`
// +kubebuilder:printcolumn:name="Lag",type=integer,JSONPath=`.status.lag.seconds`,description="seconds behind the source"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`,priority=1
// +kubebuilder:printcolumn:name="Last run",type=date,JSONPath=`.status.runs.last.startTime`,priority=1
// +kubebuilder:printcolumn:name="Next run",type=string,JSONPath=`.status.runs.nextTime`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.counts.pending`,priority=1
// +kubebuilder:printcolumn:name="Position",type=integer,JSONPath=`.status.position.sequence`,priority=1
// +kubebuilder:printcolumn:name="Oldest moment",type=date,JSONPath=`.status.oldestMoment`,priority=1,description="since when every moment can be read back"
// +kubebuilder:printcolumn:name="Last event",type=string,JSONPath=`.status.lastEvent.object`,priority=1
type Replication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ReplicationSpec   `json:"spec"`
	Status ReplicationStatus `json:"status,omitempty"`
}

// ReplicationList is a list of Replications.
//
// +kubebuilder:object:root=true
type ReplicationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Replication `json:"items"`
}
