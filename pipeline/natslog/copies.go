package natslog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// linkOffer is what the source of a link tells its destination of its log.
type linkOffer struct {
	// Options are the limits of the source's streams; the copies have the same.
	Options StreamOptions `json:"options"`
	// Histories of the source, the oldest first.
	Histories []historyState `json:"histories"`
	// Made is the epoch for which a consumer was made that begins with the first
	// record, as the destination has asked. A copy must not begin with another.
	Made string `json:"made,omitempty"`
}

// linkReply is the destination's answer.
type linkReply struct {
	// Want is an epoch that will be copied once its consumer is made.
	Want string `json:"want,omitempty"`
	// Broken asks for a whole epoch: the copy lacks records that the source no
	// longer has.
	Broken bool `json:"broken,omitempty"`
	// Copied is how far the newest copy is.
	Copied pipeline.Position `json:"copied"`
}

// copies remembers, at the destination, what the sources of its links have said.
// Its methods are safe for concurrent use.
type copies struct {
	mu    sync.Mutex
	sites map[string]*copyState
}

type copyState struct {
	busy   sync.Mutex // one offer at a time
	origin pipeline.Origin
	copied pipeline.Position // as of the answer before
	broken bool
	link   LinkState
}

func (c *copies) of(name string) *copyState {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sites == nil {
		c.sites = map[string]*copyState{}
	}
	if c.sites[name] == nil {
		c.sites[name] = &copyState{link: LinkState{Site: name, began: time.Now()}}
	}
	return c.sites[name]
}

// heard notes an offer.
func (c *copies) heard(name string, offer linkOffer) {
	if len(offer.Histories) == 0 {
		return
	}
	newest := offer.Histories[len(offer.Histories)-1]
	of := c.of(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	of.origin = pipeline.Origin{Last: pipeline.Position{Epoch: newest.Epoch, Seq: newest.Last}, Heard: time.Now()}
}

// origin returns what is known of where a site's history is copied from.
func (c *copies) origin(name string) pipeline.Origin {
	of := c.of(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	return of.origin
}

// link returns how the link of a site is.
func (c *copies) link(name string) LinkState {
	of := c.of(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	return of.link
}

// noteLink takes note of what became of an offer.
func (c *copies) noteLink(name string, offer linkOffer, reply linkReply, err error) {
	of := c.of(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	of.link.Heard, of.link.Err = time.Now(), err
	if err == nil {
		of.link.compared(offer.Histories, reply.Copied, !reply.Broken)
	}
}

// acceptLink brings the copies of a site in line with what its source offers.
func (l *local) acceptLink(ctx context.Context, s site, offer linkOffer) (linkReply, error) {
	if l.conn.server == nil {
		return linkReply{}, fmt.Errorf("copy the history of site %q: there is no embedded server here", s.name)
	}
	copies := &l.conn.server.copies
	of := copies.of(s.name)
	of.busy.Lock()
	defer of.busy.Unlock()
	copies.heard(s.name, offer)
	reply, err := l.align(ctx, s, of, offer)
	copies.noteLink(s.name, offer, reply, err)
	return reply, err
}

// align does what acceptLink is for.
func (l *local) align(ctx context.Context, s site, of *copyState, offer linkOffer) (linkReply, error) {
	var reply linkReply
	st, err := l.state(ctx, s)
	if err != nil {
		return reply, err
	}
	next, broken, err := planCopy(st.Histories, st.Through, of.copied, offer.Histories)
	if err != nil {
		return reply, err
	}
	if broken && !of.broken {
		l.conn.log.Error("the copy of the history lacks records that the source no longer has: the source begins a new epoch",
			slog.String(telemetry.KeySite, s.name))
	}
	of.broken, reply.Broken = broken, broken
	switch {
	case next != "" && next == offer.Made:
		if err := l.createCopy(ctx, s, offer, next); err != nil {
			return reply, err
		}
		l.announce(s)
	case next != "":
		reply.Want = next
	}
	if len(st.Histories) == 0 && reply.Want == next {
		return reply, nil
	}
	if st, err = l.settle(ctx, s, offer.Options); err != nil {
		return reply, err
	}
	if err := l.closeCopies(ctx, s, st, offer); err != nil {
		return reply, err
	}
	if newest, ok := st.newest(); ok {
		reply.Copied = pipeline.Position{Epoch: newest.Epoch, Seq: newest.Last}
		of.copied = reply.Copied
	}
	return reply, nil
}

// createCopy makes the copy of an epoch. It has the name of what it copies, in a
// domain of its own, so that whoever reads a history can read its copy.
func (l *local) createCopy(ctx context.Context, s site, offer linkOffer, epoch string) error {
	if err := offer.Options.Validate(); err != nil {
		return err
	}
	cfg := offer.Options.history(s, epoch)
	for _, h := range offer.Histories {
		if h.Epoch == epoch && !h.After.IsZero() {
			cfg.Metadata[metaAfter] = h.After.String()
		}
	}
	cfg.Description = "copy of the history of site " + s.name
	cfg.Subjects, cfg.AllowAtomicPublish, cfg.Replicas = nil, false, 1
	cfg.Mirror = &jetstream.StreamSource{
		Name:     cfg.Name,
		External: &jetstream.ExternalStream{APIPrefix: s.linkAPI()},
		Consumer: &jetstream.StreamConsumerSource{Name: s.linkConsumer(), DeliverSubject: s.linkRecords(cfg.Name)},
	}
	return l.create(ctx, cfg)
}

// closeCopies has the complete copies of ended epochs give back the room that
// they do not need.
func (l *local) closeCopies(ctx context.Context, s site, st siteState, offer linkOffer) error {
	for i, h := range st.Histories {
		if !h.Copy || i == len(st.Histories)-1 {
			continue
		}
		for _, o := range offer.Histories {
			if o.Epoch != h.Epoch || o.Last > h.Last {
				continue
			}
			if err := l.giveBack(ctx, s, h.Epoch); err != nil {
				return err
			}
		}
	}
	return nil
}
