package main

import (
	"context"

	"github.com/dr-syncer/dr-syncer/control"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// volumes is how VolumeTransfers are run; nil if they are not.
func (p *program) volumes() *control.Volumes {
	if !p.options.movers.Enabled() {
		return nil
	}
	return &control.Volumes{
		Runner: transfer.Runner{Client: p.client, Board: p.board, Image: p.options.movers.Movers(), Log: p.log},
		Caps:   p.options.caps,
	}
}

// answerSources tells the sources what is wished of their volumes, until ctx ends. It listens anew after the connection broke.
func (p *program) answerSources(ctx context.Context) error {
	var delay app.Delay
	for {
		err := p.conn.AnswerVolumes(ctx, p.board.Serve)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.log.WarnContext(ctx, "cannot listen to the sources of volumes", telemetry.KeyError, err)
		if !app.Wait(ctx, delay.Next()) {
			return ctx.Err()
		}
	}
}
