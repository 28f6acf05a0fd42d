package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// batchWindow is how many bytes of a batch, headers apart, are sent before waiting for
// the server to have taken them. The server drops what it has no room to queue.
const batchWindow = 4 << 20

// maxHeaders is above what the headers of one message can occupy: some twenty, of 4 KiB at most.
const maxHeaders = 96 << 10

// pubAck is the server's answer to a publish or to the commit of a batch.
type pubAck struct {
	Error  *jetstream.APIError `json:"error,omitempty"`
	Stream string              `json:"stream"`
	Seq    uint64              `json:"seq"`
	Count  uint64              `json:"count,omitempty"`
}

// publish stores count messages in one stream, all or none, and returns the sequence
// of the last. Each is sent before the next is asked for. It is one publish or one atomic batch, of which the
// first message must carry whatever conditions there are. A batch within the window costs one
// round trip: whatever is wrong with its beginning is told at its end. Nothing is stored before the last
// message is asked for; after that, and an error that is not an APIError, the messages may have been.
func (c *Conn) publish(ctx context.Context, count int, message func(i int) (*nats.Msg, error)) (uint64, error) {
	var batch, numbers []string // values of headers: one for all, and one each
	if count > 1 {
		batch, numbers = []string{nuid.Next()}, make([]string, count)
	}
	unanswered, subject := 0, ""
	for i := range count {
		msg, err := message(i)
		if err != nil {
			return 0, errors.Join(err, c.abandon(batch, subject))
		}
		subject = msg.Subject
		last := i == count-1
		if batch != nil {
			numbers[i] = strconv.Itoa(i + 1)
			msg.Header[headerBatchID] = batch
			msg.Header[headerBatchSeq] = numbers[i : i+1 : i+1]
			if last {
				msg.Header[headerBatchCommit] = []string{"1"}
			}
		}
		unanswered += len(msg.Data) + len(msg.Subject)
		switch {
		case last:
			ack, err := c.request(ctx, msg)
			if err != nil {
				return 0, err
			}
			if ack.Seq == 0 || batch != nil && ack.Count != uint64(count) {
				return 0, fmt.Errorf("the server took %d of %d messages at sequence %d", ack.Count, count, ack.Seq)
			}
			return ack.Seq, nil
		case unanswered > batchWindow:
			if _, err := c.request(ctx, msg); err != nil {
				return 0, err
			}
			unanswered = 0
		default:
			if err := c.nc.PublishMsg(msg); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

// abandon has the server forget what was sent of a batch: it takes but few at a time, and waits some seconds for
// the rest of each. subject is that of one of its messages, "" if none was sent.
func (c *Conn) abandon(batch []string, subject string) error {
	if subject == "" {
		return nil
	}
	return c.nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{
		headerBatchID: batch, headerBatchSeq: {"0"}, // which has no place anywhere
	}})
}

// request publishes and waits for the answer. An empty one acknowledges a part
// of a batch.
func (c *Conn) request(ctx context.Context, msg *nats.Msg) (pubAck, error) {
	var ack pubAck
	ctx, explain, stop := c.waits.watch(ctx, msg.Subject)
	defer stop()
	send := func() (*nats.Msg, error) { return c.nc.RequestMsgWithContext(ctx, msg) }
	var reply *nats.Msg
	var err error
	if msg.Header.Get(headerBatchID) == "" {
		reply, err = c.elected(ctx, send)
	} else {
		reply, err = send() // whoever comes to lead has not got the batch's beginning
	}
	if err != nil {
		return ack, explain(err)
	}
	if len(reply.Data) == 0 {
		return ack, nil
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return ack, fmt.Errorf("decode the server's answer: %w", err)
	}
	if ack.Error != nil {
		return ack, ack.Error
	}
	return ack, nil
}

// headerSize is what a header occupies on the wire. Counting is dear where there are many: see maxHeaders.
func headerSize(h nats.Header) int {
	const frame = len("NATS/1.0\r\n") + len("\r\n")
	n := frame
	for key, values := range h {
		for _, v := range values {
			n += len(key) + len(v) + len(": \r\n")
		}
	}
	return n
}

// purge deletes what a stream holds on one subject, up to a sequence, or all of
// it for 0. It is one request, without reading the stream first.
func purge(ctx context.Context, nc *nats.Conn, stream, subject string, through uint64) error {
	request := struct {
		Subject string `json:"filter"`
		Before  uint64 `json:"seq,omitempty"`
	}{Subject: subject}
	if through > 0 {
		request.Before = through + 1
	}
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode purge of %q: %w", subject, err)
	}
	reply, err := nc.RequestWithContext(ctx, apiPrefix+"STREAM.PURGE."+stream, data)
	if err != nil {
		return err
	}
	var answer pubAck
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("decode the server's answer: %w", err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
