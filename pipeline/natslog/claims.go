package natslog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// A body that does not fit into one message of the server is kept in pieces in
// the claims stream, and the message carries a claim check instead. The name of
// a body is its digest, so storing it again changes nothing.
type claim struct {
	digest [sha256.Size]byte
	size   int
	pieces int
}

// payloadMargin is what a message keeps free for headers that the way it takes
// adds: batch and condition headers, and the origin that sourcing notes.
const payloadMargin = 4 << 10

// maxClaim bounds what a claim check may ask a reader to fetch.
const maxClaim = 64 << 20

func (c claim) String() string {
	return hex.EncodeToString(c.digest[:]) + "/" + strconv.Itoa(c.size) + "/" + strconv.Itoa(c.pieces)
}

func parseClaim(s string) (claim, error) {
	var c claim
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return c, errors.New("claim check has not three parts")
	}
	digest, err := hex.DecodeString(parts[0])
	if err != nil || len(digest) != len(c.digest) {
		return c, errors.New("claim check has no valid digest")
	}
	copy(c.digest[:], digest)
	if c.size, err = strconv.Atoi(parts[1]); err != nil || c.size < 1 || c.size > maxClaim {
		return c, errors.New("claim check has no valid size")
	}
	if c.pieces, err = strconv.Atoi(parts[2]); err != nil || c.pieces < 1 || c.pieces > c.size {
		return c, errors.New("claim check has no valid number of pieces")
	}
	if c.String() != s {
		return c, errors.New("claim check is not in its only form")
	}
	return c, nil
}

// piece is the subject of a piece. Their number is part of it: cut for another limit, the same body
// has other pieces.
func (s site) piece(c claim, n int) string {
	return s.claimSubject() + "." + hex.EncodeToString(c.digest[:]) + "." + strconv.Itoa(c.pieces) + "." + strconv.Itoa(n)
}

// cut returns a piece of the body: all are of one size, but for the last ones.
func (c claim) cut(body []byte, n int) []byte {
	size := (c.size + c.pieces - 1) / c.pieces
	return body[min(n*size, c.size):min((n+1)*size, c.size)]
}

// putLarge is putClaims for a draft, of which only as much is made as that takes: mostly nothing.
func (c *Conn) putLarge(ctx context.Context, s site, d *draft) error {
	if d.largest() <= int(c.nc.MaxPayload())-payloadMargin-maxHeaders {
		return nil
	}
	msgs, err := d.all()
	if err != nil {
		return err
	}
	return c.putClaims(ctx, s, msgs)
}

// putClaims stores the bodies that are too large for one message, durably, and
// replaces them with claim checks. What keeps some of them from being stored keeps nothing else out of
// the log: it is a BlockedError. A link carries records only, so a log that is linked takes no such body:
// it would be there and not in the copy.
func (c *Conn) putClaims(ctx context.Context, s site, msgs []*nats.Msg) error {
	limit := int(c.nc.MaxPayload()) - payloadMargin
	blocked := &pipeline.BlockedError{}
	for i, msg := range msgs {
		if headerSize(msg.Header)+len(msg.Data) <= limit {
			continue
		}
		if headerSize(msg.Header) > limit || limit <= 0 {
			return fmt.Errorf("message on %q has %d bytes of headers, the server takes %d: %w", msg.Subject, headerSize(msg.Header), limit, pipeline.ErrTooLarge)
		}
		if c.linkerOf(s) != nil {
			return fmt.Errorf("message on %q has %d bytes, one that crosses the link to the destination has %d at most: %w",
				msg.Subject, headerSize(msg.Header)+len(msg.Data), limit, pipeline.ErrTooLarge)
		}
		cl := claim{digest: sha256.Sum256(msg.Data), size: len(msg.Data), pieces: (len(msg.Data) + limit - 1) / limit}
		err := blocked.Err
		if err == nil || answered(err) { // else the others need not wait too for what does not answer
			err = c.putClaim(ctx, s, cl, msg.Data)
		}
		switch {
		case errors.Is(err, context.Canceled), err != nil && !c.nc.IsConnected():
			return err // of no event in particular
		case err != nil:
			blocked.Events, blocked.Err = append(blocked.Events, i), err
		default:
			msg.Header[headerClaim] = []string{cl.String()}
			msg.Data = nil
		}
	}
	if blocked.Err != nil {
		return blocked
	}
	return nil
}

// answered reports whether an error is the server's answer.
func answered(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api)
}

func (c *Conn) putClaim(ctx context.Context, s site, cl claim, body []byte) error {
	for n := range cl.pieces {
		piece := cl.cut(body, n)
		_, err := c.request(ctx, &nats.Msg{Subject: s.piece(cl, n), Header: nats.Header{headerExpectStream: {s.claims()}}, Data: piece})
		if hasCode(err, codeStoreFailed) {
			if c.holdsPiece(ctx, s, cl, n, piece) {
				continue
			}
			err = fmt.Errorf("%w: the stream for large bodies is at its limit: %w", ErrFull, err)
		}
		if err != nil {
			return fmt.Errorf("store a body of %d bytes: %w", cl.size, explainAPI(err))
		}
	}
	return nil
}

// holdsPiece reports whether a piece was stored, and lately enough not to be collected before its record
// is there. A full stream does not even take what it holds already.
func (c *Conn) holdsPiece(ctx context.Context, s site, cl claim, n int, piece []byte) bool {
	reply, err := c.directGetOnce(ctx, s.claims(), s.piece(cl, n))
	if err != nil || !bytes.Equal(reply.Data, piece) {
		return false
	}
	stored, err := time.Parse(time.RFC3339Nano, reply.Header.Get(headerTimeStamp))
	return err == nil && time.Since(stored) < claimGrace/2
}

// errNoBody reports a claim check whose body is not in the log.
var errNoBody = errors.New("its body is not in the log")

// body fetches what a claim check stands for.
func (c *Conn) body(ctx context.Context, s site, check string) ([]byte, error) {
	cl, err := parseClaim(check)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrForeign, err)
	}
	data := make([]byte, 0, cl.size)
	for n := range cl.pieces {
		piece, err := c.directGet(ctx, s.claims(), s.piece(cl, n))
		if err != nil {
			return nil, err
		}
		if len(data)+len(piece) > cl.size {
			return nil, fmt.Errorf("%w: its body is longer than its claim check says", pipeline.ErrForeign)
		}
		data = append(data, piece...)
	}
	if sha256.Sum256(data) != cl.digest {
		return nil, fmt.Errorf("%w: its body does not match its claim check", pipeline.ErrForeign)
	}
	return data, nil
}

// directGet reads the last message on a subject. A replica that answers may be
// a moment behind, so a missing message is asked for again.
func (c *Conn) directGet(ctx context.Context, stream, subject string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var data []byte
	attempt := func() error {
		reply, err := c.directGetOnce(ctx, stream, subject)
		switch {
		case err == nil:
			data = reply.Data
		case !errors.Is(err, errNoBody):
			err = backoff.Permanent(err)
		}
		return err
	}
	policy := backoff.WithMaxRetries(backoff.NewExponentialBackOff(backoff.WithInitialInterval(20*time.Millisecond)), 5)
	if err := backoff.Retry(attempt, backoff.WithContext(policy, ctx)); err != nil {
		return nil, fmt.Errorf("read %q of stream %q: %w", subject, stream, err)
	}
	return data, nil
}

// directGetOnce asks once for the last message on a subject. None is errNoBody.
func (c *Conn) directGetOnce(ctx context.Context, stream, subject string) (*nats.Msg, error) {
	request := apiPrefix + "DIRECT.GET." + stream + "." + subject
	ctx, explain, stop := c.waits.watch(ctx, request)
	defer stop()
	reply, err := c.nc.RequestWithContext(ctx, request, nil)
	if err != nil {
		return nil, explainAPI(explain(err))
	}
	switch status := reply.Header.Get("Status"); status {
	case "":
		return reply, nil
	case "404":
		return nil, fmt.Errorf("%w: %w", pipeline.ErrForeign, errNoBody)
	default:
		return nil, fmt.Errorf("status %s %s", status, reply.Header.Get("Description"))
	}
}
