package natslog

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestTrimmingCutOff ends a server between the two steps of a trimming: the history must not go on losing records.
func TestTrimmingCutOff(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		reason string
		heal   func(t *testing.T, c *Conn)
	}{
		"next start": {
			reason: "who appends may not open the history again",
			heal:   func(*testing.T, *Conn) {},
		},
		"next opening": {
			reason: "the server may be somebody else's",
			heal: func(t *testing.T, c *Conn) {
				if _, err := c.admin.open(t.Context(), siteOf("a"), testOptions(), pipeline.Position{}); err != nil {
					t.Fatal(err)
				}
			},
		},
		"next trimming": {
			reason: "nobody else may come",
			heal: func(t *testing.T, c *Conn) {
				if err := c.Archive("a").Trim(t.Context(), pipeline.Position{}); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			set := func(c *ServerConfig) { c.StoreDir = dir }
			server := testServer(t, set)
			c := inProcess(t, server)
			w := testWriter(t, c, "a")
			for n := range uint64(10) {
				mustAppend(t, w, numbered(n+1))
			}
			newest, _ := testState(t, c, "a").newest()
			eventually(t, "the current stream takes everything up", func() bool { return drained(testState(t, c, "a"), newest) })
			update(t, c, newest.Stream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = 5 })
			if name == "next start" {
				if err := server.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				c = inProcess(t, testServer(t, set))
			}
			tc.heal(t, c)
			if newest, _ = testState(t, c, "a").newest(); newest.Trimming {
				t.Errorf("it still loses records: %s", tc.reason)
			}
			w = testWriter(t, c, "a")
			mustAppend(t, w, numbered(11))
			newest, _ = testState(t, c, "a").newest()
			if newest.First != 6 || newest.Last != 11 {
				t.Errorf("records %d to %d, want 6 to 11", newest.First, newest.Last)
			}
		})
	}
}
