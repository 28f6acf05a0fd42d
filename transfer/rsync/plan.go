package rsync

import "fmt"

// Ran is how a pass ended.
type Ran struct {
	Pass  Pass  `json:"pass"`
	Class Class `json:"class"`
	Stats Stats `json:"stats"`
	// Pending is how many deletions the limit has held back, at least.
	Pending int64 `json:"pending,omitempty"`
	// Different is how many files a check found to differ.
	Different int `json:"different,omitempty"`
}

// Verdict is how a copy ended.
type Verdict struct {
	Class  Class  `json:"class"`
	Reason string `json:"reason"`
}

// limit is how many deletions are allowed, by a data pass that saw the whole source.
func (s Settings) limit(data Stats) int64 {
	if s.DeleteCount == 0 && s.DeletePercent == 0 {
		const quarter = 4
		return max(defaultDeletions, data.Files/quarter)
	}
	return max(int64(s.DeleteCount), data.Files*int64(s.DeletePercent)/maxPercent)
}

// Plan decides what comes after the passes that ran: another pass, or the end of the
// copy. It is a function of its arguments. limit is for PassDelete.
func Plan(s Settings, ran []Ran) (next Pass, limit int64, end *Verdict) {
	if len(ran) == 0 {
		return PassData, 0, nil
	}
	last := ran[len(ran)-1]
	switch last.Class {
	case Done:
	case Vanished:
		if !s.Live {
			return "", 0, &Verdict{Partial, "files vanished from a source that nobody should change"}
		}
	case TooManyDeletions:
		if last.Pass != PassData || !s.Delete {
			return "", 0, &Verdict{TooManyDeletions, "the limit stopped the deletions; what was within it is deleted"}
		}
	case Partial:
		// A directory in the way of a file is one reason, and the only one that more
		// deletions can help.
		if last.Pass == PassData && s.Delete && last.Pending > 0 {
			return planDeletions(s, PassReplace, last)
		}
		return "", 0, unfinished(last)
	case Transient, Permanent, Storage, Canceled, Memory, Different:
		return "", 0, unfinished(last)
	}
	switch last.Pass {
	case PassData:
		if s.Live && len(ran) == 1 && last.Stats.Transferred > 0 {
			return PassData, 0, nil // what changed meanwhile
		}
		// Vanished hides whether the limit held deletions back.
		if last.Class == TooManyDeletions || s.Delete && last.Class == Vanished {
			return planDeletions(s, PassDelete, last)
		}
	case PassReplace:
		return planDeletions(s, PassDelete, ran[len(ran)-2]) // the data pass before it has counted
	case PassDelete:
	case PassSample, PassFull:
		if last.Different > 0 {
			return "", 0, &Verdict{Different, fmt.Sprintf("%d files differ from the source", last.Different)}
		}
		return "", 0, &Verdict{Done, "copied and verified"}
	}
	switch s.Verify {
	case VerifyNone:
		return "", 0, &Verdict{Done, "copied"}
	case VerifyFull:
		return PassFull, 0, nil
	case VerifySample:
	}
	if s.Block {
		return PassFull, 0, nil // one file is no sample
	}
	return PassSample, 0, nil
}

func unfinished(r Ran) *Verdict {
	return &Verdict{r.Class, fmt.Sprintf("the %s pass did not finish", r.Pass)}
}

// planDeletions has a pass delete what a data pass found, if that is within the limit.
func planDeletions(s Settings, p Pass, data Ran) (Pass, int64, *Verdict) {
	limit := s.limit(data.Stats)
	switch {
	case data.Stats.Files <= 1 && !s.AllowEmpty:
		return "", 0, &Verdict{TooManyDeletions, "the source is empty and the destination is not: allow it if that is right"}
	case data.Pending > limit:
		return "", 0, &Verdict{TooManyDeletions, fmt.Sprintf("%d files or more would be deleted, the limit is %d; nothing is deleted", data.Pending, limit)}
	}
	return p, limit, nil
}
