package control

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// Engine does the work of Replications. Its methods are safe for concurrent use.
type Engine interface {
	// Validate returns what is wrong with a spec, each with its cure; none if it can
	// be carried out.
	Validate(spec v1alpha1.ReplicationSpec) []error
	// New makes the run of a Replication, which has not begun yet.
	New(w Wish) (Runner, error)
	// DeleteCopies deletes everything that carries the Replication's mark and
	// returns when it is gone, or what keeps it. It may be called again.
	DeleteCopies(ctx context.Context, owner types.NamespacedName) error
	// Forget drops what is kept of a Replication that is no more: its dead letters.
	Forget(ctx context.Context, owner types.NamespacedName) error
	// Sweep does what Forget does for every owner ("namespace/name") that does not exist: those
	// that were deleted while nobody looked.
	Sweep(ctx context.Context, exists func(owner string) bool) error
}

// Wish is what a run is made from.
type Wish struct {
	Owner types.NamespacedName
	// Spec is the Replication's. If it is paused the run applies nothing and only measures how
	// far it is behind From.
	Spec v1alpha1.ReplicationSpec
	// From is the position that the Replication's status tells; zero if none.
	From pipeline.Position
	// Rules rewrite the objects on their way.
	Rules *transform.Set
	// Deletions is what the Replication's status tells of deletions that were held back, nil if nothing.
	Deletions *v1alpha1.DeletionsStatus
	// Orphaned reports that a mark on a copy is that of no Replication.
	Orphaned func(mark string) bool
}

// Runner is the run of one Replication under one spec.
type Runner interface {
	// Run works until ctx ends. Any return before that is a failure; a new Runner
	// is made after a delay. It is called once.
	Run(ctx context.Context) error
	// Snapshot says where the run stands. It is cheap, and may be called at any time
	// and at once.
	Snapshot() Snapshot
}

// Stage says what a run is doing.
type Stage uint8

const (
	// StageStarting: it has not reached the log yet.
	StageStarting Stage = iota
	// StageCopying: it goes over everything the log holds.
	StageCopying
	// StageFollowing: it has, and now applies what comes.
	StageFollowing
	// StagePaused: it applies nothing.
	StagePaused
)

// Snapshot is where a run stands.
type Snapshot struct {
	Stage Stage
	// Err is what keeps the run from working; nil while it works. Failures of single
	// objects are not meant.
	Err error
	// Position is the place through which everything was settled; zero if none is known.
	Position pipeline.Position
	// Behind is the number of records not settled.
	Behind int64
	// Lag is the age of the oldest of them; without any, how long the source has been
	// silent beyond its habit.
	Lag time.Duration
	// Heard is when the source was last heard of, by this process's clock; zero if
	// it never was.
	Heard time.Time
	// Deletions is what the guard holds back; nil if the run has none.
	Deletions *apply.HeldDeletions
	// Failing names the kinds that the source says it cannot collect now, with the reason.
	Failing map[string]string
	// Kinds are the counts by kind.
	Kinds map[pipeline.GroupResource]v1alpha1.Counts
	// LastEvent and LastError are the newest change and failure of this run.
	LastEvent *v1alpha1.LastEvent
	LastError *v1alpha1.LastError
	// LastParked is the failure for which an object was parked last.
	LastParked *v1alpha1.LastError
}
