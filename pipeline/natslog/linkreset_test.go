package natslog

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestResetOfABusyConsumer has the consumer that feeds a copy deliver while it is reset, as it
// does when the copy asks again after a cut: nothing that the copy lacks counts as delivered.
func TestResetOfABusyConsumer(t *testing.T) {
	t.Parallel()
	l := newLinked(t, "a")
	w := testWriter(t, l.writing, "a")
	eventually(t, "there is a copy", func() bool {
		st, err := l.reading.History("a").State(t.Context())
		return err == nil && st.Last.Epoch == w.epoch
	})
	l.stopDestination(t)
	last := appendNumbered(t, w, 2*linkWindow)
	subject := siteOf("a").linkAPI() + "." + consumerReset + siteOf("a").history(w.epoch) + "." + siteOf("a").linkConsumer()
	ask := func(t *testing.T, nc *nats.Conn) {
		t.Helper()
		sub, err := nc.Subscribe(siteOf("a").linkRecords("*"), func(*nats.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		for range 300 {
			m, err := nc.RequestWithContext(t.Context(), subject, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got resetAnswer
			if err := json.Unmarshal(m.Data, &got); err != nil || got.ConsumerResetResponse == nil {
				t.Fatalf("%s: %v", m.Data, err)
			}
			if got.ResetSeq != 1 || got.Delivered.Stream != 0 {
				t.Fatalf("reset to record %d, %d count as delivered: %s", got.ResetSeq, got.Delivered.Stream, m.Data)
			}
		}
	}
	ask(t, l.source.link.asker)
	t.Run("the server answers late", func(t *testing.T) {
		c := inProcess(t, l.source)
		c.js = lateAnswers{c.js}
		late := &linker{conn: c, site: siteOf("a"), log: c.log}
		sub, err := c.nc.Subscribe(siteOf("a").linkReset(), late.resetConsumer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		ask(t, c.nc)
	})
	l.startDestination(t, "a")
	l.copied(t, last)
	checkNumbered(t, l.reading, last.Seq)
}

// lateAnswers tells of consumers what was true after they had delivered all that they may, as a
// server was seen to do whose disk was slow.
type lateAnswers struct{ jetstream.JetStream }

func (a lateAnswers) ResetConsumer(ctx context.Context, stream, consumer string) (*jetstream.ConsumerResetResponse, error) {
	reset, err := a.JetStream.ResetConsumer(ctx, stream, consumer)
	if err == nil {
		reset.Delivered = jetstream.SequenceInfo{Consumer: linkWindow, Stream: linkWindow}
	}
	return reset, err
}
