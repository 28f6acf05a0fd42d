package main

import (
	"context"
	"sync/atomic"

	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// readable says which claims may be read by movers: those that are collected. Its methods are safe for concurrent use.
type readable struct {
	ownNamespace string
	privileged   bool
	selector     atomic.Pointer[collect.Selector]
}

var claims = pipeline.GroupResource{Resource: "persistentvolumeclaims"}

// configure has the policy follow a configuration.
func (r *readable) configure(c collect.Config) error {
	selector, err := collect.NewSelector(c, r.ownNamespace)
	if err == nil {
		r.selector.Store(selector)
	}
	return err
}

func (r *readable) policy() transfer.Policy {
	selector := r.selector.Load()
	return transfer.Policy{
		Privileged: r.privileged,
		Allows: func(namespace, claim string) bool {
			return selector != nil && selector.Key(claims, namespace, claim).Action == collect.Collect
		},
	}
}

// serveVolumes serves the data of volumes to whoever is allowed to ask, until ctx ends.
func (p *program) serveVolumes(ctx context.Context) error {
	server := &transfer.Server{
		Site: p.options.site, Client: p.client, Image: p.options.movers.Movers(), Log: p.log, Policy: p.readable.policy,
		Ask: func(ctx context.Context, question []byte) ([][]byte, error) {
			return p.conn.AskVolumes(ctx, p.options.site, question)
		},
	}
	return server.Run(ctx)
}
