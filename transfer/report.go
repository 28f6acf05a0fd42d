package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
)

// Report is what a mover tells of itself, as far as it is believed: it has read a volume that anybody may have written. All
// texts are harmless to show, all numbers are zero or more.
type Report struct {
	Session    string
	Epoch      uint64
	Phase      string
	Carrier    string
	Progress   rsync.Progress
	Sent       int64
	Received   int64
	Rate       int64
	CannotKeep []string
	// Verdict is there at the end.
	Verdict   *rsync.Verdict
	Deleted   int64
	Total     int64 // bytes of all files, once a pass has told
	Problems  []string
	Different []string
	Verified  rsync.Pass
	Updated   time.Time
}

// Bounds of a report.
const (
	maxReport  = 64 << 10
	maxLines   = 20
	maxLine    = 300
	maxPasses  = 16
	phaseEnded = "Finished"
)

// reported is the form that the mover writes.
type reported struct {
	Session    string         `json:"session"`
	Epoch      uint64         `json:"epoch"`
	Phase      string         `json:"phase"`
	Carrier    string         `json:"carrier"`
	Progress   rsync.Progress `json:"progress"`
	Sent       int64          `json:"sent"`
	Received   int64          `json:"received"`
	Rate       int64          `json:"rate"`
	CannotKeep []string       `json:"cannotKeep"`
	Verdict    *rsync.Verdict `json:"verdict"`
	Reports    []rsync.Report `json:"reports"`
	Updated    time.Time      `json:"updated"`
}

// ParseReport reads a line or a termination message of a mover. Its errors tell nothing of the content.
func ParseReport(text []byte) (Report, error) {
	if len(text) > maxReport {
		return Report{}, fmt.Errorf("read the mover's report: %d bytes are too many", len(text))
	}
	var in reported
	if err := json.Unmarshal(text, &in); err != nil {
		return Report{}, errors.New("read the mover's report: it is not of the form that is expected")
	}
	if !isToken(in.Session) || len(in.Reports) > maxPasses {
		return Report{}, errors.New("read the mover's report: it is of no session, or of too many passes")
	}
	out := Report{
		Session: in.Session, Epoch: in.Epoch, Phase: harmless(in.Phase, maxLine), Sent: natural(in.Sent), Received: natural(in.Received), Rate: natural(in.Rate),
		Progress: rsync.Progress{
			Bytes: natural(in.Progress.Bytes), Files: natural(in.Progress.Files), Left: natural(in.Progress.Left), Known: natural(in.Progress.Known),
			Complete: in.Progress.Complete,
		},
		CannotKeep: harmlessLines(in.CannotKeep),
	}
	if in.Carrier == "direct" || in.Carrier == "relay" || in.Carrier == "pipe" {
		out.Carrier = in.Carrier
	}
	if year := in.Updated.UTC().Year(); year > 2000 && year < 9999 { // what a resource can hold
		out.Updated = in.Updated.UTC()
	}
	for _, r := range in.Reports {
		out.Deleted = natural(out.Deleted + natural(r.Stats.Deleted))
		out.Total = max(out.Total, natural(r.Stats.Bytes))
		out.Problems = append(out.Problems, harmlessLines(r.Problems)...)
		out.Different = append(out.Different, harmlessLines(r.Differences)...)
		if (r.Pass == rsync.PassSample || r.Pass == rsync.PassFull) && r.Class == rsync.Done {
			out.Verified = r.Pass
		}
	}
	out.Problems, out.Different = first(out.Problems), first(out.Different)
	if in.Verdict != nil {
		out.Verdict = &rsync.Verdict{Class: in.Verdict.Class, Reason: harmless(in.Verdict.Reason, maxText)}
	}
	return out, nil
}

// outcome is how the mover says that it ended.
func (r Report) outcome() Outcome {
	message := r.Verdict.Reason
	if len(r.Problems) > 0 && r.Verdict.Class != rsync.Done {
		message += ": " + r.Problems[0]
	}
	if cure, ok := cures[r.Verdict.Class]; ok {
		message += ": " + cure
	}
	return Outcome{Class: Class(r.Verdict.Class.String()), Message: message}
}

var cures = map[rsync.Class]string{
	rsync.Storage:          "look at the space and the inodes of both volumes, and give spec.destination.capacity for a larger one",
	rsync.Partial:          "files that a plain user may not read or write need moverSecurity: Privileged",
	rsync.TooManyDeletions: "if that is right, make another VolumeTransfer with larger spec.deletions",
	rsync.Memory:           "the mover needs more memory",
	rsync.Different:        "copy again, and look after the storage of both sites if it stays so",
}

func natural(n int64) int64 { return min(max(n, 0), math.MaxInt64/2) }

func first(lines []string) []string { return lines[:min(len(lines), maxLines)] }

func harmlessLines(lines []string) []string {
	var out []string
	for _, line := range first(lines) {
		if line = harmless(line, maxLine); line != "" {
			out = append(out, line)
		}
	}
	return out
}
