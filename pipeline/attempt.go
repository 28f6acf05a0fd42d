package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Results of records that no sink has decided on, beside those of type Result.
const (
	resultSuperseded = "superseded"
	resultParked     = "parked"
	resultForeign    = "foreign"
	resultAbandoned  = "abandoned"
)

// maxMessage bounds the text of a dead letter, in bytes.
const maxMessage = 1 << 10

// step works on an item for once: whatever happens, it is settled, kept for
// later, or left alone because ctx has ended.
func (p *Pump) step(ctx context.Context, it *item) {
	if it.stage == applying {
		it.tries++
		it.attempts++
		if it.first.IsZero() {
			it.first = time.Now()
		}
		it.result, it.cause = p.apply(ctx, it)
		switch p.decide(ctx, it) {
		case Abandon:
			return
		case Retry:
			p.retry(ctx, it)
			return
		case Park:
			it.stage = parking
		case Done:
			it.stage = healing
		}
	}
	var err error
	switch {
	case it.stage == healing:
		err = p.heal(ctx, it)
	case p.giveWay(ctx, it) || ctx.Err() != nil:
		return
	default:
		err = p.park(ctx, it)
	}
	switch {
	case err == nil:
		p.settle(ctx, it)
	case ctx.Err() == nil:
		p.letterFailed(ctx, err)
		p.retry(ctx, it)
	}
}

// apply is one attempt. A panic of the sink is an error like any other: bad
// data never kills the process.
func (p *Pump) apply(ctx context.Context, it *item) (res Result, err error) {
	if it.Invalid != nil {
		return "", WithClass(Malformed, it.Invalid)
	}
	ctx, cancel := context.WithTimeout(telemetry.Extract(ctx, it.trace), p.cfg.AttemptTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = WithClass(Malformed, fmt.Errorf("panic while applying: %s", describePanic(v)))
			p.log.ErrorContext(ctx, "sink panicked", telemetry.KeyKind, it.kind, telemetry.KeyNamespace, it.Ref.Namespace,
				telemetry.KeyName, it.Ref.Name, telemetry.KeySequence, it.Position.Seq, telemetry.KeyError, err,
				telemetry.KeyStack, string(debug.Stack()))
		}
	}()
	return p.sink.Apply(ctx, it.Record)
}

// describePanic tells what a panic was about; other values than the runtime's
// own may hold data, so that only their type is told.
func describePanic(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("a value of type %T", v)
}

// decide is Decide, but for a sink that says it was canceled though the pump
// was not: that is a failure.
func (p *Pump) decide(ctx context.Context, it *item) Action {
	budget := p.cfg.Attempts
	if it.redo {
		budget = 1
	}
	action := Decide(it.cause, it.attempts, budget)
	if action == Abandon && ctx.Err() == nil {
		it.cause = WithClass(ClassOf(it.cause), errors.New(it.cause.Error()))
		action = Decide(it.cause, it.attempts, budget)
	}
	switch {
	case action == Park && it.redo && p.missed(it):
		return Retry // what it lacks may have come while it was being tried
	case action == Retry && it.redo:
		return Park
	}
	return action
}

// missed reports that an item lacks a dependency that may have come since its
// attempt began.
func (p *Pump) missed(it *item) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ClassOf(it.cause) == Dependency && it.wakes != p.wakes
}

// retry keeps the item for another try, unless there is a newer one.
func (p *Pump) retry(ctx context.Context, it *item) {
	now, reason := time.Now(), ClassOf(it.cause)
	p.mu.Lock()
	p.stats.failure(it, now)
	due := now.Add(p.delay(it))
	if it.stage == applying && reason == Dependency && it.wakes != p.wakes {
		it.attempts-- // what it lacks may have come while it was being tried
		due = time.Time{}
	}
	newer := p.lanes.keep(it, due) // another worker's from here on, unless there is a newer one
	p.release()
	p.work.Signal()
	p.mu.Unlock()
	p.look()
	if newer != nil {
		p.supersede(ctx, it, newer)
		return
	}
	telemetry.Add(ctx, telemetry.MetricPumpRetries, 1, telemetry.String(telemetry.KeyReplication, p.cfg.Owner),
		telemetry.String(telemetry.KeyKind, it.kind), telemetry.String(telemetry.KeyReason, reason.String()))
}

// look has the timer look what is due first.
func (p *Pump) look() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// jitter is the part of a delay that is left to chance, to both sides.
const jitter = 0.5

// delay returns how long the item waits now: about twice as long as before.
func (p *Pump) delay(it *item) time.Duration {
	if it.delays == nil {
		it.delays = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(min(p.cfg.InitialDelay, time.Duration(float64(p.cfg.MaxDelay)/(1+jitter)))),
			backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(jitter),
			backoff.WithMaxInterval(time.Duration(float64(p.cfg.MaxDelay)/(1+jitter))),
			backoff.WithMaxElapsedTime(0))
	}
	return it.delays.NextBackOff()
}

// giveWay settles the item if a newer one of its Ref has arrived: there is no
// use in parking it then.
func (p *Pump) giveWay(ctx context.Context, it *item) bool {
	p.mu.Lock()
	newer := it.lane.next
	if newer != nil {
		p.stats.failure(it, time.Now())
		p.lanes.done(it)
		p.release()
		p.work.Signal()
	}
	p.mu.Unlock()
	if newer == nil {
		return false
	}
	p.supersede(ctx, it, newer)
	return true
}

// park makes the dead letter of an item, unless it is there already.
func (p *Pump) park(ctx context.Context, it *item) error {
	d := DeadLetter{
		Ref: it.Ref, Position: it.Position, Op: it.Op, UID: it.UID, Owner: p.cfg.Owner,
		Class: ClassOf(it.cause), Message: shorten(it.cause.Error(), it.early), Attempts: it.tries,
		First: it.first, Last: time.Now(), TraceParent: it.trace.Parent,
	}
	p.mu.Lock()
	former, parked := p.letters[it.Ref]
	p.mu.Unlock()
	if parked && former.position == d.Position {
		d.First = former.first
		if former.class == d.Class && former.message == d.Message || errors.Is(it.cause, ErrUnreachable) {
			it.silent, it.known = true, true
			return nil
		}
		it.known = former.class == d.Class
	}
	ctx, cancel := context.WithTimeout(telemetry.Extract(ctx, it.trace), p.cfg.AttemptTimeout)
	defer cancel()
	if err := p.parker.Park(ctx, d); err != nil {
		return fmt.Errorf("park %s: %w", it.Ref, err)
	}
	p.mu.Lock()
	p.note(d)
	p.mu.Unlock()
	return nil
}

// shorten makes an error's text fit into a dead letter.
func shorten(text string, early bool) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if early {
		text += " (parked early: too many records were being retried)"
	}
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage - len("...")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// heal removes the dead letter of an item that was applied, if there is one.
func (p *Pump) heal(ctx context.Context, it *item) error {
	p.mu.Lock()
	_, parked := p.letters[it.Ref]
	p.mu.Unlock()
	if !parked {
		return nil
	}
	ctx, cancel := context.WithTimeout(telemetry.Extract(ctx, it.trace), p.cfg.AttemptTimeout)
	defer cancel()
	if err := p.parker.Remove(ctx, p.cfg.Owner, it.Ref); err != nil {
		return fmt.Errorf("remove dead letter of %s: %w", it.Ref, err)
	}
	p.mu.Lock()
	p.forget(it.Ref)
	p.mu.Unlock()
	return nil
}

// letterFailed says now and then that dead letters cannot be written.
func (p *Pump) letterFailed(ctx context.Context, err error) {
	p.mu.Lock()
	loud := p.stats.letterLog.pass(time.Now())
	p.mu.Unlock()
	if loud {
		p.log.WarnContext(ctx, "dead letter not written, trying again", telemetry.KeyError, err)
	}
}

// settle is the end of an item that was applied or parked.
func (p *Pump) settle(ctx context.Context, it *item) {
	result := string(it.result)
	var cause error
	if it.stage == parking {
		result, cause = resultParked, it.cause
	}
	p.finish(ctx, it, result, cause)
	if p.cfg.Observer != nil {
		p.cfg.Observer.OnResult(it.Record, it.result, cause, it.tries)
	}
	now := time.Now()
	p.mu.Lock()
	if cause != nil {
		if !it.silent {
			p.stats.failure(it, now)
		}
		if it.known {
			p.stats.parkedAgain++
		} else {
			p.stats.parked++
			p.stats.lastParked = it.lastError(now)
		}
	} else {
		p.stats.success(it, now)
	}
	if cause == nil && it.result.changes() {
		p.lanes.changed(it.Ref, now)
	}
	p.lanes.done(it)
	p.release()
	next := it.lane.cur != nil
	if next {
		p.work.Signal()
	}
	p.mu.Unlock()
	if next {
		p.look()
	}
}

// supersede is the end of an item, out of its lane already, that newer has made
// superfluous: before anybody worked on it, or after an attempt that failed.
// newer is it when it came too late itself.
func (p *Pump) supersede(ctx context.Context, it, newer *item) {
	if newer != it {
		newer.span.Link(it.Trace) //nolint:contextcheck // the link is to another trace than ctx's
	}
	p.mu.Lock()
	p.stats.superseded++
	p.release()
	p.mu.Unlock()
	p.finish(ctx, it, resultSuperseded, nil)
}

// finish settles the delivery with the log and ends the span.
func (p *Pump) finish(ctx context.Context, it *item, result string, cause error) {
	telemetry.Add(ctx, telemetry.MetricPumpResults, 1, telemetry.String(telemetry.KeyReplication, p.cfg.Owner),
		telemetry.String(telemetry.KeyKind, it.kind), telemetry.String(telemetry.KeyResult, result))
	if cause == nil {
		p.ack(ctx, it.Delivery)
	} else {
		telemetry.Add(ctx, telemetry.MetricPumpParked, 1, telemetry.String(telemetry.KeyReplication, p.cfg.Owner),
			telemetry.String(telemetry.KeyKind, it.kind), telemetry.String(telemetry.KeyReason, ClassOf(cause).String()))
		p.term(ctx, it.Delivery, cause)
	}
	it.span.End(cause, telemetry.String(telemetry.KeyResult, result), telemetry.Int(telemetry.KeyAttempt, it.tries))
}

func (p *Pump) term(ctx context.Context, d Delivery, cause error) {
	if d.Settler == nil {
		return
	}
	if err := d.Settler.Term(ClassOf(cause).String()); err != nil {
		p.log.DebugContext(ctx, "delivery not terminated", telemetry.KeyError, err)
	}
}
