package collect

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// begin starts a term from what the log says. It tries again for as long as source or log
// cannot be reached. former, if not nil, is the epoch that must not go on.
func (c *Collector) begin(ctx context.Context, former *spoiled) (*term, error) {
	t := &term{
		site: c.settings.Site, source: c.settings.Source, history: c.settings.History, log: c.settings.Log,
		rules: c.current.Load, newKinds: c.newKinds, settled: c.settings.Settled, tidyLog: c.settings.Tidy, beatNow: make(chan struct{}, 1),
	}
	var past memory
	steps := []struct {
		what string
		do   func() error
	}{
		{"ask the source for its identity", func() (err error) {
			t.incarnation, err = t.source.ClusterUID(ctx)
			return err
		}},
		{"open the history", func() (err error) {
			t.writer, err = c.settings.OpenWriter(ctx)
			return err
		}},
		{"read the history", func() (err error) {
			past, err = c.remember(ctx, t.incarnation)
			return err
		}},
	}
	for _, step := range steps {
		if err := c.insist(ctx, step.what, step.do); err != nil {
			return nil, err
		}
	}
	t.epoch = past.epoch
	if reason := past.broken(t.incarnation); reason != "" || former != nil && former.epoch == past.epoch {
		if reason != "" {
			t.log.WarnContext(ctx, "beginning a new epoch", telemetry.KeyReason, reason)
		}
		if err := c.insist(ctx, "begin a new epoch", func() error {
			at, err := t.writer.NewEpoch(ctx)
			t.epoch = at.Epoch
			return err
		}); err != nil {
			return nil, err
		}
		past.hold(t.incarnation, former != nil && former.reset)
	}
	t.former = past.former
	limits := t.rules().cfg.Outbox
	t.outbox = newOutbox(t.site, int(limits.MaxBytes), past.inventory)
	t.outbox.rules = func() *transform.Set { return t.rules().redaction }
	if past.last != nil {
		t.outbox.restore(past.last.Through)
	} else {
		t.outbox.restore(nil)
	}
	c.ready.Store(t)
	t.log.InfoContext(ctx, "collecting", telemetry.KeySite, t.site, telemetry.KeyCount, past.inventory.count, telemetry.KeyHeld, past.inventory.held)
	return t, nil
}

// insist does something until it works, ctx ends, or somebody else writes to the history.
func (c *Collector) insist(ctx context.Context, what string, do func() error) error {
	pause := newBackOff()
	failing := ""
	for {
		err := do()
		if err == nil {
			if failing != "" {
				c.settings.Log.InfoContext(ctx, "succeeded at last", telemetry.KeyUnit, what)
			}
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, pipeline.ErrFenced) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if text := err.Error(); text != failing {
			failing = text
			c.settings.Log.WarnContext(ctx, "cannot begin yet, trying again", telemetry.KeyUnit, what, telemetry.KeyError, err)
		}
		wait(ctx, pause.NextBackOff())
	}
}

// memory is what the log says of the site.
type memory struct {
	inventory *inventory
	// last is the last heartbeat of this epoch, nil if there is none to be read.
	last *pipeline.Heartbeat
	// former are the epochs before this one that objects are of, with their incarnations.
	former map[string]string
	// epoch is the current one, gap the finding that records of it are lost, if they are.
	epoch string
	gap   error
}

// broken says why what is remembered cannot be continued, if so.
func (m memory) broken(incarnation string) string {
	switch {
	case m.gap != nil:
		return m.gap.Error()
	case m.last != nil && m.last.Incarnation != incarnation:
		return "the source is another cluster than before"
	case m.last == nil && m.inventory.count > m.inventory.held:
		return "the log does not say which cluster it was written from"
	}
	return ""
}

// hold makes what is remembered that of an epoch before the one that begins now. After a reset of the source none
// of it is the history of what the source is now.
func (m *memory) hold(incarnation string, reset bool) {
	alien := reset || m.last == nil || m.last.Incarnation != incarnation
	if reset {
		clear(m.former)
	} else if m.inventory.count > m.inventory.held && m.last != nil {
		m.former[m.epoch] = m.last.Incarnation
	}
	m.inventory.holdAll(alien, reset)
	m.last = nil
}

// remember reads the last event of every object, and the last heartbeat.
func (c *Collector) remember(ctx context.Context, incarnation string) (memory, error) {
	m := memory{inventory: newInventory(), former: map[string]string{}}
	h := c.settings.History
	state, err := h.State(ctx)
	if errors.Is(err, pipeline.ErrNoHistory) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	m.epoch = state.Last.Epoch
	last, at, err := c.readHeartbeat(ctx)
	if err != nil {
		return m, err
	}
	known := map[string]string{} // incarnations of epochs
	if last != nil {
		maps.Copy(known, last.Former)
		known[at.Epoch] = last.Incarnation
	}
	foreign := 0
	for r, err := range h.Current(ctx, pipeline.Query{HeadersOnly: true}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
			foreign++
			continue
		case errors.Is(err, pipeline.ErrNoHistory):
			return m, nil
		case errors.Is(err, pipeline.ErrGap): // the last that is said
			m.gap = err
			continue
		case err != nil:
			return m, err
		}
		switch r.Op {
		case pipeline.OpPut:
			e := entry{uid: m.inventory.uidOf(r.UID), digest: r.Digest, version: number(r.Version)}
			if epoch := r.Position.Epoch; epoch != m.epoch {
				origin, told := known[epoch]
				e.held, e.alien = true, origin != incarnation
				if told {
					m.former[epoch] = origin
				}
			}
			m.inventory.put(r.Ref, e)
		case pipeline.OpDelete, pipeline.OpRelease:
			m.inventory.remove(r.Ref)
		case pipeline.OpHeartbeat: // read before, with its body
		}
	}
	if foreign > 0 {
		c.settings.Log.WarnContext(ctx, "history holds messages that are not ours", telemetry.KeyCount, foreign)
	}
	if last != nil && at.Epoch == m.epoch {
		m.last = last
	}
	return m, nil
}

// readHeartbeat reads the last heartbeat and where it stands; nil if there is none.
func (c *Collector) readHeartbeat(ctx context.Context) (last *pipeline.Heartbeat, at pipeline.Position, err error) {
	for r, err := range c.settings.History.Current(ctx, pipeline.Query{Heartbeat: true}) {
		if errors.Is(err, pipeline.ErrForeign) || err == nil && r.Op != pipeline.OpHeartbeat {
			continue
		}
		if errors.Is(err, pipeline.ErrNoHistory) {
			return nil, at, nil
		}
		if err != nil {
			return nil, at, fmt.Errorf("read the last heartbeat: %w", err)
		}
		beat, err := r.Heartbeat()
		if err != nil {
			return nil, at, fmt.Errorf("read the last heartbeat, at %s: %w", r.Position, err)
		}
		last, at = &beat, r.Position
	}
	return last, at, nil
}

// holdAll marks every entry as one from before the epoch; as alien or not those that were not held yet, or all.
func (i *inventory) holdAll(alien, all bool) {
	for _, entries := range i.kinds {
		for key, e := range entries {
			if all || !e.held {
				e.held, e.alien = true, alien
			}
			entries[key] = e
		}
	}
	i.held = i.count
}
