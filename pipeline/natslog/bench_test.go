package natslog

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func benchEvents(n int) []pipeline.Event {
	const size = 2 << 10
	noise := incompressible(size + n)
	events := make([]pipeline.Event, n)
	for i := range events {
		body := []byte(fmt.Sprintf(`{"kind":"Test","data":"%x"}`, noise[i:i+size/2]))
		events[i] = pipelinetest.PutBody(pipelinetest.ConfigMap("a", "object-"+strconv.Itoa(i)), i+1, body)
	}
	return events
}

// BenchmarkAppend compares appends with the bare atomic batches that they are
// made of, with every write synced.
func BenchmarkAppend(b *testing.B) {
	const batch = 500
	durable := func(c *ServerConfig) { c.SyncAlways = true }
	b.Run("append", func(b *testing.B) {
		w := testWriter(b, inProcess(b, testServer(b, durable)), "a")
		events := benchEvents(batch)
		for b.Loop() {
			mustAppend(b, w, events...)
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("bare", func(b *testing.B) {
		c := inProcess(b, testServer(b, durable))
		testWriter(b, c, "a")
		events := benchEvents(batch)
		for b.Loop() {
			bare := func(i int) (*nats.Msg, error) {
				return &nats.Msg{Subject: events[i].Ref.Subject(), Header: nats.Header{}, Data: events[i].Body}, nil
			}
			if _, err := c.publish(b.Context(), len(events), bare); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("one", func(b *testing.B) {
		w := testWriter(b, inProcess(b, testServer(b, durable)), "a")
		events := benchEvents(1)
		for b.Loop() {
			mustAppend(b, w, events...)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("tcp", func(b *testing.B) {
		w := testWriter(b, testConn(b, ConnectConfig{URL: testServer(b, durable, listening).URL()}), "a")
		events := benchEvents(batch)
		for b.Loop() {
			mustAppend(b, w, events...)
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("site user", func(b *testing.B) {
		key, seed := testUser(b)
		s := testServer(b, durable, listening, func(c *ServerConfig) { c.Users = []User{{NKey: key, Site: "a"}} })
		w := testWriter(b, testConn(b, ConnectConfig{URL: s.URL(), NKeySeedFile: seed, InboxPrefix: SiteInboxPrefix("a")}), "a")
		events := benchEvents(batch)
		for b.Loop() {
			mustAppend(b, w, events...)
		}
		b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
	})
}

func BenchmarkRead(b *testing.B) {
	const objects, size = 50_000, 2 << 10
	c := inProcess(b, testServer(b))
	w := testWriter(b, c, "a")
	for start := 0; start < objects; start += 500 {
		events := make([]pipeline.Event, 500)
		for i := range events {
			events[i] = pipelinetest.PutBody(pipelinetest.ConfigMap("a", "object-"+strconv.Itoa(start+i)), start+i+1, incompressible(size))
		}
		mustAppend(b, w, events...)
	}
	eventually(b, "the current stream catches up", func() bool { return testState(b, c, "a").Through == w.Position() })
	for name, q := range map[string]pipeline.Query{"headers": {HeadersOnly: true}, "bodies": {}} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				for _, err := range c.History("a").Current(b.Context(), q) {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
	b.Run("follow", func(b *testing.B) {
		n := 0
		for b.Loop() {
			sub, err := c.History("a").Follow(b.Context(), "bench", pipeline.Position{})
			if err != nil {
				b.Fatal(err)
			}
			for range objects {
				d, err := sub.Next(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if err := d.Settler.Ack(); err != nil {
					b.Fatal(err)
				}
				n++
			}
			if err := sub.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
	})
}
