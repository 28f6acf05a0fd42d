package natslog

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// resetTimeout is less than the 5 s that a copy waits (srcDurableConsumerWaitTime of nats-server).
const resetTimeout = 4 * time.Second

// resetAnswer is what a copy reads of the answer of its consumer.
type resetAnswer struct {
	Type string `json:"type"`
	*jetstream.ConsumerResetResponse
}

// resetConsumer answers a copy that is about to read. A copy begins behind what the answer calls
// delivered, and for good skips what it lacks of that. The server reads this after the reset, when
// it may deliver again already, or from a file that the reset has not reached: records that nobody
// has stored would count. So the answer is that nothing from the place of the reset on is
// delivered. What then goes astray is missing in the numbers of the consumer, and the copy asks
// again.
func (l *linker) resetConsumer(m *nats.Msg) {
	stream, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, l.site.linkAPI()+"."+consumerReset), ".")
	if _, ours := l.site.epochOf(stream); !ours {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), resetTimeout)
	defer cancel()
	var reset *jetstream.ConsumerResetResponse
	err := l.conn.do(ctx, func(ctx context.Context) (err error) {
		reset, err = l.conn.js.ResetConsumer(ctx, stream, l.site.linkConsumer())
		return err
	})
	if err != nil {
		l.log.Debug("cannot reset the consumer that feeds the copy; the copy will ask again",
			slog.String(telemetry.KeySite, l.site.name), slog.String(telemetry.KeyName, stream), slog.Any(telemetry.KeyError, err))
		return
	}
	reset.Delivered = jetstream.SequenceInfo{Stream: reset.ResetSeq - 1}
	data, err := json.Marshal(resetAnswer{Type: "io.nats.jetstream.api.v1.consumer_reset_response", ConsumerResetResponse: reset})
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		l.log.Warn("cannot answer the copy", slog.String(telemetry.KeySite, l.site.name), slog.Any(telemetry.KeyError, err))
	}
}
