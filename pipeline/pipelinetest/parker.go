package pipelinetest

import (
	"context"
	"maps"
	"sync"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Parker keeps the dead letters of one owner in memory, counts the writes and
// fails on demand. It is safe for concurrent use.
type Parker struct {
	mu              sync.Mutex
	letters         map[pipeline.Ref]pipeline.DeadLetter
	parks, removals int
	err             error
}

var _ pipeline.Parker = (*Parker)(nil)

// Fail makes every call fail with err from now on; nil ends that.
func (p *Parker) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// Park implements pipeline.Parker.
func (p *Parker) Park(_ context.Context, d pipeline.DeadLetter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parks++; p.err != nil {
		return p.err
	}
	if p.letters == nil {
		p.letters = map[pipeline.Ref]pipeline.DeadLetter{}
	}
	p.letters[d.Ref] = d
	return nil
}

// Remove implements pipeline.Parker.
func (p *Parker) Remove(_ context.Context, _ string, ref pipeline.Ref) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removals++; p.err != nil {
		return p.err
	}
	delete(p.letters, ref)
	return nil
}

// Letters returns what is parked.
func (p *Parker) Letters() map[pipeline.Ref]pipeline.DeadLetter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.letters)
}

// Calls returns how often Park and Remove were called.
func (p *Parker) Calls() (parks, removals int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parks, p.removals
}
