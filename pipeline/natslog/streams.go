package natslog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// StreamOptions are the limits of a site's streams. They count when a stream is
// made; an existing stream's limits are raised to them but never lowered, since
// lowering would destroy history.
type StreamOptions struct {
	// MaxBytes bounds one epoch's history; the oldest records go first.
	MaxBytes int64 `json:"maxBytes"`
	// MaxAge bounds the age of the history's records, whatever they are needed for. 0 leaves
	// it to retention, which lets go of what no promised moment needs.
	MaxAge time.Duration `json:"maxAge"`
	// CurrentMaxBytes bounds the current state. At the limit sourcing pauses and
	// readers fall back to the history; nothing is dropped.
	CurrentMaxBytes int64 `json:"currentMaxBytes"`
	// ClaimsMaxBytes bounds the bodies that exceed the payload limit. At the
	// limit appends that need it fail.
	ClaimsMaxBytes int64 `json:"claimsMaxBytes"`
	// Replicas is the number of servers that hold each stream: 1, 3 or 5. With 0 it is
	// 3 on a NATS cluster that has three servers for the stream when it is opened, else 1.
	Replicas int `json:"replicas"`
}

// DefaultStreamOptions suit one embedded server on a disk of 10 GiB and a source
// cluster with some ten thousand objects.
func DefaultStreamOptions() StreamOptions {
	return StreamOptions{
		MaxBytes:        4 << 30,
		CurrentMaxBytes: 1 << 30,
		ClaimsMaxBytes:  1 << 30,
	}
}

// Validate refuses limits with which the log would not work.
func (o StreamOptions) Validate() error {
	var errs []error
	for _, limit := range []struct {
		name  string
		bytes int64
	}{{"history", o.MaxBytes}, {"current state", o.CurrentMaxBytes}, {"claims", o.ClaimsMaxBytes}} {
		if limit.bytes < 1<<20 {
			errs = append(errs, fmt.Errorf("size limit of the %s is %d bytes: give at least 1 MiB", limit.name, limit.bytes))
		}
	}
	if o.MaxAge != 0 && o.MaxAge < time.Minute {
		errs = append(errs, fmt.Errorf("age limit of the history is %s: give at least a minute, or none", o.MaxAge))
	}
	if o.Replicas != 0 && o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5 {
		errs = append(errs, fmt.Errorf("%d replicas: give 1, 3 or 5, or 0 for what the servers can give", o.Replicas))
	}
	return errors.Join(errs...)
}

func (o StreamOptions) history(s site, epoch string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               s.history(epoch),
		Description:        "history of site " + s.name,
		Subjects:           []string{s.objects(), s.marks()},
		Retention:          jetstream.LimitsPolicy,
		Storage:            jetstream.FileStorage,
		Discard:            jetstream.DiscardOld,
		MaxBytes:           o.MaxBytes,
		MaxAge:             o.MaxAge,
		Replicas:           o.Replicas,
		Compression:        jetstream.S2Compression,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Metadata:           metadata(s, epoch),
	}
}

// current is derived: what a crash takes from its end is taken from the history
// again. So one server alone need not sync each of its messages, which would cost
// the history as much again. It is not compressed either: the server does that
// block by block behind the writes, and holds few blocks of it that are not
// rewritten soon.
//
// See local.create for the syncing.
func (o StreamOptions) current(s site) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              s.current(),
		Description:       "current state of site " + s.name,
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardNew,
		MaxBytes:          o.CurrentMaxBytes,
		MaxMsgsPerSubject: 1,
		Replicas:          o.Replicas,
		AllowDirect:       true,
		DenyDelete:        true,
		DenyPurge:         true,
		Metadata:          metadata(s, ""),
	}
}

func (o StreamOptions) claims(s site) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              s.claims(),
		Description:       "large bodies of site " + s.name,
		Subjects:          []string{s.claimSubject() + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardNew,
		MaxBytes:          o.ClaimsMaxBytes,
		MaxMsgsPerSubject: 1,
		Replicas:          o.Replicas,
		AllowDirect:       true,
		DenyDelete:        true,
		Metadata:          metadata(s, ""),
	}
}

// source is how the current stream takes up one epoch. Without a start the
// server would begin a source that is added later at the time of the last
// message it holds, and leave out what is older.
func (s site) source(epoch string) *jetstream.StreamSource {
	return &jetstream.StreamSource{
		Name:        s.history(epoch),
		OptStartSeq: 1,
		SubjectTransforms: []jetstream.SubjectTransformConfig{
			{Source: s.all(), Destination: s.currentAll()},
		},
	}
}

func metadata(s site, epoch string) map[string]string {
	m := map[string]string{metaSite: s.name, metaFormat: formatVersion}
	if epoch != "" {
		m[metaEpoch] = epoch
	}
	return m
}

// ErrForeignStream reports a stream of one of our names that is not set up the
// way ours are. It is left alone.
var ErrForeignStream = errors.New("the stream is not set up as DR-Syncer needs it")

// raise compares a stream as it is with what it should be. It returns the
// configuration to update it to, and whether that differs. Limits are only
// ever raised. A difference that makes it another kind of stream is
// ErrForeignStream.
func raise(have, want jetstream.StreamConfig) (jetstream.StreamConfig, bool, error) {
	next := have
	var wrong []string
	differ := func(what string, wrongly bool) {
		if wrongly {
			wrong = append(wrong, what)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want.Metadata)) {
		// Keys with the prefix "_nats." are the server's own and not in want.
		differ("metadata "+key, have.Metadata[key] != want.Metadata[key])
	}
	differ("retention", have.Retention != want.Retention)
	differ("storage", have.Storage != want.Storage)
	differ("discard", have.Discard != want.Discard)
	differ("limit per subject", perSubject(have) != perSubject(want))
	// A history was never without these denials. A current stream may be of a time when it was, and gets them;
	// the server takes none back.
	lax := func(has, should bool) bool { return has != should && (has || perSubject(have) != 1) }
	differ("permission to delete", lax(have.DenyDelete, want.DenyDelete))
	differ("permission to purge", lax(have.DenyPurge, want.DenyPurge))
	differ("permission to roll up", have.AllowRollup)
	differ("mirroring", have.Mirror != nil)
	differ("subject transform", have.SubjectTransform != nil)
	if len(wrong) > 0 {
		return have, false, fmt.Errorf("check stream %q: %w: different %s", have.Name, ErrForeignStream, strings.Join(wrong, ", "))
	}
	next.DenyDelete, next.DenyPurge = want.DenyDelete, want.DenyPurge
	next.MaxBytes = larger(have.MaxBytes, want.MaxBytes)
	next.MaxAge = time.Duration(larger(int64(have.MaxAge), int64(want.MaxAge)))
	if have.MaxMsgs > 0 { // it is only ever set for the moment of a trimming
		next.MaxMsgs = -1
	}
	next.AllowDirect = want.AllowDirect
	next.AllowAtomicPublish = want.AllowAtomicPublish
	changed := next.DenyDelete != have.DenyDelete || next.DenyPurge != have.DenyPurge ||
		next.MaxBytes != have.MaxBytes || next.MaxAge != have.MaxAge || have.MaxMsgs > 0 ||
		next.AllowDirect != have.AllowDirect || next.AllowAtomicPublish != have.AllowAtomicPublish
	return next, changed, nil
}

func perSubject(c jetstream.StreamConfig) int64 { return max(0, c.MaxMsgsPerSubject) }

// larger of two limits, where nothing positive means unlimited.
func larger(a, b int64) int64 {
	if a <= 0 || b <= 0 {
		return min(a, b)
	}
	return max(a, b)
}

// historyState is what is known of one epoch.
type historyState struct {
	Epoch    string `json:"epoch"`
	Stream   string `json:"stream"`
	Open     bool   `json:"open"` // it listens: appends go here
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	// Limit is what it may occupy, 0 if there is none.
	Limit uint64 `json:"limit,omitempty"`
	// Trimming: it has a limit by number, which it should have for the moment of a trimming only.
	Trimming  bool      `json:"trimming,omitempty"`
	FirstTime time.Time `json:"firstTime"`
	LastTime  time.Time `json:"lastTime"`
	// After is where the epoch before had ended, zero for the first of the site.
	After pipeline.Position `json:"after"`
	// Copy: it is fed over a link. Whole: no epoch before is needed.
	Copy  bool `json:"copy,omitempty"`
	Whole bool `json:"whole,omitempty"`
}

// siteState is what is known of a site's streams at one moment.
type siteState struct {
	// Histories, the oldest first.
	Histories []historyState `json:"histories"`
	// CurrentLast is the last sequence of the current stream, Through the place
	// in the history up to which it was filled. Both are zero without one.
	CurrentLast uint64            `json:"currentLast"`
	Through     pipeline.Position `json:"through"`
	// CurrentBytes is what it occupies, CurrentLimit what it may, 0 if there is no limit.
	CurrentBytes uint64 `json:"currentBytes,omitempty"`
	CurrentLimit uint64 `json:"currentLimit,omitempty"`
	// Sourced is the epoch that the current stream takes up, or empty.
	Sourced string `json:"sourced,omitempty"`
	// Origin is what is known of where the copies come from.
	Origin pipeline.Origin `json:"origin"`
}

// newest returns the last epoch.
func (s siteState) newest() (historyState, bool) {
	if len(s.Histories) == 0 {
		return historyState{}, false
	}
	return s.Histories[len(s.Histories)-1], true
}

func (s siteState) history(epoch string) (historyState, bool) {
	for _, h := range s.Histories {
		if h.Epoch == epoch {
			return h, true
		}
	}
	return historyState{}, false
}

// missing counts the records of the newest epoch that its history no longer has and the current stream never
// had. While it is kept from taking up more, by its limit, retention may pass over what it lacks. Of a copy,
// see lacks.
func (s siteState) missing() uint64 {
	newest, ok := s.newest()
	next := uint64(1)
	switch {
	case !ok || newest.Copy || s.Through.Epoch > newest.Epoch:
		return 0
	case s.Through.Epoch == newest.Epoch:
		next = s.Through.Seq + 1
	}
	return max(newest.First, next) - next
}

// from is the state as it would be with the current stream filled up to a position only.
func (s siteState) from(through pipeline.Position) siteState {
	s.Through = through
	return s
}

// damaged reports whether the newest history has lost its end: the current
// stream, or whoever knows of floor, has more of it than it has itself.
func (s siteState) damaged(floor pipeline.Position) bool {
	newest, ok := s.newest()
	if !ok || newest.Copy { // a copy that lost its end gets it again
		return false
	}
	last := pipeline.Position{Epoch: newest.Epoch, Seq: newest.Last}
	for _, p := range []pipeline.Position{s.Through, floor} {
		if p.Epoch == newest.Epoch && p.Compare(last) > 0 {
			return true
		}
	}
	return false
}
