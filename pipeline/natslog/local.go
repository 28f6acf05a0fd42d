package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// local administers with the rights of its own connection.
type local struct{ conn *Conn }

const apiPrefix = "$JS.API."

func (l *local) state(ctx context.Context, s site) (siteState, error) {
	for try := 0; ; try++ {
		st, err := l.histories(ctx, s)
		if err == nil {
			err = l.currentState(ctx, s, &st)
		}
		// The current stream may have gone on since the histories were read.
		if err != nil || !st.damaged(pipeline.Position{}) || try == stateRetries {
			return st, err
		}
	}
}

// stateRetries bounds how often the state is read again to have one moment's.
const stateRetries = 2

func (l *local) histories(ctx context.Context, s site) (siteState, error) {
	var st siteState
	err := l.conn.do(ctx, func(ctx context.Context) error {
		var opts []jetstream.StreamListOpt
		if l.conn.server == nil {
			opts = append(opts, jetstream.WithStreamListSubject(s.all())) // all the others are not ours
		}
		lister, listed := l.conn.js.ListStreams(ctx, opts...), map[string]bool{} // copies have no subjects
		for info := range lister.Info() {
			epoch, ok := s.epochOf(info.Config.Name)
			if !ok {
				continue
			}
			listed[info.Config.Name] = true
			st.Histories = append(st.Histories, historyState{
				Epoch: epoch, Stream: info.Config.Name,
				Open:  slices.Contains(info.Config.Subjects, s.objects()),
				Copy:  info.Config.Mirror != nil,
				Whole: info.Config.Metadata[metaWhole] != "",
				First: info.State.FirstSeq, Last: info.State.LastSeq, Messages: info.State.Msgs,
				Trimming: info.Config.MaxMsgs > 0,
				Bytes:    info.State.Bytes, Limit: uint64(max(0, info.Config.MaxBytes)),
				FirstTime: info.State.FirstTime, LastTime: info.State.LastTime,
				After: parsePosition(info.Config.Metadata[metaAfter]),
			})
		}
		if err := lister.Err(); err != nil || !l.conn.clustered() {
			return err
		}
		missing, err := l.conn.unled(ctx, s, listed)
		if err == nil && missing != "" {
			err = fmt.Errorf("%w: nobody leads stream %q now", ErrUnreachable, missing)
		}
		return err
	})
	if err != nil {
		return st, fmt.Errorf("list the streams of site %q: %w", s.name, err)
	}
	if l.conn.server != nil {
		st.Origin = l.conn.server.copies.origin(s.name)
	}
	slices.SortFunc(st.Histories, func(a, b historyState) int { return strings.Compare(a.Epoch, b.Epoch) })
	return st, nil
}

// currentState adds what is known of the current stream. How far it was filled
// stands on its last message: it takes up the histories in order.
func (l *local) currentState(ctx context.Context, s site, st *siteState) error {
	return l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.current())
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read stream %q: %w", s.current(), err)
		}
		info := stream.CachedInfo()
		st.CurrentBytes, st.CurrentLimit = info.State.Bytes, uint64(max(0, info.Config.MaxBytes))
		for _, source := range info.Config.Sources {
			if epoch, ok := s.epochOf(source.Name); ok {
				st.Sourced = max(st.Sourced, epoch)
			}
		}
		// By subject, not by sequence: at any sequence a newer message may take its place.
		last, err := l.conn.lastOf(ctx, stream, s.currentAll())
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the end of stream %q: %w", s.current(), err)
		}
		st.CurrentLast = last.Sequence
		st.Through, _, _ = s.originOf(last.Header.Get(headerStreamSource))
		return nil
	})
}

func (l *local) open(ctx context.Context, s site, o StreamOptions, floor pipeline.Position) (siteState, error) {
	if err := o.Validate(); err != nil {
		return siteState{}, err
	}
	st, err := l.state(ctx, s)
	if err != nil {
		return st, err
	}
	if err := l.lift(ctx, s, st); err != nil {
		return st, err
	}
	for _, h := range st.Histories {
		if !h.Open {
			if err := l.giveBack(ctx, s, h.Epoch); err != nil {
				return st, err
			}
			if err := l.spreadMore(ctx, h.Stream, o.Replicas); err != nil {
				return st, err
			}
			continue
		}
		if err := l.ensure(ctx, o.history(s, h.Epoch)); err != nil {
			return st, err
		}
	}
	newest, ok := st.newest()
	lost := ""
	switch {
	case !ok || !newest.Open:
	case st.damaged(floor): // its sequences must not be given out again for something else
		lost = "the history has lost its end"
	case st.missing() > 0: // once the current stream goes on, nothing would tell
		lost = "records are missing between the current state and the history"
	}
	if lost != "" {
		telemetry.Add(ctx, telemetry.MetricLogGaps, 1, telemetry.String(telemetry.KeySite, s.name))
		l.conn.log.Error("the log has lost records, a new epoch begins", slog.String(telemetry.KeySite, s.name), slog.String(telemetry.KeyReason, lost),
			slog.String(telemetry.KeyEpoch, newest.Epoch), slog.Uint64(telemetry.KeySequence, newest.Last), slog.Uint64(telemetry.KeyCount, st.missing()))
		if err := l.closeHistory(ctx, s, newest.Epoch); err != nil {
			return st, err
		}
		newest.Open = false
	}
	if !ok || !newest.Open {
		if err := l.follow(ctx, s, o, st); err != nil && !hasCode(err, codeSubjectOverlap) {
			return st, err
		}
		// On an overlap somebody else was faster: theirs is the newest.
		if err := l.keepNewest(ctx, s); err != nil {
			return st, err
		}
		l.announce(s)
	}
	if err := l.ensure(ctx, o.claims(s)); err != nil {
		return st, err
	}
	return l.settle(ctx, s, o)
}

func (l *local) begin(ctx context.Context, s site, o StreamOptions, at pipeline.Position) (siteState, error) {
	st, err := l.state(ctx, s)
	if err != nil {
		return st, err
	}
	newest, ok := st.newest()
	if !ok || newest.Epoch != at.Epoch || newest.Last != at.Seq {
		return st, fmt.Errorf("begin an epoch after %s: %w", at, pipeline.ErrFenced)
	}
	if err := l.closeHistory(ctx, s, newest.Epoch); err != nil {
		return st, err
	}
	if err := l.follow(ctx, s, o, st); err != nil {
		if hasCode(err, codeSubjectOverlap) {
			err = fmt.Errorf("begin an epoch after %s: %w", at, pipeline.ErrFenced)
		}
		return st, err
	}
	if err := l.keepNewest(ctx, s); err != nil {
		return st, err
	}
	l.announce(s)
	return l.settle(ctx, s, o)
}

// follow makes the history of the epoch after one that is closed, or of the first
// if there is none. It notes where the one before ended, so that it is known later
// whether something between the two has gone.
func (l *local) follow(ctx context.Context, s site, o StreamOptions, st siteState) error {
	newest, _ := st.newest()
	before := newest.Epoch
	epoch, err := pipeline.NextEpoch(before, time.Now())
	if err != nil {
		return err
	}
	cfg := o.history(s, epoch)
	if before != "" {
		end, err := l.conn.lastSeq(ctx, s.history(before))
		if err != nil {
			return err
		}
		cfg.Metadata[metaAfter] = pipeline.Position{Epoch: before, Seq: end}.String()
	}
	return l.create(ctx, wholeIfFirst(cfg, st))
}

// keepNewest closes all histories but the newest. A single server checks that no
// two streams share a subject and enters the new stream in two steps, so two
// histories that are made at once may both listen. Whoever made the later one
// sees both here, and everybody agrees on which to keep. What the other took
// until then is an epoch before.
func (l *local) keepNewest(ctx context.Context, s site) error {
	st, err := l.histories(ctx, s)
	if err != nil {
		return err
	}
	newest, _ := st.newest()
	for _, h := range st.Histories {
		if !h.Open || h.Epoch == newest.Epoch {
			continue
		}
		if err := l.closeHistory(ctx, s, h.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// announce tells followers of a new epoch. Who misses it finds out by looking.
func (l *local) announce(s site) {
	if err := l.conn.nc.Publish(s.announce(), nil); err != nil {
		l.conn.log.Debug("cannot announce the new epoch", slog.String(telemetry.KeySite, s.name), slog.Any(telemetry.KeyError, err))
	}
}

// closeHistory takes the subjects away from a history, so that the next one can
// have them: at every moment at most one history listens.
func (l *local) closeHistory(ctx context.Context, s site, epoch string) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.history(epoch))
		if err != nil {
			return err
		}
		cfg := stream.CachedInfo().Config
		cfg.Subjects = []string{s.closed(epoch)}
		_, err = l.conn.js.UpdateStream(ctx, cfg)
		return err
	})
	if err != nil {
		return fmt.Errorf("close epoch %s of site %q: %w", epoch, s.name, err)
	}
	return l.giveBack(ctx, s, epoch)
}

// closedRoom is the least a closed history may occupy, in bytes.
const closedRoom = 1 << 20

// giveBack has a closed history give back the room that it does not use. The
// server reserves what a stream may occupy, and a disk made for one epoch would
// have no room for the next.
func (l *local) giveBack(ctx context.Context, s site, epoch string) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.history(epoch))
		if err != nil {
			return err
		}
		info := stream.CachedInfo()
		cfg, room := info.Config, int64(max(info.State.Bytes, closedRoom)) //nolint:gosec // G115: a size on disk
		if cfg.MaxBytes > 0 && cfg.MaxBytes <= room {
			return nil
		}
		cfg.MaxBytes = room
		_, err = l.conn.js.UpdateStream(ctx, cfg)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // what another writer removed holds no room
		return fmt.Errorf("give back the room of epoch %s of site %q: %w", epoch, s.name, err)
	}
	return nil
}

// ensure makes the stream, or raises the limits of the one that exists, and has more servers hold it.
func (l *local) ensure(ctx context.Context, want jetstream.StreamConfig) error {
	var have jetstream.StreamConfig
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, want.Name)
		if err == nil {
			have = stream.CachedInfo().Config
		}
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = l.create(ctx, want)
		if hasCode(err, codeNameInUse) {
			return nil // somebody else was faster, and has changed it since
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("read stream %q: %w", want.Name, err)
	}
	next, changed, err := raise(have, want)
	if err == nil && changed {
		err = l.conn.do(ctx, func(ctx context.Context) error {
			_, err := l.conn.js.UpdateStream(ctx, next)
			return err
		})
		if err != nil {
			err = fmt.Errorf("raise the limits of stream %q: %w", want.Name, err)
		}
	}
	if err != nil {
		return err
	}
	return l.spread(ctx, next, want.Replicas)
}

func (l *local) create(ctx context.Context, cfg jetstream.StreamConfig) error {
	derived := len(cfg.Subjects) == 0 && cfg.Mirror == nil // see StreamOptions.current
	err := l.conn.replicate(cfg.Name, cfg.Replicas, func(replicas int) error {
		cfg.Replicas, cfg.PersistMode = replicas, jetstream.DefaultPersistMode
		if derived && replicas == 1 && !l.conn.clustered() { // on a cluster more may hold it one day
			cfg.PersistMode = jetstream.AsyncPersistMode
		}
		return l.conn.do(ctx, func(ctx context.Context) error {
			stream, err := l.conn.js.CreateStream(ctx, cfg)
			if err != nil {
				return err
			}
			return l.conn.served(ctx, stream)
		})
	})
	if err != nil {
		return fmt.Errorf("create stream %q: %w", cfg.Name, err)
	}
	l.conn.log.Info("created a stream", slog.String(telemetry.KeyName, cfg.Name))
	return nil
}

func (l *local) reader(ctx context.Context, s site, r readRequest) (jetstream.Consumer, func(), error) {
	return l.temporary(ctx, r.stream(s), r.config(s))
}

// temporary makes a consumer that reads once, without acknowledging.
func (l *local) temporary(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (consumer jetstream.Consumer, release func(), err error) {
	readOnce(&cfg)
	cfg.Name = "read_" + ulid.Make().String()
	err = l.conn.do(ctx, func(ctx context.Context) error {
		consumer, err = l.conn.js.CreateConsumer(ctx, stream, cfg)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("create a consumer of stream %q: %w", stream, err)
	}
	release = func() {
		err := l.conn.do(context.WithoutCancel(ctx), func(ctx context.Context) error { return l.conn.js.DeleteConsumer(ctx, stream, cfg.Name) })
		if err != nil {
			l.conn.log.Debug("cannot delete a reader", slog.String(telemetry.KeyName, cfg.Name), slog.Any(telemetry.KeyError, err))
		}
	}
	return consumer, release, nil
}

// readOnce completes the configuration of a reader.
func readOnce(cfg *jetstream.ConsumerConfig) {
	cfg.AckPolicy = jetstream.AckNonePolicy
	cfg.MemoryStorage = true
	cfg.Replicas = 1
	cfg.InactiveThreshold = readerIdle
}

func (l *local) appendOf(ctx context.Context, s site, at pipeline.Position) (name string, err error) {
	err = l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, s.history(at.Epoch))
		if err != nil {
			return err
		}
		msg, err := led(stream).GetMsg(ctx, at.Seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err == nil {
			name = msg.Header.Get(headerAppend)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read record %s of site %q: %w", at, s.name, err)
	}
	return name, nil
}
