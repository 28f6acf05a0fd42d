package natslog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// waits ends the waiting for answers that will not come. A server tells that it
// does not permit a request only to the connection as a whole, and a connection
// that breaks takes the answers with it; the client would wait in both cases
// until its time is up.
type waits struct {
	mu      sync.Mutex
	waiting map[*wait]struct{}
}

type wait struct {
	prefix string
	cancel context.CancelCauseFunc
}

// watch returns a context that ends when the server denies a subject that
// starts with prefix, or the connection breaks. explain turns an error of that
// context into the reason.
func (w *waits) watch(ctx context.Context, prefix string) (_ context.Context, explain func(error) error, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	this := &wait{prefix: prefix, cancel: cancel}
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = make(map[*wait]struct{})
	}
	w.waiting[this] = struct{}{}
	w.mu.Unlock()
	explain = func(err error) error {
		if cause := context.Cause(ctx); err != nil && (errors.Is(cause, ErrDenied) || errors.Is(cause, ErrUnreachable)) {
			return cause
		}
		return err
	}
	stop = func() {
		w.mu.Lock()
		delete(w.waiting, this)
		w.mu.Unlock()
		cancel(nil)
	}
	return ctx, explain, stop
}

// denied ends the waiting for what the server has refused.
func (w *waits) denied(err error) {
	_, quoted, _ := strings.Cut(err.Error(), `"`)
	subject, _, _ := strings.Cut(quoted, `"`)
	w.end(fmt.Errorf("%w: subject %q", ErrDenied, subject), func(prefix string) bool {
		return len(subject) >= len(prefix) && strings.EqualFold(subject[:len(prefix)], prefix)
	})
}

// broken ends all waiting: the connection is gone.
func (w *waits) broken(err error) {
	if err == nil {
		err = nats.ErrDisconnected
	}
	w.end(fmt.Errorf("%w: the connection broke: %w", ErrUnreachable, err), func(string) bool { return true })
}

func (w *waits) end(cause error, concerned func(prefix string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for this := range w.waiting {
		if concerned(this.prefix) {
			this.cancel(cause)
		}
	}
}

// explainAPI says in words what an error of the JetStream API means for the log.
func explainAPI(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("nobody answers for JetStream: enable it at the server, for this account: %w", err)
	case errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case !errors.As(err, &api):
		return err
	}
	switch api.ErrorCode {
	case codeAccountFull, codeInsufficientResources:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case codeInsufficientStorage:
		return fmt.Errorf("%w: the streams' size limits add up to more than the server may store: raise the server's limit or lower the streams': %w", ErrFull, err)
	}
	return err
}

// ErrFull reports that the log refuses writes because its storage is used up,
// or is kept from being used up by the embedded server's guard. It passes when
// there is space again.
var ErrFull = errors.New("the log has no storage left")

// Error codes of the JetStream API that are acted on.
const (
	codeAccountFull           jetstream.ErrorCode = 10002
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeInsufficientStorage   jetstream.ErrorCode = 10047
	codeTooLarge              jetstream.ErrorCode = 10054
	codeOtherStream           jetstream.ErrorCode = 10060
	codeNameInUse             jetstream.ErrorCode = 10058
	codeSubjectOverlap        jetstream.ErrorCode = 10065
	codeWrongLastSeq          jetstream.ErrorCode = 10071
	codeStoreFailed           jetstream.ErrorCode = 10077
	codeNoPeers               jetstream.ErrorCode = 10005
	codeClusterNotAvailable   jetstream.ErrorCode = 10008
	codeConsumerOffline       jetstream.ErrorCode = 10119
	codeNotClustered          jetstream.ErrorCode = 10074
	codeWrongLastSeqConstant  jetstream.ErrorCode = 10164
)

func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	return slices.Contains(codes, api.ErrorCode)
}

func isDial(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) || errors.As(err, &dns)
}
