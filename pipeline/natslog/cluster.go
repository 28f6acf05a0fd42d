package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// On a NATS cluster one server leads a stream: it has everything that was
// acknowledged. The others follow a moment later, any of them may be where a
// reader is placed, and while nobody leads a stream nobody answers for it. What
// is here keeps both from being seen.

// clustered reports whether the log may be on more than one server.
func (c *Conn) clustered() bool { return c.server == nil && c.nc.ConnectedClusterName() != "" }

// ledReplicas is how many servers hold a stream of a cluster that has as many, if
// nothing else is said: one of them may be lost.
const ledReplicas = 3

// replicate calls create with the number of replicas that are wanted; for 0, with
// what the servers can give.
func (c *Conn) replicate(name string, wanted int, create func(replicas int) error) error {
	switch {
	case wanted > 0:
		return create(wanted)
	case !c.clustered():
		return create(1)
	}
	err := create(ledReplicas)
	if hasCode(err, codeNoPeers, codeNotClustered) {
		c.log.Warn("the cluster has no three servers for a stream now: one holds it, until it is opened when there are",
			slog.String(telemetry.KeyName, name), slog.Any(telemetry.KeyReason, err))
		err = create(1)
	}
	return err
}

// spread has more servers hold a stream that exists, if more are wanted or, with 0, if there are
// more by now. Fewer never do.
func (l *local) spread(ctx context.Context, have jetstream.StreamConfig, wanted int) error {
	next := have
	err := l.conn.replicate(have.Name, wanted, func(replicas int) error {
		next.Replicas = max(have.Replicas, replicas)
		switch {
		case next.Replicas == have.Replicas:
			return nil
		case have.PersistMode == jetstream.AsyncPersistMode: // the server refuses both together, and to change this one
			l.conn.log.Warn("one server alone holds a stream, and has to: it was made for one. More can hold an empty log that the collectors fill anew",
				slog.String(telemetry.KeyName, have.Name))
			next.Replicas = have.Replicas
			return nil
		}
		return l.conn.do(ctx, func(ctx context.Context) error {
			_, err := l.conn.js.UpdateStream(ctx, next)
			if err == nil {
				l.conn.joined(ctx, next)
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("have %d servers hold stream %q: %w", next.Replicas, have.Name, err)
	}
	if next.Replicas > have.Replicas {
		l.conn.log.Info("more servers hold a stream", slog.String(telemetry.KeyName, have.Name), slog.Int(telemetry.KeyCount, next.Replicas))
	}
	return nil
}

// errJoining says that too few servers have what they are to hold.
var errJoining = errors.New("the servers that are new to a stream take it up")

// joined waits for a while until so many servers have a stream that it takes messages again: what is sent to
// it before may get no answer. A large one goes on to be taken up by itself.
func (c *Conn) joined(ctx context.Context, cfg jetstream.StreamConfig) {
	err := c.patiently(ctx, func(error) bool { return true }, func() error {
		stream, err := c.js.Stream(ctx, cfg.Name)
		if err != nil {
			return err
		}
		cluster, following := stream.CachedInfo().Cluster, 0
		if cluster == nil || cluster.Leader == "" {
			return errJoining
		}
		for _, peer := range cluster.Replicas {
			if peer.Current && !peer.Offline {
				following++
			}
		}
		if following < cfg.Replicas/2 {
			return errJoining
		}
		return nil
	})
	if err != nil {
		c.log.Info("the servers that are new to a stream still take it up", slog.String(telemetry.KeyName, cfg.Name), slog.Any(telemetry.KeyReason, err))
	}
}

// spreadMore does the same for a stream that ensure does not see to.
func (l *local) spreadMore(ctx context.Context, name string, wanted int) error {
	if !l.conn.clustered() {
		return nil
	}
	var have jetstream.StreamConfig
	err := l.conn.do(ctx, func(ctx context.Context) error {
		stream, err := l.conn.js.Stream(ctx, name)
		if err == nil {
			have = stream.CachedInfo().Config
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read stream %q: %w", name, err)
	}
	return l.spread(ctx, have, wanted)
}

// led returns a stream whose messages are read from its leader. The client would
// ask any server that holds it.
func led(stream jetstream.Stream) jetstream.Stream {
	stream.CachedInfo().Config.AllowDirect = false
	return stream
}

// replicas returns how many servers hold a stream. A consumer that is to outlive one
// of them needs as many; the server gives it one if nothing is said.
func (c *Conn) replicas(ctx context.Context, name string) (n int, err error) {
	if !c.clustered() {
		return 1, nil
	}
	err = c.do(ctx, func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, name)
		if err == nil {
			n = stream.CachedInfo().Config.Replicas
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read stream %q: %w", name, err)
	}
	return n, nil
}

// errBehind reports that the server of a reader lacked what its stream's leader has.
var errBehind = errors.New("the reader's server lags behind")

// behind returns errBehind if a reader that has ended should have gone on from
// next: the leader of its stream has something there, up to until.
func (c *Conn) behind(ctx context.Context, reader *jetstream.ConsumerInfo, next, until uint64) error {
	if !c.clustered() || next > until {
		return nil
	}
	filter := reader.Config.FilterSubject
	if filter == "" {
		filter = ">"
	}
	err := c.do(ctx, func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, reader.Stream)
		if err != nil {
			return err
		}
		msg, err := led(stream).GetMsg(ctx, next, jetstream.WithGetMsgSubject(filter))
		if err == nil && msg.Sequence <= until {
			return errBehind
		}
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}

// leaderTries is how often a reader is made to have one at the leader. The server
// chooses by chance among three or five.
const leaderTries = 12

// atLeader makes a reader where everything is as of now: replaced and removed
// messages are gone. It costs some attempts, so it is for what is read seldom.
func (l *local) atLeader(ctx context.Context, name string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, func(), error) {
	for range leaderTries {
		consumer, release, err := l.temporary(ctx, name, cfg)
		if err != nil || !l.conn.clustered() {
			return consumer, release, err
		}
		leader := ""
		err = l.conn.do(ctx, func(ctx context.Context) error {
			stream, err := l.conn.js.Stream(ctx, name)
			if err == nil && stream.CachedInfo().Cluster != nil {
				leader = stream.CachedInfo().Cluster.Leader
			}
			return err
		})
		if at := consumer.CachedInfo().Cluster; err == nil && (at == nil || at.Leader == leader) {
			return consumer, release, nil
		}
		release()
		if err != nil {
			return nil, nil, fmt.Errorf("find the leader of stream %q: %w", name, err)
		}
	}
	return nil, nil, fmt.Errorf("make a reader at the leader of stream %q: %w", name, errBehind)
}

// unled names a stream of the site that was not listed because nobody leads it, or
// is empty. A list without it would say that it is gone.
func (c *Conn) unled(ctx context.Context, s site, listed map[string]bool) (string, error) {
	lister := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(s.all()))
	missing := ""
	for name := range lister.Name() {
		if _, ours := s.epochOf(name); ours && !listed[name] {
			missing = name
		}
	}
	return missing, lister.Err()
}

const (
	electionPoll    = 50 * time.Millisecond
	electionMaxPoll = time.Second
	// electionAnswer is how long an answer is waited for that nobody may give.
	electionAnswer = 2 * time.Second
)

// elected repeats a request that nobody has taken, until somebody leads the stream
// that it is for, or ctx ends. On one server nobody is to come.
func (c *Conn) elected(ctx context.Context, request func() (*nats.Msg, error)) (reply *nats.Msg, err error) {
	err = c.patiently(ctx, func(err error) bool { return errors.Is(err, nats.ErrNoResponders) }, func() (err error) {
		reply, err = request()
		return err
	})
	return reply, err
}

// patiently repeats a request on a cluster for as long as its failure is one that passes, for requestTimeout
// at most.
func (c *Conn) patiently(ctx context.Context, passes func(error) bool, request func() error) (err error) {
	if !c.clustered() {
		return request()
	}
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(electionPoll), backoff.WithMaxInterval(electionMaxPoll),
		backoff.WithMaxElapsedTime(requestTimeout))
	attempt := func() error {
		if err = request(); err != nil && !passes(err) {
			return backoff.Permanent(err)
		}
		return err
	}
	if waited := backoff.Retry(attempt, backoff.WithContext(policy, ctx)); waited != nil && err == nil {
		err = waited
	}
	return err
}

// lastOf reads the last message of a stream that there is, as its leader has it. On a cluster the others may
// not know of the stream yet, and answer that there is none; or nobody leads it yet, and nobody answers.
func (c *Conn) lastOf(ctx context.Context, stream jetstream.Stream, subject string) (last *jetstream.RawStreamMsg, err error) {
	if !c.clustered() {
		return led(stream).GetLastMsgForSubject(ctx, subject)
	}
	passes := func(err error) bool {
		return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) || hasCode(err, codeClusterNotAvailable) ||
			errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	}
	err = c.patiently(ctx, passes, func() (err error) {
		attempt, cancel := context.WithTimeout(ctx, electionAnswer)
		defer cancel()
		last, err = led(stream).GetLastMsgForSubject(attempt, subject)
		return err
	})
	return last, err
}

// served waits until the servers of a cluster know of a stream that was made or changed, and one leads it.
func (c *Conn) served(ctx context.Context, stream jetstream.Stream) error {
	if !c.clustered() {
		return nil
	}
	_, err := c.lastOf(ctx, stream, ">")
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = nil
	}
	return err
}
