package v1alpha1

// The marks on objects. They are stable: users and other tools may rely on them.
const (
	// LabelReplication on a destination object names the Replication that owns it ("namespace.name", hashed if long).
	LabelReplication = "dr-syncer.io/replication"
	// AnnotationOrigin on a destination object is where its state comes from: site, epoch, sequence and source UID.
	AnnotationOrigin = "dr-syncer.io/origin"
	// AnnotationDigest on a destination object is the digest of the desired object that was applied.
	AnnotationDigest = "dr-syncer.io/digest"
	// LabelIgnore with the value "true" on a source object keeps it from being collected. Set later, it stops updates
	// and deletes nothing.
	LabelIgnore = "dr-syncer.io/ignore"
	// AnnotationSyncNow on a Replication asks for a run with any new value.
	AnnotationSyncNow = "dr-syncer.io/sync-now"
	// LabelTransform with the value "true" on a ConfigMap says that it holds rules for whoever is to use them.
	LabelTransform = "dr-syncer.io/transform"
	// AnnotationApproveDeletions on a Replication or a Replay has the deletions made that its guard holds back, with any new value.
	AnnotationApproveDeletions = "dr-syncer.io/approve-deletions"
	// AnnotationDiscardDeletions on a Replication or a Replay has the copies kept whose deletion its guard holds back, with
	// any new value.
	AnnotationDiscardDeletions = "dr-syncer.io/discard-deletions"
	// LabelRunOf on a Replay names the Replication whose run it is.
	LabelRunOf = "dr-syncer.io/run-of"
	// AnnotationScheduledFor on a Replay is the moment of the schedule that it was made for.
	AnnotationScheduledFor = "dr-syncer.io/scheduled-for"
	// LabelScaleOverride on a source workload keeps its replicas ("true") or sets them (a number) at the destination.
	LabelScaleOverride = "dr-syncer.io/scale-override"
	// AnnotationOriginalReplicas on a destination workload is the source's replica count.
	AnnotationOriginalReplicas = "dr-syncer.io/original-replicas"
	// FieldManager is the one field manager of everything written at a destination.
	FieldManager = "dr-syncer"
	// Finalizer on a Replication holds it until its copies are dealt with.
	Finalizer = "dr-syncer.io/copies"
)
