package v1alpha1

// The conditions of a Replication.
const (
	// ConditionReady is true while changes are applied as the spec says. Its reason
	// sums up what is wrong otherwise, its message holds the cure.
	ConditionReady = "Ready"
	// ConditionSourceAvailable is true while the log holds a history of the source
	// and its collector is heard of.
	ConditionSourceAvailable = "SourceAvailable"
	// ConditionCaughtUp is true once the first copy is complete and no change has
	// waited for long.
	ConditionCaughtUp = "CaughtUp"
	// ConditionDegraded is true while objects are failing or parked.
	ConditionDegraded = "Degraded"
	// ConditionTransformsReady is true while the rules that spec.transforms names or selects
	// are the ones that run. It is not there without spec.transforms.
	ConditionTransformsReady = "TransformsReady"
	// ConditionDeletionsHeld is true while the deletion guard holds deletions back. Replays have it too.
	ConditionDeletionsHeld = "DeletionsHeld"
)

// The conditions of a Replay, beside DeletionsHeld.
const (
	// ConditionComplete is true once everything was done.
	ConditionComplete = "Complete"
	// ConditionFailed is true once it is clear that it will not be. Its message holds the cure.
	ConditionFailed = "Failed"
)

// The reasons of conditions.
const (
	ReasonReplicating    = "Replicating"
	ReasonCopying        = "Copying"
	ReasonPaused         = "Paused"
	ReasonStarting       = "Starting"
	ReasonDeleting       = "Deleting"
	ReasonInvalidSpec    = "InvalidSpec"
	ReasonOverlap        = "Overlap"
	ReasonRunFailing     = "RunFailing"
	ReasonUnknownSite    = "UnknownSite"
	ReasonSourceSilent   = "SourceSilent"
	ReasonSourceHeard    = "SourceHeard"
	ReasonSourcePartial  = "SourcePartial"
	ReasonLogUnavailable = "LogUnavailable"
	ReasonFollowing      = "Following"
	ReasonBehind         = "Behind"
	ReasonObjectsParked  = "ObjectsParked"
	ReasonObjectsFailing = "ObjectsFailing"
	ReasonAllApplied     = "AllApplied"
	ReasonRulesInUse     = "RulesInUse"
	ReasonRulesInvalid   = "RulesInvalid"
	ReasonRulesUnread    = "RulesUnreadable"
	ReasonIdle           = "Idle"
	ReasonRunning        = "Running"
	ReasonSuspended      = "Suspended"
	ReasonTooMany        = "TooManyDeletions"
	ReasonSourceReset    = "SourceReset"
	ReasonSourceEmptied  = "SourceEmptied"
	ReasonNoneHeld       = "NoneHeld"
	ReasonObjectsFailed  = "ObjectsFailed"
	ReasonNoReplication  = "NoReplication"
	ReasonNotThere       = "MomentNotReachable"
	ReasonWaiting        = "Waiting"
	ReasonDone           = "Done"
)
