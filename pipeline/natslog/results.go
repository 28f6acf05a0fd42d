package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// ResultOptions are the limits of the results of a destination's runs.
type ResultOptions struct {
	// MaxBytes bounds them; beyond it the oldest go.
	MaxBytes int64
	// MaxAge is when a result goes that was not removed with its run.
	MaxAge time.Duration
	// Replicas is the number of servers that hold them: 1, 3 or 5, or 0 as for StreamOptions.
	Replicas int
}

// DefaultResultOptions leave room for some million results.
func DefaultResultOptions() ResultOptions {
	return ResultOptions{MaxBytes: 256 << 20, MaxAge: 90 * 24 * time.Hour}
}

// maxResultsMessage is how large a message of results becomes, roughly.
const maxResultsMessage = 256 << 10

// Results keeps what became of the objects of the runs into one destination, some
// hundreds in a message on the subject of the run; see pipeline.Results. It is safe
// for concurrent use.
type Results struct {
	conn   *Conn
	stream string
	prefix string // of subjects: drs.v1.<dest>.res
}

// Results opens those of a destination, and makes their stream if there is none.
func (c *Conn) Results(ctx context.Context, dest string, opts ResultOptions) (*Results, error) {
	stream, prefix := ofDestination(dest, "RES", "res")
	r := &Results{conn: c, stream: stream, prefix: prefix}
	err := (&local{conn: c}).ensure(ctx, jetstream.StreamConfig{
		Name:        r.stream,
		Description: "results of the runs into destination " + dest,
		Subjects:    []string{r.prefix + ".*"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld,
		Compression: jetstream.S2Compression,
		MaxBytes:    opts.MaxBytes,
		MaxAge:      opts.MaxAge,
		Replicas:    opts.Replicas,
		Metadata:    map[string]string{metaFormat: formatVersion},
	})
	if err != nil {
		return nil, fmt.Errorf("open the results of %q: %w", dest, err)
	}
	return r, nil
}

func (r *Results) subject(run string) string { return r.prefix + "." + pipeline.EscapeToken(run) }

// Add implements pipeline.Results.
func (r *Results) Add(ctx context.Context, run string, results []pipeline.ObjectResult) error {
	var batch []byte
	for i, one := range results {
		line, err := json.Marshal(one)
		if err != nil {
			return fmt.Errorf("encode the result of %s: %w", one.Ref, err)
		}
		batch = append(append(batch, line...), '\n')
		if len(batch) < maxResultsMessage && i < len(results)-1 {
			continue
		}
		if err := r.publish(ctx, run, batch); err != nil {
			return err
		}
		batch = nil
	}
	return nil
}

func (r *Results) publish(ctx context.Context, run string, batch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg := &nats.Msg{Subject: r.subject(run), Header: nats.Header{headerExpectStream: {r.stream}}, Data: batch}
	if _, err := r.conn.request(ctx, msg); err != nil {
		return fmt.Errorf("store results of run %q: %w", run, explainAPI(err))
	}
	return nil
}

// List implements pipeline.Results.
func (r *Results) List(ctx context.Context, run string) iter.Seq2[pipeline.ObjectResult, error] {
	return func(yield func(pipeline.ObjectResult, error) bool) {
		if err := r.list(ctx, run, yield); err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.ObjectResult{}, fmt.Errorf("list the results of run %q: %w", run, err))
		}
	}
}

func (r *Results) list(ctx context.Context, run string, yield func(pipeline.ObjectResult, error) bool) error {
	open := func(start uint64) opener {
		return func(ctx context.Context) (jetstream.Consumer, func(), error) {
			return (&local{conn: r.conn}).temporary(ctx, r.stream, jetstream.ConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, FilterSubject: r.subject(run),
			})
		}
	}
	end, err := r.conn.lastSeq(ctx, r.stream)
	if err != nil {
		return err
	}
	return scan(ctx, r.conn, open, pullHeaders, 1, end, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		return eachResult(m.Data(), yield)
	})
}

// eachResult reads the results in a message.
func eachResult(data []byte, yield func(pipeline.ObjectResult, error) bool) error {
	for len(data) > 0 {
		line := data
		for i, b := range data {
			if b == '\n' {
				line = data[:i]
				break
			}
		}
		data = data[min(len(line)+1, len(data)):]
		var one pipeline.ObjectResult
		if err := json.Unmarshal(line, &one); err != nil {
			return fmt.Errorf("%w: a result: %w", pipeline.ErrForeign, err)
		}
		if !yield(one, nil) {
			return errStopped
		}
	}
	return nil
}

// Runs implements pipeline.Results.
func (r *Results) Runs(ctx context.Context) ([]string, error) {
	var runs []string
	err := r.conn.do(ctx, func(ctx context.Context) error {
		runs = nil
		stream, err := r.conn.js.Stream(ctx, r.stream)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(r.prefix+".*"))
		if err != nil {
			return err
		}
		for subject := range info.State.Subjects {
			run, err := pipeline.UnescapeToken(strings.TrimPrefix(subject, r.prefix+"."))
			if err != nil {
				return err
			}
			runs = append(runs, run)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the runs with results: %w", explainAPI(err))
	}
	slices.Sort(runs)
	return runs, nil
}

// Remove implements pipeline.Results.
func (r *Results) Remove(ctx context.Context, run string) error {
	err := r.conn.do(ctx, func(ctx context.Context) error {
		return purge(ctx, r.conn.nc, r.stream, r.subject(run), 0)
	})
	if err != nil {
		return fmt.Errorf("remove the results of run %q: %w", run, err)
	}
	return nil
}
