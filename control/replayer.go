package control

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transform"
)

// Replayer does the work of Replays. Its methods are safe for concurrent use.
type Replayer interface {
	// Validate returns what is wrong with a spec, each with its cure.
	Validate(spec v1alpha1.ReplicationSpec) []error
	// Resolve finds the moment of a site's history that is meant. One that cannot be reached, now or
	// later, is an error that wraps ErrUnreachable. frozen asks for a snapshot of it, too.
	Resolve(ctx context.Context, site string, upTo *v1alpha1.UpTo, frozen bool) (pipeline.Moment, error)
	// Replay makes the run of a Replay, which has not begun yet.
	Replay(w ReplayWish) (ReplayRun, error)
	// ForgetReplay drops the results of a Replay that is no more. It may be repeated.
	ForgetReplay(ctx context.Context, uid types.UID) error
	// SweepReplays drops the results of all Replays that exist denies. It may be repeated.
	SweepReplays(ctx context.Context, exists func(uid types.UID) bool) error
}

// ReplayWish is what the run of a Replay is made from.
type ReplayWish struct {
	// Name and UID are the Replay's.
	Name types.NamespacedName
	UID  types.UID
	// Owner is the Replication in whose name it runs; of the zero name it runs in its own.
	Owner types.NamespacedName
	// Spec says what, where to, and in which way.
	Spec v1alpha1.ReplicationSpec
	// Rules rewrite the objects on their way.
	Rules *transform.Set
	// At is the moment that it goes up to.
	At pipeline.Moment
	// Discarded is the place in the history up to which deletions are not to be made any more.
	Discarded pipeline.Position
	// DryRun writes nothing; Prune deletes; Approved lets every deletion pass.
	DryRun, Prune, Approved bool
	// Guard is that of the Replay, nil for that of Spec.
	Guard *v1alpha1.DeletionGuard
	// Orphaned reports that a mark on a copy is that of nobody.
	Orphaned func(mark string) bool
}

// ReplayRun is one run of a Replay.
type ReplayRun interface {
	// Run works until everything is done, and returns nil then. After an error, or the end of ctx,
	// another run has to be made. It is called once.
	Run(ctx context.Context) error
	// Progress says how far it is. It is cheap, and may be called at any time and at once.
	Progress() Progress
}

// Progress is how far the run of a Replay is.
type Progress struct {
	Counts v1alpha1.ReplayCounts
	// Kinds are the counts by kind.
	Kinds map[pipeline.GroupResource]v1alpha1.ReplayCounts
	// Held are the kinds and namespaces whose deletions are held back.
	Held []v1alpha1.HeldScope
	// AfterReset is how many of those deletions are held for a reset of the source.
	AfterReset int64
	// Emptied is how many of them are held for a list that has nothing of their kind or namespace.
	Emptied int64
	// LastError is the newest failure.
	LastError *v1alpha1.LastError
}

// unreachable marks a moment that cannot be replayed.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// Unreachable marks err as that of a moment that cannot be reached, now or later.
func Unreachable(err error) error { return unreachable{err} }

// The pace of Replays.
const (
	// replayDelay is the wait before a run that failed is made anew, to begin with.
	replayDelay    = time.Second
	maxReplayDelay = time.Minute
	// replayPoll is when to look again at a Replay that waits for something.
	replayPoll = 5 * time.Second
)
