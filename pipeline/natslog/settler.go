package natslog

import (
	"errors"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"
)

// settler settles one delivery while the consumer that delivered it exists.
// Settling a delivery of an earlier consumer is a matter of no consequence.
type settler struct {
	msg        jetstream.Msg
	s          *subscription
	generation uint64
	settled    atomic.Bool
}

// Ack implements pipeline.Settler.
func (t *settler) Ack() error { return t.settle(t.msg.Ack) }

// Term implements pipeline.Settler.
func (t *settler) Term(reason string) error {
	return t.settle(func() error { return t.msg.TermWithReason(reason) })
}

// Extend implements pipeline.Settler.
func (t *settler) Extend() error {
	if t.settled.Load() || t.generation != t.s.generation.Load() {
		return nil
	}
	return explainAPI(t.msg.InProgress())
}

func (t *settler) settle(tell func() error) error {
	if t.settled.Load() || t.generation != t.s.generation.Load() {
		return nil
	}
	err := tell()
	if err == nil || errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		t.settled.Store(true)
		return nil
	}
	return explainAPI(err)
}
