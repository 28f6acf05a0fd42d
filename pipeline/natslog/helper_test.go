package natslog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// The test binary is its own helper: with this variable it is a process that
// runs an embedded server on the named store and appends to it, telling each
// position that was acknowledged, until it is killed.
const helperStore = "DRS_NATSLOG_HELPER_STORE"

const helperBatch = 7

func tell(word string, seq uint64) { _, _ = fmt.Fprintln(os.Stdout, word, seq) }

func helperMain(dir string) int {
	if err := helperRun(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func helperRun(dir string) error {
	ctx := context.Background()
	cfg := DefaultServerConfig()
	cfg.StoreDir, cfg.MinFree, cfg.MaxStore = dir, 0, 64<<30
	s, err := StartServer(ctx, cfg)
	if err != nil {
		return err
	}
	c, err := Connect(ctx, ConnectConfig{InProcess: s})
	if err != nil {
		return err
	}
	w, err := c.Writer(ctx, "a", testOptions())
	if err != nil {
		return err
	}
	tell("ready", w.Position().Seq)
	for n := w.Position().Seq; ; {
		var batch []pipeline.Event
		for range 1 + n%helperBatch {
			n++
			batch = append(batch, numbered(n))
		}
		p, err := w.Append(ctx, batch)
		if err != nil {
			return err
		}
		tell("acked", p.Seq)
	}
}

// numbered is the event that belongs at a sequence, so that the history tells
// whether it is complete.
func numbered(n uint64) pipeline.Event {
	return pipelinetest.Put(pipelinetest.ConfigMap("a", "object-"+strconv.FormatUint(n%50, 10)), int(n))
}

// checkNumbered reads the whole history and makes sure that it is what was
// appended, at least up to a sequence.
func checkNumbered(t testing.TB, c *Conn, least uint64) {
	t.Helper()
	st, err := c.History("a").State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Last.Seq < least {
		t.Fatalf("the history ends at %s, %d was acknowledged", st.Last, least)
	}
	sub, err := c.History("a").Follow(t.Context(), "check", pipeline.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
	}()
	for n := uint64(1); n <= st.Last.Seq; n++ {
		d, err := sub.Next(t.Context())
		if err != nil || d.Invalid != nil {
			t.Fatalf("record %d: %v, %v", n, err, d.Invalid)
		}
		if want := numbered(n); d.Position.Seq != n || d.Ref != want.Ref || d.Version != want.Version {
			t.Fatalf("record %d is %s version %s at %s", n, d.Ref, d.Version, d.Position)
		}
	}
}

// TestKilledServer kills the process of an embedded server amid appends, again
// and again: what was acknowledged is there, in order, once.
func TestKilledServer(t *testing.T) {
	dir := t.TempDir()
	var acked uint64
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), helperStore+"="+dir)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, began := bufio.NewScanner(out), acked
		for lines.Scan() {
			word, number, _ := strings.Cut(lines.Text(), " ")
			seq, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				t.Fatalf("helper says %q", lines.Text())
			}
			if seq < acked {
				t.Fatalf("%s %d after %d was acknowledged", word, seq, acked)
			}
			acked = seq
			if acked >= began+uint64(150+37*round) {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it still acknowledged
			if _, number, ok := strings.Cut(lines.Text(), "acked "); ok {
				if seq, err := strconv.ParseUint(number, 10, 64); err == nil {
					acked = max(acked, seq)
				}
			}
		}
		if err := cmd.Wait(); err == nil || acked == began {
			t.Fatalf("the helper ended by itself after %d: %v", acked, err)
		}
	}
	c := inProcess(t, testServer(t, func(cfg *ServerConfig) { cfg.StoreDir = dir }))
	checkNumbered(t, c, acked)
	eventually(t, "the current state holds every object", func() bool {
		return len(readCurrent(t, c.History("a"), pipeline.Query{HeadersOnly: true})) == 50
	})
}
