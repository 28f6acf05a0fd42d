package natslog

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// serverLog takes what the NATS server logs.
type serverLog struct{ log *slog.Logger }

// Noticef implements server.Logger. What NATS finds worth a notice at every
// start is detail here.
func (l serverLog) Noticef(format string, v ...any) { l.say(l.log.Debug, format, v) }

// Warnf implements server.Logger.
func (l serverLog) Warnf(format string, v ...any) { l.say(l.log.Warn, format, v) }

// Errorf implements server.Logger.
func (l serverLog) Errorf(format string, v ...any) { l.say(l.log.Error, format, v) }

// Fatalf implements server.Logger. The server reports the failure as well.
func (l serverLog) Fatalf(format string, v ...any) { l.say(l.log.Error, format, v) }

// Debugf implements server.Logger.
func (l serverLog) Debugf(format string, v ...any) { l.say(l.log.Debug, format, v) }

// Tracef implements server.Logger. Traces hold messages: they are not logged.
func (l serverLog) Tracef(string, ...any) {}

func (l serverLog) say(log func(string, ...any), format string, v []any) {
	log("nats server", slog.String(telemetry.KeyReason, strings.TrimSpace(fmt.Sprintf(format, v...))))
}
