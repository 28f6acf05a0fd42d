package natslog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// ErrConflict reports that a copy of a history cannot go on, because the log at
// the destination holds something newer than the source has.
var ErrConflict = errors.New("the two ends of the link do not hold the same history")

// planCopy decides what the destination of a link does next: have are its copies
// and through how far its current stream has taken them up, offered are the
// source's histories, both in order of epochs. seen is where the copy was known
// to be before the source looked at its histories.
//
// next is an epoch to copy from its beginning, or empty. A newer epoch is begun
// only when the one before is complete, as the newer one holds only what changed
// since. If that can never be, because the source no longer has what is missing,
// the copying goes on with an epoch that is whole: one that says of every object
// what the current state says. broken tells that the source has to begin such
// an epoch.
func planCopy(have []historyState, through, seen pipeline.Position, offered []historyState) (next string, broken bool, err error) {
	if len(offered) == 0 {
		return "", false, nil
	}
	if len(have) == 0 {
		next = oldestWhole(offered)
		return next, next == "", nil
	}
	mine, newest := have[len(have)-1], offered[len(offered)-1]
	switch {
	case !mine.Copy && mine.Open:
		return "", false, fmt.Errorf("%w: a collector writes to the log of the destination itself, epoch %s", ErrConflict, mine.Epoch)
	case mine.Epoch > newest.Epoch:
		return "", false, fmt.Errorf("%w: the destination holds epoch %s, the newest one of the source is %s", ErrConflict, mine.Epoch, newest.Epoch)
	}
	i := slices.IndexFunc(offered, func(h historyState) bool { return h.Epoch == mine.Epoch })
	if i >= 0 && !mine.lacks(through) && follows(mine, seen, offered[i]) {
		switch {
		case i == len(offered)-1, mine.Last < offered[i].Last:
			return "", false, nil
		case offered[i+1].untrimmed():
			return offered[i+1].Epoch, false, nil
		}
	}
	later := slices.DeleteFunc(slices.Clone(offered), func(h historyState) bool { return h.Epoch <= mine.Epoch })
	next = oldestWhole(later)
	return next, next == "", nil
}

// oldestWhole returns the first whole epoch after which all records are there.
func oldestWhole(offered []historyState) string {
	var epoch string
	for _, h := range slices.Backward(offered) {
		if !h.untrimmed() {
			break
		}
		if h.Whole {
			epoch = h.Epoch
		}
	}
	return epoch
}

// follows reports whether a copy can go on from its origin: nothing between them
// is gone, and the origin has not lost its end.
func follows(copied historyState, seen pipeline.Position, origin historyState) bool {
	return origin.First <= copied.Last+1 && (seen.Epoch != origin.Epoch || seen.Seq <= origin.Last)
}

// untrimmed reports whether a history still has its first record.
func (h historyState) untrimmed() bool { return h.First <= 1 }

// lacks reports whether a copy lacks records that no reader has had: between
// others, which only happens when the source's retention was faster than the
// link, or before its first one, where the current stream did not take them up.
func (h historyState) lacks(through pipeline.Position) bool {
	if !h.Copy || h.Last == 0 {
		return false
	}
	if h.Messages > 0 && h.Messages != h.Last-h.First+1 {
		return true
	}
	before := pipeline.Position{Epoch: h.Epoch, Seq: h.First - 1}
	return !h.untrimmed() && through.Compare(before) < 0
}
