package natslog

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestConformanceInProcess(t *testing.T) {
	t.Parallel()
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		t.Parallel()
		return harness(inProcess(t, testServer(t)))
	})
}

func TestConformanceOverTCP(t *testing.T) {
	t.Parallel()
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		t.Parallel()
		return harness(testConn(t, ConnectConfig{URL: testServer(t, listening).URL()}))
	})
}

// TestConformanceLinked writes at the source and reads the copy at the destination.
func TestConformanceLinked(t *testing.T) {
	t.Parallel()
	pipelinetest.TestLog(t, func(t *testing.T) pipelinetest.Harness {
		t.Parallel()
		links := map[string]*linked{}
		of := func(site string) *linked {
			if links[site] == nil {
				links[site] = newLinked(t, site)
			}
			return links[site]
		}
		return pipelinetest.Harness{
			OpenWriter: func(t testing.TB, site string) pipeline.Writer { return testWriter(t, of(site).writing, site) },
			History: func(_ testing.TB, site string) pipeline.History {
				return &copied{History: of(site).reading.History(site), original: of(site).writing.History(site)}
			},
			DeadLetters: func(t testing.TB, dest string) pipeline.DeadLetters {
				return harness(of("any").reading).DeadLetters(t, dest)
			},
			Trim: func(t testing.TB, site string, before uint64) {
				t.Helper()
				mustCatchUp(t, of(site), site)
				trim(t, of(site).reading, site, before)
			},
			PublishRaw: func(t testing.TB, site string, m pipeline.Message) {
				t.Helper()
				msg := &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
				if _, err := of(site).writing.request(t.Context(), msg); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func mustCatchUp(t testing.TB, l *linked, site string) {
	t.Helper()
	h := &copied{History: l.reading.History(site), original: l.writing.History(site)}
	if err := h.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// copied is the copy of a history, read when it has everything that its original had at the call:
// then it promises the same.
type copied struct {
	*History
	original *History
}

func (c *copied) catchUp(ctx context.Context) error {
	want, err := c.original.State(ctx)
	if errors.Is(err, pipeline.ErrNoHistory) {
		return nil
	}
	for err == nil {
		have, stateErr := c.History.State(ctx)
		if stateErr == nil && have.Last.Compare(want.Last) >= 0 {
			return nil
		}
		pause(ctx, 2*time.Millisecond)
		err = ctx.Err()
	}
	return err
}

func (c *copied) State(ctx context.Context) (pipeline.State, error) {
	if err := c.catchUp(ctx); err != nil {
		return pipeline.State{}, err
	}
	return c.History.State(ctx)
}

func (c *copied) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		if err := c.catchUp(ctx); err != nil {
			yield(pipeline.Record{}, err)
			return
		}
		c.History.Current(ctx, q)(yield)
	}
}

func (c *copied) Follow(ctx context.Context, name string, after pipeline.Position) (pipeline.Subscription, error) {
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	return c.History.Follow(ctx, name, after)
}
