package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// What two sites have to say to each other beside the log goes by questions that a source asks, on
// drs.v1.<site>.ctl.volumes, and destinations answer: so a source needs no right but to ask in its own name, and
// where the log is shared all its destinations answer.

// verbVolumes is about the data of volumes. The steward leaves it to those who answer.
const verbVolumes = "volumes"

const (
	// questionWait is how long the first answer is waited for, moreWait those of others after it.
	questionWait = 3 * time.Second
	moreWait     = 300 * time.Millisecond
	maxAnswers   = 64
	// questionsAtOnce bounds the questions that wait to be answered; more are dropped, and asked again.
	questionsAtOnce = 256
)

// AskVolumes asks, in the name of a site, all destinations about the data of volumes, and returns what they answer: one
// message for each that answered in time, none if nobody is there. Answers may be lost: ask again.
func (c *Conn) AskVolumes(ctx context.Context, siteName string, question []byte) ([][]byte, error) {
	nc, s := c.asker(), siteOf(siteName)
	subject := s.control() + "." + verbVolumes
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("ask the destinations of site %q: %w", siteName, classify(err))
	}
	defer func() { _ = sub.Unsubscribe() }() // with a connection that is gone it is gone too
	if err := nc.PublishRequest(subject, sub.Subject, question); err != nil {
		return nil, fmt.Errorf("ask the destinations of site %q: %w", siteName, classify(err))
	}
	ctx, cancel := context.WithTimeout(ctx, questionWait)
	defer cancel()
	ctx, explain, stop := c.waits.watch(ctx, subject)
	defer stop()
	var answers [][]byte
	for len(answers) < maxAnswers {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrNoResponders), errors.Is(explain(err), context.DeadlineExceeded), err != nil && len(answers) > 0:
			return answers, nil
		case err != nil:
			return nil, fmt.Errorf("ask the destinations of site %q: %w", siteName, explain(err))
		}
		answers = append(answers, msg.Data)
		if len(answers) == 1 {
			more := time.AfterFunc(moreWait, cancel)
			defer more.Stop()
		}
	}
	return answers, nil
}

// asker is the connection on which a source reaches its destinations: over the link if it has one.
func (c *Conn) asker() *nats.Conn {
	if c.server == nil {
		return c.nc
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if l := c.server.link; l != nil {
		return l.asker
	}
	return c.nc
}

// AnswerVolumes answers what the sites ask about the data of volumes, one question at a time, until ctx ends. What answer
// returns an error for is logged and not answered.
func (c *Conn) AnswerVolumes(ctx context.Context, answer func(site string, question []byte) ([]byte, error)) error {
	questions, subject := make(chan *nats.Msg, questionsAtOnce), pipeline.SubjectPrefix+".*.ctl."+verbVolumes
	permitted, explain, stop := c.waits.watch(context.WithoutCancel(ctx), subject)
	defer stop()
	sub, err := c.nc.ChanSubscribe(subject, questions)
	if err != nil {
		return fmt.Errorf("listen for the questions of sources: %w", classify(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-permitted.Done(): // or the connection broke: who listens anew hears of it
			return fmt.Errorf("listen for the questions of sources: %w", explain(permitted.Err()))
		case msg := <-questions:
			if msg == nil {
				return fmt.Errorf("listen for the questions of sources: %w", ErrUnreachable)
			}
			if err := respond(msg, answer); err != nil {
				c.log.WarnContext(ctx, "cannot answer a question", slog.String(telemetry.KeyName, msg.Subject), slog.Any(telemetry.KeyError, err))
			}
		}
	}
}

func respond(msg *nats.Msg, answer func(site string, question []byte) ([]byte, error)) error {
	tokens := strings.Split(msg.Subject, ".")
	const ofSite = 2
	if msg.Reply == "" || len(tokens) <= ofSite {
		return nil
	}
	name, err := pipeline.UnescapeToken(tokens[ofSite])
	if err != nil || name == "" {
		return fmt.Errorf("question %q names no site", msg.Subject)
	}
	out, err := answer(name, msg.Data)
	if err != nil {
		return err
	}
	return msg.Respond(out)
}
