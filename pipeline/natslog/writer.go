package natslog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Writer appends to a site's history; see pipeline.Writer. It is not safe for
// concurrent use.
type Writer struct {
	conn *Conn
	site site
	opts StreamOptions

	epoch string
	// last is the sequence this writer believes to be the history's last: the fence.
	last uint64
	// fenced ends the writer.
	fenced error

	// Appends are named by the writer's own name and a number. flights are those
	// whose answer is missing. All of them were sent with last as condition, so at
	// most one of them can have been stored.
	name    string
	number  uint64
	flights []flight
}

type flight struct {
	name  string
	count uint64
	sum   [sha256.Size]byte
}

// Writer opens the history of a site for appending, at the end of its newest
// epoch, or starts one. It does not disturb another writer before the first
// Append. opts are the limits of streams that have to be made.
func (c *Conn) Writer(ctx context.Context, siteName string, opts StreamOptions) (*Writer, error) {
	if siteName == "" {
		return nil, errors.New("open the history for writing: the site's name is missing")
	}
	w := &Writer{conn: c, site: siteOf(siteName), opts: opts, name: ulid.Make().String()}
	st, err := c.admin.open(ctx, w.site, opts, c.reached(siteName, pipeline.Position{}))
	if err != nil {
		return nil, fmt.Errorf("open the history of site %q for writing: %w", siteName, err)
	}
	newest, _ := st.newest()
	w.epoch, w.last = newest.Epoch, newest.Last
	if w.lacking() != nil {
		if err := w.makeWhole(ctx); err != nil {
			return nil, fmt.Errorf("write a whole epoch of site %q: %w", siteName, err)
		}
	}
	return w, nil
}

// Position is where the writer believes the history to end.
func (w *Writer) Position() pipeline.Position {
	return pipeline.Position{Epoch: w.epoch, Seq: w.last}
}

// Append implements pipeline.Writer.
func (w *Writer) Append(ctx context.Context, events []pipeline.Event) (pipeline.Position, error) {
	if w.fenced != nil {
		return pipeline.Position{}, w.fenced
	}
	if len(events) == 0 {
		return w.Position(), nil
	}
	if err := w.lacking(); err != nil {
		w.fenced = fmt.Errorf("append to the history of site %q: %w", w.site.name, err)
		return pipeline.Position{}, w.fenced
	}
	d, err := w.draft(events)
	if err != nil {
		return pipeline.Position{}, fmt.Errorf("append to the history of site %q: %w", w.site.name, err)
	}
	if _, ok := ctx.Deadline(); !ok {
		// A batch on a slow link may need longer: then the caller knows how long.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	at, err := w.append(ctx, d)
	if err != nil {
		err = fmt.Errorf("append to the history of site %q: %w", w.site.name, err)
		if errors.Is(err, pipeline.ErrFenced) {
			w.fenced = err
		}
		return pipeline.Position{}, err
	}
	w.conn.reached(w.site.name, at)
	return at, nil
}

// append stores a draft unless an earlier attempt did. Each round but the last
// finds out that a flight has landed, so there are no more rounds than flights.
func (w *Writer) append(ctx context.Context, d *draft) (pipeline.Position, error) {
	for refused, stored := false, false; ; {
		if len(w.flights) > 0 || refused {
			if _, err := d.all(); err != nil {
				return pipeline.Position{}, err
			}
			landed, err := w.resolve(ctx, refused)
			if err != nil {
				return pipeline.Position{}, err
			}
			if landed.count > 0 {
				w.last += landed.count
				w.flights = nil
				if landed.sum == d.sum() {
					return w.Position(), nil
				}
			}
		}
		if !stored { // not before it is certain what became of earlier attempts
			if err := w.conn.putLarge(ctx, w.site, d); err != nil {
				return pipeline.Position{}, err
			}
			stored = true
		}
		var f *flight
		seq, err := w.conn.publish(ctx, len(d.events), func(i int) (*nats.Msg, error) {
			msg, err := d.message(i)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				msg.Header[headerExpectStream] = []string{w.site.history(w.epoch)}
				msg.Header[headerExpectLastSeq] = []string{strconv.FormatUint(w.last, 10)}
			}
			if i == len(d.events)-1 { // without it, nothing is stored
				f = w.takeOff(uint64(len(d.events)), d.sum())
				msg.Header[headerAppend] = []string{f.name}
			}
			return msg, nil
		})
		switch {
		case err == nil && seq == w.last+f.count:
			w.last, w.flights = seq, nil
			return w.Position(), nil
		case err == nil:
			return pipeline.Position{}, fmt.Errorf("the server stored it at sequence %d instead of %d: %w", seq, w.last+f.count, pipeline.ErrFenced)
		case hasCode(err, codeWrongLastSeq, codeWrongLastSeqConstant, codeOtherStream):
			refused = true // by an earlier flight of ours that landed late, or by somebody else's append
		case hasCode(err, codeTooLarge), errors.Is(err, nats.ErrMaxPayload):
			if f != nil {
				w.flights = w.flights[:len(w.flights)-1]
			}
			return pipeline.Position{}, fmt.Errorf("%w: %w", pipeline.ErrTooLarge, err)
		default:
			return pipeline.Position{}, explainAPI(err)
		}
	}
}

// takeOff notes an attempt before it is made. Repeating an append repeats its name.
func (w *Writer) takeOff(count uint64, sum [sha256.Size]byte) *flight {
	for i, f := range w.flights {
		if f.sum == sum {
			// The last one, so that a certain failure can take it back.
			w.flights = append(append(w.flights[:i:i], w.flights[i+1:]...), f)
			return &f
		}
	}
	w.number++
	f := flight{name: w.name + "/" + strconv.FormatUint(w.number, 10), count: count, sum: sum}
	w.flights = append(w.flights, f)
	return &f
}

// resolve finds out which of the flights landed, if any. refused tells that
// the server has refused the last attempt, so that something must have landed.
func (w *Writer) resolve(ctx context.Context, refused bool) (flight, error) {
	st, err := w.conn.admin.state(ctx, w.site)
	if err != nil {
		return flight{}, err
	}
	h, ok := st.history(w.epoch)
	if !ok {
		return flight{}, fmt.Errorf("epoch %s is gone: %w", w.epoch, pipeline.ErrFenced)
	}
	for _, f := range w.flights {
		end := w.last + f.count
		if h.Last < end {
			continue
		}
		name, err := w.conn.admin.appendOf(ctx, w.site, pipeline.Position{Epoch: w.epoch, Seq: end})
		if err != nil {
			return flight{}, err
		}
		if name == f.name {
			return f, nil
		}
	}
	switch {
	case h.Last < w.last:
		return flight{}, fmt.Errorf("the log has gone back from sequence %d to %d, records are lost: %w", w.last, h.Last, pipeline.ErrFenced)
	case h.Last > w.last:
		return flight{}, fmt.Errorf("the history ends at sequence %d instead of %d: %w", h.Last, w.last, pipeline.ErrFenced)
	case !h.Open:
		return flight{}, fmt.Errorf("epoch %s has ended: %w", w.epoch, pipeline.ErrFenced)
	case refused:
		return flight{}, fmt.Errorf("the server refuses sequence %d, which is the last one", w.last)
	}
	return flight{}, nil
}

// NewEpoch implements pipeline.Writer.
func (w *Writer) NewEpoch(ctx context.Context) (pipeline.Position, error) {
	if w.fenced != nil {
		return pipeline.Position{}, w.fenced
	}
	at, err := w.newEpoch(ctx)
	if err != nil {
		err = fmt.Errorf("begin an epoch of site %q: %w", w.site.name, err)
		if errors.Is(err, pipeline.ErrFenced) {
			w.fenced = err
		}
		return pipeline.Position{}, err
	}
	return at, nil
}

func (w *Writer) newEpoch(ctx context.Context) (pipeline.Position, error) {
	if len(w.flights) > 0 {
		landed, err := w.resolve(ctx, false)
		if err != nil {
			return pipeline.Position{}, err
		}
		w.last += landed.count
		w.flights = nil // from here on they find another stream and are refused
	}
	st, err := w.conn.admin.begin(ctx, w.site, w.opts, w.Position())
	if err != nil {
		return pipeline.Position{}, err
	}
	newest, _ := st.newest()
	w.epoch, w.last = newest.Epoch, newest.Last
	w.conn.log.Info("began a new epoch", slog.String(telemetry.KeySite, w.site.name), slog.String(telemetry.KeyEpoch, w.epoch))
	return w.Position(), nil
}
