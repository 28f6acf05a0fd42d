package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// DeadLetterOptions are the limits of a destination's dead letters.
type DeadLetterOptions struct {
	// MaxBytes bounds them; at the limit parking another one fails.
	MaxBytes int64
	// MaxAge is when a dead letter that nobody cared for is dropped.
	MaxAge time.Duration
	// Replicas is the number of servers that hold them: 1, 3 or 5, or 0 as for StreamOptions.
	Replicas int
}

// DefaultDeadLetterOptions leave room for some hundred thousand dead letters.
func DefaultDeadLetterOptions() DeadLetterOptions {
	return DeadLetterOptions{MaxBytes: 256 << 20, MaxAge: 90 * 24 * time.Hour}
}

// DeadLetters keeps the parked events of one destination, one message per owner
// and Ref; see pipeline.DeadLetters. It is safe for concurrent use.
type DeadLetters struct {
	conn   *Conn
	stream string
	prefix string // of subjects: drs.v1.<dest>.dlq
}

func (c *Conn) deadLetters(dest string) *DeadLetters {
	stream, prefix := ofDestination(dest, "DLQ", "dlq")
	return &DeadLetters{conn: c, stream: stream, prefix: prefix}
}

// DeadLetters opens the dead letters of a destination, and makes their stream
// if there is none.
func (c *Conn) DeadLetters(ctx context.Context, dest string, opts DeadLetterOptions) (*DeadLetters, error) {
	d := c.deadLetters(dest)
	err := (&local{conn: c}).ensure(ctx, jetstream.StreamConfig{
		Name:              d.stream,
		Description:       "dead letters of destination " + dest,
		Subjects:          []string{d.prefix + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardNew,
		MaxBytes:          opts.MaxBytes,
		MaxAge:            opts.MaxAge,
		MaxMsgsPerSubject: 1,
		Replicas:          opts.Replicas,
		AllowDirect:       true,
		Metadata:          map[string]string{metaFormat: formatVersion},
	})
	if err != nil {
		return nil, fmt.Errorf("open the dead letters of %q: %w", dest, err)
	}
	return d, nil
}

// ErrNoDeadLetters reports that the log knows no such destination.
var ErrNoDeadLetters = errors.New("the log holds no dead letters of this destination")

// FindDeadLetters opens the dead letters of a destination as they are, with the
// limits they have. It makes none: a name that is not known is ErrNoDeadLetters.
func (c *Conn) FindDeadLetters(ctx context.Context, dest string) (*DeadLetters, error) {
	d := c.deadLetters(dest)
	err := c.do(ctx, func(ctx context.Context) error {
		_, err := c.js.Stream(ctx, d.stream)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrNoDeadLetters
	}
	if err != nil {
		return nil, fmt.Errorf("open the dead letters of %q: %w", dest, err)
	}
	return d, nil
}

// subject of a dead letter: the owner's token, and then the Ref's as in its own subject.
func (d *DeadLetters) subject(owner string, ref pipeline.Ref) string {
	tail := strings.TrimPrefix(ref.Subject(), pipeline.SubjectPrefix+".")
	return d.prefix + "." + pipeline.EscapeToken(owner) + "." + tail
}

// Park implements pipeline.DeadLetters.
func (d *DeadLetters) Park(ctx context.Context, letter pipeline.DeadLetter) error {
	data, err := json.Marshal(letter)
	if err != nil {
		return fmt.Errorf("encode the dead letter of %s: %w", letter.Ref, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg := &nats.Msg{Subject: d.subject(letter.Owner, letter.Ref), Header: nats.Header{headerExpectStream: {d.stream}}, Data: data}
	if _, err := d.conn.request(ctx, msg); err != nil {
		return fmt.Errorf("park %s: %w", letter.Ref, explainAPI(err))
	}
	return nil
}

// Remove implements pipeline.DeadLetters.
func (d *DeadLetters) Remove(ctx context.Context, owner string, ref pipeline.Ref) error {
	subject := d.subject(owner, ref)
	err := d.conn.do(ctx, func(ctx context.Context) error {
		return purge(ctx, d.conn.nc, d.stream, subject, 0)
	})
	if err != nil {
		return fmt.Errorf("remove the dead letter of %s: %w", ref, err)
	}
	return nil
}

// List implements pipeline.DeadLetters.
func (d *DeadLetters) List(ctx context.Context, owner string) iter.Seq2[pipeline.DeadLetter, error] {
	return func(yield func(pipeline.DeadLetter, error) bool) {
		filter := d.prefix + ".>"
		if owner != "" {
			filter = d.prefix + "." + pipeline.EscapeToken(owner) + ".>"
		}
		if err := d.list(ctx, filter, yield); err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.DeadLetter{}, fmt.Errorf("list the dead letters of %q: %w", d.stream, err))
		}
	}
}

func (d *DeadLetters) list(ctx context.Context, filter string, yield func(pipeline.DeadLetter, error) bool) error {
	open := func(start uint64) opener {
		return func(ctx context.Context) (jetstream.Consumer, func(), error) {
			return (&local{conn: d.conn}).atLeader(ctx, d.stream, jetstream.ConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, FilterSubject: filter,
			})
		}
	}
	end, err := d.conn.lastSeq(ctx, d.stream)
	if err != nil {
		return err
	}
	return scan(ctx, d.conn, open, pullHeaders, 1, end, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		letter, err := d.decode(m)
		if err == nil && !yield(letter, nil) || err != nil && !yield(letter, err) {
			return errStopped
		}
		return nil
	})
}

func (d *DeadLetters) decode(m jetstream.Msg) (pipeline.DeadLetter, error) {
	var letter pipeline.DeadLetter
	_, tail, _ := strings.Cut(strings.TrimPrefix(m.Subject(), d.prefix+"."), ".")
	ref, err := parseTail(tail)
	if err == nil {
		err = json.Unmarshal(m.Data(), &letter)
	}
	if err != nil {
		return pipeline.DeadLetter{}, fmt.Errorf("%w: dead letter on %q: %w", pipeline.ErrForeign, m.Subject(), err)
	}
	letter.Ref = ref
	return letter, nil
}

// parseTail is the inverse of what subject appends. Other than ParseRef it takes
// any Ref: what was parked may be a message that is not a record of ours.
func parseTail(tail string) (pipeline.Ref, error) {
	tokens := strings.Split(tail, ".")
	if len(tokens) != 6 || tokens[1] != "obj" {
		return pipeline.Ref{}, pipeline.ErrSubject
	}
	var ref pipeline.Ref
	for i, field := range []*string{&ref.Site, nil, &ref.Group, &ref.Resource, &ref.Namespace, &ref.Name} {
		if field == nil {
			continue
		}
		value, err := pipeline.UnescapeToken(tokens[i])
		if err != nil {
			return pipeline.Ref{}, fmt.Errorf("%w: %w", pipeline.ErrSubject, err)
		}
		*field = value
	}
	return ref, nil
}
