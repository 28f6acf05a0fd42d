package natslog

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// admin does what needs rights over streams. It is done by whoever has them:
// this connection (local) or the steward beside the embedded server (remote).
type admin interface {
	// state lists the streams of a site; none is no error.
	state(ctx context.Context, s site) (siteState, error)
	// open makes sure that a history listens and that the other streams are there.
	// floor is a position that the history has reached for certain: if it ends
	// before, it was damaged, and a new epoch begins.
	open(ctx context.Context, s site, o StreamOptions, floor pipeline.Position) (siteState, error)
	// begin ends the epoch of at and begins a newer one. It is ErrFenced if at is
	// not the end of the newest history.
	begin(ctx context.Context, s site, o StreamOptions, at pipeline.Position) (siteState, error)
	// reader makes a consumer that reads without acknowledging. release says that
	// it is no longer needed; an unused one disappears by itself.
	reader(ctx context.Context, s site, r readRequest) (c jetstream.Consumer, release func(), err error)
	// appendOf returns the name of the append that a record ended, or "".
	appendOf(ctx context.Context, s site, at pipeline.Position) (string, error)
}

// readRequest describes what a reader reads.
type readRequest struct {
	// Epoch of the history, or empty for the current stream.
	Epoch string `json:"epoch,omitempty"`
	// Start is the first sequence.
	Start uint64 `json:"start"`
	// Kind, if not nil, reads objects of that kind only.
	Kind *pipeline.GroupResource `json:"kind,omitempty"`
	// Heartbeat reads heartbeats only.
	Heartbeat bool `json:"heartbeat,omitempty"`
	// Ref, if not nil, reads the records of that object only. Its site does not matter.
	Ref *pipeline.Ref `json:"ref,omitempty"`
	// Since, if set, reads from the first record stored then or later, not from Start.
	Since       time.Time `json:"since,omitzero"`
	HeadersOnly bool      `json:"headersOnly,omitempty"`
}

func (r readRequest) stream(s site) string {
	if r.Epoch == "" {
		return s.current()
	}
	return s.history(r.Epoch)
}

func (r readRequest) config(s site) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   max(r.Start, 1),
		HeadersOnly:   r.HeadersOnly,
	}
	if !r.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &r.Since
	}
	switch {
	case r.Ref != nil:
		ref := *r.Ref
		ref.Site = s.name
		cfg.FilterSubject = ref.Subject()
	case r.Heartbeat:
		cfg.FilterSubject = pipeline.HeartbeatSubject(s.name)
	case r.Kind != nil:
		cfg.FilterSubject = pipeline.ObjectSubjects(s.name, r.Kind)
	}
	if r.Epoch == "" && cfg.FilterSubject != "" {
		cfg.FilterSubject = currentPrefix + strings.TrimPrefix(cfg.FilterSubject, pipeline.SubjectPrefix)
	}
	return cfg
}

// readerIdle is when the server forgets a reader that went away.
const readerIdle = 5 * time.Minute

// drainWait bounds how long opening waits for the current stream to take up the
// rest of a closed epoch.
const drainWait = 2 * time.Second
