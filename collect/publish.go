package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// appendTimeout bounds one attempt to write.
const appendTimeout = 30 * time.Second

// identityTimeout bounds one attempt to ask the source which cluster it is: nothing is published meanwhile.
const identityTimeout = 10 * time.Second

// publish is the one writer: it writes what the outbox holds, and heartbeats, until ctx
// ends, or stopping is closed and the outbox is empty. What is ready is written at once;
// batches grow while a write is under way.
func (t *term) publish(ctx context.Context, stopping <-chan struct{}) error {
	if err := t.writeHeartbeat(ctx); err != nil {
		return err
	}
	ticker := time.NewTicker(time.Duration(t.rules().cfg.Heartbeat))
	defer ticker.Stop()
	for {
		limits := t.rules().cfg.Outbox
		batch := t.outbox.take(limits.BatchEvents, int(limits.BatchBytes))
		if err := t.writeBatch(ctx, batch); err != nil {
			return err
		}
		due := false
		if len(batch) > 0 {
			select {
			case <-ticker.C:
				due = true
			default:
				continue
			}
		} else {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-stopping:
				return t.writeHeartbeat(ctx)
			case <-t.outbox.ready.signal:
			case <-ticker.C:
				due = true
			case <-t.beatNow:
				due = true
			}
		}
		if due {
			if err := t.confirmSource(ctx); err != nil {
				return err
			}
			if err := t.writeHeartbeat(ctx); err != nil {
				return err
			}
			ticker.Reset(time.Duration(t.rules().cfg.Heartbeat))
		}
	}
}

// writeBatch makes the events of a batch durable and settles them. An event that the
// log refuses is found by halving, and does not keep the others out.
func (t *term) writeBatch(ctx context.Context, batch []*lane) error {
	count := 0
	for _, l := range batch {
		count += len(l.flying)
	}
	flights := make([]flight, 0, count)
	for _, l := range batch {
		for _, p := range l.flying {
			flights = append(flights, flight{l, p})
		}
	}
	if len(flights) == 0 {
		return nil
	}
	if slices.ContainsFunc(flights, func(f flight) bool { return f.Evidence == pipeline.EvidenceReplaced }) {
		t.answers.Add(1)
	}
	if err := t.confirmSource(ctx); err != nil {
		return err
	}
	return t.writeFlights(ctx, flights)
}

// ofSource stands for a kind where all kinds are meant.
var ofSource = pipeline.GroupResource{Resource: "*"}

// confirmSource makes sure that all that was observed until now is of the same source as at the beginning of
// the epoch: another cluster behind its address has other objects under the same names. If something may have come
// from another since it was last sure, it asks until it is told, and goes on with heartbeats meanwhile.
func (t *term) confirmSource(ctx context.Context) error {
	pause := newBackOff()
	for {
		answers := t.answers.Load()
		if answers == t.confirmed {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, identityTimeout)
		now, err := t.source.ClusterUID(attempt)
		cancel()
		switch {
		case err == nil && now == t.incarnation:
			t.confirmed = answers
			return nil
		case err == nil:
			const reason = "the source is another cluster than before"
			t.reset(ctx, ofSource, reason)
			return fmt.Errorf("%w: %s", errAnew, reason)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		t.log.WarnContext(ctx, "cannot ask the source for its identity, trying again", telemetry.KeyError, err)
		if err := t.writeHeartbeat(ctx); err != nil {
			return err
		}
		wait(ctx, min(pause.NextBackOff(), time.Duration(t.rules().cfg.Heartbeat)))
	}
}

// flight is one event under way.
type flight struct {
	lane *lane
	planned
}

func (t *term) writeFlights(ctx context.Context, flights []flight) error {
	if len(flights) == 0 {
		return nil
	}
	events := make([]pipeline.Event, len(flights))
	spans := make([]telemetry.Span, len(flights))
	for i, f := range flights {
		events[i] = f.Event
		if f.sighting.span.Recording() {
			_, spans[i] = telemetry.StartSpan(telemetry.Extract(ctx, f.Trace), telemetry.SpanPublish,
				[]telemetry.Attr{telemetry.Int(telemetry.KeyCount, len(flights))})
		}
	}
	last, err := t.write(ctx, events)
	for i, s := range spans {
		if !s.Recording() {
			continue
		}
		s.End(err, telemetry.String(telemetry.KeyEpoch, last.Epoch), telemetry.Int64(telemetry.KeySequence, int64(last.Seq)-int64(len(spans)-1-i))) //nolint:gosec // sequences fit
	}
	var blocked *pipeline.BlockedError
	switch {
	case errors.As(err, &blocked):
		return t.writeOthers(ctx, flights, blocked)
	case err == nil:
		type sort struct {
			kind pipeline.GroupResource
			op   pipeline.Op
		}
		written := map[sort]int64{}
		for _, f := range t.outbox.settle(flights) {
			t.log.InfoContext(ctx, "log has taken object at last", telemetry.KeyKind, f.Ref.GroupResource().String(),
				telemetry.KeyNamespace, f.Ref.Namespace, telemetry.KeyName, f.Ref.Name)
			t.beat()
		}
		for _, f := range flights {
			written[sort{f.Ref.GroupResource(), f.Op}]++
		}
		for w, n := range written {
			telemetry.Add(ctx, telemetry.MetricCollectEvents, n, telemetry.String(telemetry.KeySite, t.site),
				telemetry.String(telemetry.KeyKind, w.kind.String()), telemetry.String(telemetry.KeyOp, w.op.String()))
		}
		telemetry.Add(ctx, telemetry.MetricPublishEvents, int64(len(flights)), telemetry.String(telemetry.KeySite, t.site))
		return nil
	case !refused(err):
		return err
	case len(flights) > 1:
		half := len(flights) / 2
		if err := t.writeFlights(ctx, flights[:half]); err != nil {
			return err
		}
		return t.writeFlights(ctx, flights[half:])
	}
	f := flights[0]
	t.log.ErrorContext(ctx, "log refuses object",
		telemetry.KeyKind, f.Ref.GroupResource().String(), telemetry.KeyNamespace, f.Ref.Namespace, telemetry.KeyName, f.Ref.Name,
		telemetry.KeyVersion, f.Version, telemetry.KeyError, err)
	t.outbox.settleRefused(f, err)
	t.beat()
	return nil
}

// refused reports whether the log will never take what it was handed.
func refused(err error) bool {
	class := pipeline.ClassOf(err)
	return errors.Is(err, pipeline.ErrTooLarge) || class == pipeline.Malformed || class == pipeline.Invalid
}

// write appends events, and tries again with backoff for as long as the log is away.
func (t *term) write(ctx context.Context, events []pipeline.Event) (pipeline.Position, error) {
	pause := newBackOff()
	site := telemetry.String(telemetry.KeySite, t.site)
	failing := ""
	var blocked *pipeline.BlockedError
	for {
		begin := time.Now()
		attempt, cancel := context.WithTimeout(ctx, appendTimeout)
		last, err := t.writer.Append(attempt, events)
		cancel()
		telemetry.Record(ctx, telemetry.MetricPublishSeconds, time.Since(begin).Seconds(), site)
		if err == nil {
			if failing != "" {
				t.outbox.setAway(false)
				t.log.InfoContext(ctx, "log takes events again")
			}
			return last, nil
		}
		telemetry.Add(ctx, telemetry.MetricPublishErrors, 1, site)
		if errors.Is(err, pipeline.ErrFenced) || refused(err) || errors.As(err, &blocked) || ctx.Err() != nil {
			if failing != "" {
				t.outbox.setAway(false)
			}
			return last, fmt.Errorf("append to the history: %w", err)
		}
		if text := err.Error(); text != failing {
			failing = text
			t.outbox.setAway(true)
			t.log.WarnContext(ctx, "cannot write to the log, trying again", telemetry.KeyError, err, telemetry.KeyCount, len(events))
		}
		wait(ctx, pause.NextBackOff())
	}
}

// writeHeartbeat appends a heartbeat.
func (t *term) writeHeartbeat(ctx context.Context) error {
	h := t.outbox.heartbeat(time.Now().UTC(), t.incarnation, t.problemsNow())
	h.Former = t.former
	event, err := h.Event(t.site)
	if err != nil {
		return err
	}
	if _, err := t.write(ctx, []pipeline.Event{event}); err != nil {
		return err
	}
	if h.Complete && h.Outbox == 0 && !t.complete.Load() {
		t.settled()
	}
	t.complete.Store(h.Complete && (h.Outbox == 0 || t.complete.Load()))
	t.started.Store(true)
	return nil
}

// beat has a heartbeat written soon.
func (t *term) beat() {
	select {
	case t.beatNow <- struct{}{}:
	default:
	}
}
