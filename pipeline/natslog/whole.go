package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// wholeBatch is how many tombstones are appended at once.
const wholeBatch = 500

// lacking returns why the copy of the writer's history needs a whole epoch, nil
// if it does not or there is none.
func (w *Writer) lacking() error {
	if l := w.conn.linkerOf(w.site); l != nil {
		return l.lacking(w.epoch)
	}
	return nil
}

func (c *Conn) linkerOf(s site) *linker {
	if c.server == nil {
		return nil
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if l := c.server.link; l != nil && l.site == s {
		return l
	}
	return nil
}

// makeWhole begins an epoch that a copy can begin with. What exists at the source
// is written into every new epoch again when it is seen, by whoever writes the
// history; what no longer exists is written here: the tombstones and releases.
// Until that is done the epoch is not marked as whole, and it is done again.
func (w *Writer) makeWhole(ctx context.Context) error {
	before := w.Position()
	if _, err := w.NewEpoch(ctx); err != nil {
		return err
	}
	var batch []pipeline.Event
	flush := func() error {
		_, err := w.Append(ctx, batch)
		batch = batch[:0]
		return err
	}
	n := 0
	for r, err := range w.conn.History(w.site.name).Current(ctx, pipeline.Query{HeadersOnly: true}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
			continue
		case err != nil:
			return err
		case r.Op != pipeline.OpDelete && r.Op != pipeline.OpRelease, r.Position.Epoch > before.Epoch:
			continue
		}
		n++
		if batch = append(batch, r.Event); len(batch) == wholeBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := w.conn.direct.markWhole(ctx, w.site, w.epoch); err != nil {
		return err
	}
	w.conn.log.Info("began a whole epoch", slog.String(telemetry.KeySite, w.site.name),
		slog.String(telemetry.KeyEpoch, w.epoch), slog.Int(telemetry.KeyCount, n))
	w.conn.linkerOf(w.site).wake()
	return nil
}

func (l *local) markWhole(ctx context.Context, s site, epoch string) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.history(epoch))
		if err != nil {
			return err
		}
		cfg := stream.CachedInfo().Config
		cfg.Metadata[metaWhole] = "true"
		_, err = l.conn.js.UpdateStream(ctx, cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark epoch %s of site %q as whole: %w", epoch, s.name, err)
	}
	return nil
}

// wholeIfFirst marks the history of a new epoch if there never was a record
// before it.
func wholeIfFirst(cfg jetstream.StreamConfig, st siteState) jetstream.StreamConfig {
	first := st.CurrentLast == 0 && (st.Sourced == "" || len(st.Histories) > 0 && st.Histories[0].Whole)
	for _, h := range st.Histories {
		first = first && h.Last == 0
	}
	if first {
		cfg.Metadata[metaWhole] = "true"
	}
	return cfg
}
