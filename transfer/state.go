package transfer

import (
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// Class says what kind of end an attempt came to.
type Class string

// The classes of an attempt's end: those of the mover, by their names there, and of what surrounds it.
const (
	Done             Class = "Done"
	Transient        Class = "Transient"
	Permanent        Class = "Permanent"
	Storage          Class = "Storage"
	Partial          Class = "Partial"
	Vanished         Class = "Vanished"
	TooManyDeletions Class = "TooManyDeletions"
	Memory           Class = "Memory"
	Different        Class = "Different"
	// Canceled: the mover was asked to stop, by whatever stops Pods.
	Canceled Class = "Canceled"
	// Refused: the source's policy does not allow it.
	Refused Class = "Refused"
	// InUse: somebody else uses the claim.
	InUse Class = "InUse"
	// Suspended: it is to wait.
	Suspended Class = "Suspended"
	// Deleted: nobody wants it any more.
	Deleted Class = "Deleted"
)

// Outcome is how an attempt ended.
type Outcome struct {
	Class Class
	// Message says what happened and, of a failure, what to do.
	Message string
}

// State is where a transfer stands. It is all that has to survive.
type State struct {
	Phase v1alpha1.VolumeTransferPhase
	// Since is when the phase began.
	Since time.Time
	// Epoch counts the attempts that were begun, Failures those that failed.
	Epoch    uint64
	Failures int
	// Began is when the present attempt did.
	Began time.Time
	// NotBefore is when another attempt may begin.
	NotBefore time.Time
	// Outcome is how the attempt ended whose traces are being removed, or that was the last.
	Outcome *Outcome
}

// Ended reports whether the transfer is over.
func (s State) Ended() bool {
	return s.Phase == v1alpha1.VolumeTransferComplete || s.Phase == v1alpha1.VolumeTransferFailed
}

// Busy reports whether the transfer has been admitted, and takes the place of one.
func (s State) Busy() bool {
	return !s.Ended() && s.Phase != v1alpha1.VolumeTransferPending && s.Phase != ""
}

// World is what a transfer's surroundings look like. It may be old by the time it is looked at.
type World struct {
	// Deleted and Suspended say that the transfer is to end, or to wait.
	Deleted, Suspended bool
	// Admitted says that the gate has let it in, for the attempt that is to begin.
	Admitted bool
	Claim    Claim
	// Identities are the epochs whose secret exists.
	Identities []uint64
	// Mover is the mover of the destination's claim; nil if there is none.
	Mover *Mover
	// Source is what the source says of the present epoch.
	Source Source
	// Snapshot is that of the present epoch.
	Snapshot Snapshot
}

// Claim is the destination's claim.
type Claim struct {
	// Exists and Fits: it is there, and large enough.
	Exists, Fits bool
	// Blocked is why it cannot be written to now, nil if it can.
	Blocked *Outcome
}

// Mover is a mover's Pod.
type Mover struct {
	// Ours says that it is of this transfer, and not of another that uses the claim.
	Ours  bool
	Epoch uint64
	// Running and Ended: neither, it has not begun. Going: it was told to go away.
	Running, Ended, Going bool
	// Why says what keeps it from running.
	Why string
	// Verifying says that it compares.
	Verifying bool
	// Outcome is how it ended.
	Outcome Outcome
}

// Source is what the source's side says.
type Source struct {
	State SourceState
	// Message says what it waits for or, with Class, why it refuses.
	Message string
	Class   Class
}

// SourceState is how far the source's side is.
type SourceState string

const (
	// SourceSilent: it was not heard of lately.
	SourceSilent SourceState = "Silent"
	// SourcePreparing: it knows of the wish.
	SourcePreparing SourceState = "Preparing"
	// SourceServing: its mover can be reached.
	SourceServing SourceState = "Serving"
	// SourceRefused: it will not, or cannot now.
	SourceRefused SourceState = "Refused"
)

// Snapshot is how far the recovery point of an attempt is.
type Snapshot struct {
	// Possible says that the storage can make one.
	Possible bool
	// Exists, Ready: it was asked for, it is usable.
	Exists, Ready bool
	// Failed is what went wrong, empty if nothing did.
	Failed string
}

// Terms are what a transfer's spec says of how it is run.
type Terms struct {
	Snapshots v1alpha1.VolumeSnapshots
	// Attempts is how many may fail.
	Attempts int
	// Timeout is how long one may take.
	Timeout time.Duration
	// Jitter, from 0 to 1, spreads the waits between attempts.
	Jitter float64
}
