package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

const (
	// linkEvery is how often the source tells the destination what it holds.
	linkEvery = 2 * time.Second
	// linkTimeout bounds one exchange.
	linkTimeout = 10 * time.Second
	// linkWindow is how many records are on the way to a copy at most.
	linkWindow = 1000
)

// linker keeps, at the source, the copy at the destination going: it tells the
// destination what there is to copy, makes the consumers that feed the copies,
// and learns whether the copy is complete.
type linker struct {
	conn  *Conn      // into the log
	asker *nats.Conn // within the account that is linked to the destination
	site  site
	place string // where the link leads, without secrets
	log   *slog.Logger
	kick  chan struct{}
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	state LinkState
	// broken is the newest epoch at the time when the destination said that its
	// copy lacks records; empty while it does not.
	broken string
}

// ErrCopyBroken reports why a writer is of no more use (it is ErrFenced too): the
// next one begins an epoch that the copy can begin with.
var ErrCopyBroken = errors.New("the copy of the history at the destination lacks records, everything is written anew")

// startLink starts the linker of a server that has a link.
func (s *Server) startLink(ctx context.Context) (err error) {
	if s.cfg.Link == nil {
		return nil
	}
	conn, err := Connect(ctx, ConnectConfig{InProcess: s, Name: "link", Log: s.log})
	if err != nil {
		return err
	}
	public, err := s.linker.PublicKey()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	l := &linker{conn: conn, site: siteOf(s.cfg.Link.Site), log: s.log, kick: make(chan struct{}, 1)}
	l.place = place(ConnectConfig{URL: s.cfg.Link.URL})
	l.state = LinkState{Site: l.site.name, began: time.Now()}
	l.asker, err = nats.Connect("", nats.InProcessServer(s), nats.Nkey(public, s.linker.Sign), nats.Name("link"),
		nats.MaxReconnects(-1), nats.CustomReconnectDelay(reconnectDelay), nats.CustomInboxPrefix(l.site.linkInbox()))
	if err != nil {
		return errors.Join(fmt.Errorf("connect to the account of the link: %w", err), conn.Close())
	}
	if err = l.listen(); err != nil {
		l.asker.Close()
		return errors.Join(err, conn.Close())
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.wg.Go(func() { l.run(run) })
	s.mu.Lock()
	s.link = l
	s.mu.Unlock()
	return nil
}

// listen has the linker hear of new epochs, and of copies that are about to read.
func (l *linker) listen() error {
	if _, err := l.conn.nc.Subscribe(l.site.announce(), func(*nats.Msg) { l.wake() }); err != nil {
		return fmt.Errorf("subscribe to the epochs of site %q: %w", l.site.name, err)
	}
	if _, err := l.asker.Subscribe(l.site.linkReset(), l.resetConsumer); err != nil {
		return fmt.Errorf("answer the copies of site %q: %w", l.site.name, err)
	}
	return nil
}

func (l *linker) close() error {
	l.stop()
	l.wg.Wait()
	l.asker.Close()
	return l.conn.Close()
}

func (l *linker) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *linker) run(ctx context.Context) {
	ticker := time.NewTicker(linkEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		more, err := l.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		l.note(err)
		if more {
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.kick:
		case <-ticker.C:
		}
	}
}

// exchange tells the destination what there is, and does what it asks. more
// says that the next exchange should not wait.
func (l *linker) exchange(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	st, err := l.conn.admin.state(ctx, l.site)
	if err != nil {
		return false, err
	}
	newest, ok := st.newest()
	if !ok {
		return false, nil
	}
	l.mu.Lock()
	l.state.compared(st.Histories, l.state.Copied, false)
	l.mu.Unlock()
	offer := linkOffer{Histories: st.Histories}
	if offer.Options, err = l.options(ctx, newest.Stream); err != nil {
		return false, err
	}
	reply, err := l.ask(ctx, offer)
	if err != nil {
		return false, err
	}
	if reply.Want != "" {
		h, ok := st.history(reply.Want)
		if !ok {
			return false, fmt.Errorf("the destination asks for epoch %q, which is not there", reply.Want)
		}
		if err := l.makeConsumer(ctx, h.Stream); err != nil {
			return false, err
		}
		offer.Made = reply.Want
		if reply, err = l.ask(ctx, offer); err != nil {
			return false, err
		}
		more = reply.Want == ""
	}
	l.answered(newest, st.Histories, reply)
	return more, nil
}

// ask sends an offer over the link.
func (l *linker) ask(ctx context.Context, offer linkOffer) (linkReply, error) {
	data, err := json.Marshal(stewardRequest{Link: &offer})
	if err != nil {
		return linkReply{}, fmt.Errorf("encode an offer: %w", err)
	}
	msg, err := l.asker.RequestWithContext(ctx, l.site.control()+"."+verbLink, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return linkReply{}, fmt.Errorf("%w: nothing is linked at the other end: check the link's address (%s), the network, certificates, "+
			"and that the destination takes links and knows the key of this one", ErrUnreachable, l.place)
	case err != nil:
		return linkReply{}, fmt.Errorf("%w: no answer over the link to %s: %w", ErrUnreachable, l.place, err)
	}
	var reply stewardReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return linkReply{}, fmt.Errorf("decode the destination's answer: %w", err)
	}
	if reply.Error != "" {
		return linkReply{}, &stewardError{text: reply.Error, cause: codes[reply.Code]}
	}
	if reply.Link == nil {
		return linkReply{}, errors.New("the destination does not know of links: update it")
	}
	return *reply.Link, nil
}

// options reads the limits that the streams have.
func (l *linker) options(ctx context.Context, history string) (StreamOptions, error) {
	o := DefaultStreamOptions()
	err := l.conn.do(ctx, func(ctx context.Context) error {
		h, err := l.conn.js.Stream(ctx, history)
		if err != nil {
			return err
		}
		o.MaxBytes, o.MaxAge = h.CachedInfo().Config.MaxBytes, h.CachedInfo().Config.MaxAge
		c, err := l.conn.js.Stream(ctx, l.site.current())
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil // it is about to be made
		}
		if err == nil {
			o.CurrentMaxBytes = c.CachedInfo().Config.MaxBytes
		}
		return err
	})
	if err != nil {
		return o, fmt.Errorf("read the limits of site %q: %w", l.site.name, err)
	}
	return o, nil
}

// makeConsumer makes the consumer that feeds a copy, from the first record on. A
// copy that is to be made must not go on where a former one stopped.
func (l *linker) makeConsumer(ctx context.Context, stream string) error {
	err := l.conn.do(ctx, func(ctx context.Context) error {
		err := l.conn.js.DeleteConsumer(ctx, stream, l.site.linkConsumer())
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
		_, err = l.conn.js.CreatePushConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable:        l.site.linkConsumer(),
			Description:    "feeds the copy at the destination",
			DeliverSubject: l.site.linkRecords(stream),
			DeliverPolicy:  jetstream.DeliverAllPolicy,
			AckPolicy:      jetstream.AckFlowControlPolicy,
			FlowControl:    true,
			IdleHeartbeat:  time.Second,
			MaxAckPending:  linkWindow,
			Replicas:       1,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("make the consumer that feeds the copy of stream %q: %w", stream, err)
	}
	return nil
}

// answered takes note of an answer.
func (l *linker) answered(newest historyState, histories []historyState, reply linkReply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Heard = time.Now()
	l.state.compared(histories, reply.Copied, !reply.Broken)
	switch {
	case !reply.Broken:
		l.broken = ""
	case l.broken == "":
		l.broken = newest.Epoch
		l.log.Error("the copy of the history lacks records that are no longer here: a new epoch begins, everything is written anew",
			slog.String(telemetry.KeySite, l.site.name), slog.String(telemetry.KeyEpoch, newest.Epoch))
	}
}

// note takes note of how an exchange went, and says so when that has changed.
func (l *linker) note(err error) {
	l.mu.Lock()
	former := l.state.Err
	l.state.Err = err
	l.mu.Unlock()
	site := slog.String(telemetry.KeySite, l.site.name)
	switch {
	case err != nil && (former == nil || former.Error() != err.Error()):
		l.log.Warn("the history is not copied to the destination now; it goes on here", site, slog.Any(telemetry.KeyError, err))
	case err == nil && former != nil:
		l.log.Info("the history is copied to the destination again", site)
	}
}

// lacking returns why a writer at an epoch should write a whole one first.
func (l *linker) lacking(epoch string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != "" && epoch <= l.broken {
		return fmt.Errorf("%w: %w", ErrCopyBroken, pipeline.ErrFenced)
	}
	return nil
}

// Link returns what is known of the copy at the destination, and whether the
// server has a link at all. It is safe for concurrent use.
func (s *Server) Link() (state LinkState, linked bool) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return LinkState{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, true
}
