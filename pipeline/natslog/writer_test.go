package natslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// TestWritersRace opens a site that does not exist from many sides at once: one
// history listens in the end, and what was appended on the way is in the log as
// a whole, once.
func TestWritersRace(t *testing.T) {
	t.Parallel()
	const racers = 8
	s := testServer(t, listening)
	var mu sync.Mutex
	won := map[pipeline.Position]int{}
	var race sync.WaitGroup
	for i := range racers {
		c := testConn(t, ConnectConfig{URL: s.URL()})
		race.Go(func() {
			w, err := c.Writer(t.Context(), "a", testOptions())
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			for try := 0; ; try++ {
				p, err := w.Append(t.Context(), []pipeline.Event{put("a", "x", i+1), put("a", "y", i+1)})
				if errors.Is(err, pipeline.ErrFenced) {
					return
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					won[p]++
					return
				}
				if try == 5 {
					t.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	race.Wait()
	c := inProcess(t, s)
	last := mustAppend(t, testWriter(t, c, "a"), put("a", "z", 1))
	won[last]++
	open, stored := 0, uint64(0)
	for _, h := range testState(t, c, "a").Histories {
		stored += h.Last
		if h.Open {
			open++
		}
	}
	if open != 1 || stored != uint64(2*len(won)-1) {
		t.Errorf("%d histories listen, with %d records of %d appends", open, stored, len(won))
	}
	for p, n := range won {
		if n != 1 || p.Compare(last) > 0 {
			t.Errorf("%d writers appended at %s", n, p)
		}
	}
	got := readCurrent(t, c.History("a"), pipeline.Query{})
	if got["x"] != got["y"] || got["z"] != "1" {
		t.Errorf("current is %v", got)
	}
}

// TestLargeBatches appends as much at once as a collector may.
func TestLargeBatches(t *testing.T) {
	small := func(o *natsserver.Options) { o.MaxPayload = 64 << 10 }
	cases := map[string]struct {
		conn        func(t *testing.T) *Conn
		count, size int
	}{
		"500 of 8 KiB, embedded":   {func(t *testing.T) *Conn { return inProcess(t, testServer(t)) }, 500, 8 << 10},
		"500 of 8 KiB, external":   {func(t *testing.T) *Conn { return testConn(t, ConnectConfig{URL: externalServer(t)}) }, 500, 8 << 10},
		"30 of 3 MiB, embedded":    {func(t *testing.T) *Conn { return testConn(t, ConnectConfig{URL: testServer(t, listening).URL()}) }, 30, 3 << 20},
		"30 of 3 MiB, external":    {func(t *testing.T) *Conn { return testConn(t, ConnectConfig{URL: externalServer(t)}) }, 30, 3 << 20},
		"100 of 100 KiB in 64 KiB": {func(t *testing.T) *Conn { return testConn(t, ConnectConfig{URL: externalServer(t, small)}) }, 100, 100 << 10},
		"1000 of 60 KiB, embedded": {func(t *testing.T) *Conn { return inProcess(t, testServer(t)) }, pipeline.MaxBatch, 60 << 10},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := tc.conn(t)
			w := testWriter(t, c, "a")
			noise := incompressible(tc.size + tc.count)
			events := make([]pipeline.Event, tc.count)
			for i := range events {
				events[i] = pipelinetest.PutBody(pipelinetest.ConfigMap("a", "object-"+strconv.Itoa(i)), i+1, noise[i:i+tc.size])
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			last, err := w.Append(ctx, events)
			if err != nil || last.Seq != uint64(tc.count) {
				t.Fatalf("append: %s, %v", last, err)
			}
			n := 0
			for r, err := range c.History("a").Current(t.Context(), pipeline.Query{}) {
				if err != nil || len(r.Body) != tc.size {
					t.Fatalf("read %d bytes, %v", len(r.Body), err)
				}
				n++
			}
			if n != tc.count {
				t.Errorf("read %d of %d", n, tc.count)
			}
		})
	}
}

// TestAppendLargerThanTheHistory is refused for good, and nothing is written.
func TestAppendLargerThanTheHistory(t *testing.T) {
	c := inProcess(t, testServer(t))
	opts := testOptions()
	opts.MaxBytes = 1 << 20
	w, err := c.Writer(t.Context(), "a", opts)
	if err != nil {
		t.Fatal(err)
	}
	big := pipelinetest.PutBody(pipelinetest.ConfigMap("a", "x"), 1, incompressible(2<<20))
	if _, err := w.Append(t.Context(), []pipeline.Event{big}); !errors.Is(err, pipeline.ErrTooLarge) {
		t.Errorf("append: %v", err)
	}
	if last := mustAppend(t, w, put("a", "x", 1)); last.Seq != 1 {
		t.Errorf("the next one stands at %s", last)
	}
}

func Example() {
	if err := example(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// durable at sequence 1
	// prod-nyc configmaps shop/prices: {"apiVersion":"v1","kind":"ConfigMap","data":{"tea":"3"}}
}

func example(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "log-*")
	if err != nil {
		return err
	}
	cfg := DefaultServerConfig()
	cfg.StoreDir, cfg.MinFree, cfg.MaxStore = dir, 0, 64<<30
	server, err := StartServer(ctx, cfg)
	if err != nil {
		return err
	}
	conn, err := Connect(ctx, ConnectConfig{InProcess: server, Name: "example"})
	if err != nil {
		return err
	}
	writer, err := conn.Writer(ctx, "prod-nyc", DefaultStreamOptions())
	if err != nil {
		return err
	}
	ref := pipeline.Ref{Site: "prod-nyc", Resource: "configmaps", Namespace: "shop", Name: "prices"}
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"tea":"3"}}`)
	at, err := writer.Append(ctx, []pipeline.Event{{
		Ref: ref, Op: pipeline.OpPut, UID: "6b2c", Version: "17", APIVersion: "v1", Kind: "ConfigMap",
		Observed: time.Now(), Digest: pipeline.DigestOf(body), Body: body,
	}})
	if err != nil {
		return err
	}
	fmt.Println("durable at sequence", at.Seq) //nolint:forbidigo // an example tells
	for record, err := range conn.History("prod-nyc").Current(ctx, pipeline.Query{}) {
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", record.Ref, record.Body) //nolint:forbidigo // an example tells
	}
	return errors.Join(conn.Close(), server.Shutdown(ctx), os.RemoveAll(dir))
}

// TestRefusedBatchesLeaveNothing begins more batches than the server keeps open, each with an event at its
// end that cannot be written.
func TestRefusedBatchesLeaveNothing(t *testing.T) {
	const refused = 60 // the server keeps 50 open
	c := inProcess(t, testServer(t))
	w := testWriter(t, c, "a")
	broken := put("a", "broken", 1)
	broken.Digest[0]++
	for range refused {
		if _, err := w.Append(t.Context(), []pipeline.Event{put("a", "x", 1), put("a", "y", 1), broken}); pipeline.ClassOf(err) != pipeline.Malformed {
			t.Fatalf("append with an event whose digest is wrong: %v", err)
		}
	}
	if last := mustAppend(t, w, put("a", "x", 2), put("a", "y", 2)); last.Seq != 2 {
		t.Errorf("appended up to %s, want 2 records in all", last)
	}
	got := readCurrent(t, c.History("a"), pipeline.Query{})
	if diff := cmp.Diff(map[string]string{"x": "2", "y": "2"}, got); diff != "" {
		t.Errorf("current state (-want +got):\n%s", diff)
	}
}
