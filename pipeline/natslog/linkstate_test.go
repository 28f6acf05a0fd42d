package natslog

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// TestLinkShowsACut cuts a link: both ends say so, and how much is not copied.
func TestLinkShowsACut(t *testing.T) {
	t.Parallel()
	l, p := throughProxy(t)
	w := testWriter(t, l.writing, "a")
	l.copied(t, appendNumbered(t, w, 100))
	ends := map[string]*Server{"source": l.source, "destination": l.destination}
	state := func(s *Server) LinkState {
		t.Helper()
		links := s.Links()
		if len(links) != 1 || links[0].Site != "a" {
			t.Fatalf("links: %+v", links)
		}
		return links[0]
	}
	whole := func(s *Server) bool {
		st := state(s)
		return st.Connected(time.Now()) && st.Lag == 0 && st.Copied == w.Position() && st.LagTime(time.Now()) < linkSilent
	}
	for name, s := range ends {
		eventually(t, name+" has a link that works", func() bool { return whole(s) })
	}
	p.down()
	appendNumbered(t, w, 40)
	eventually(t, "the source knows what is not copied", func() bool { st := state(l.source); return st.Lag == 40 && errors.Is(st.Err, ErrUnreachable) })
	for name, s := range ends {
		eventually(t, name+" misses the other end", func() bool { return !state(s).Connected(time.Now()) })
	}
	now := time.Now()
	if text := state(l.source).Text(now); !strings.Contains(text, "40 records") || !strings.Contains(text, strings.TrimPrefix(p.url(), "nats://")) {
		t.Errorf("the source says: %s", text)
	}
	if st := state(l.destination); st.LagTime(now) < linkSilent-linkEvery || !strings.Contains(st.Text(now), "last heard of") {
		t.Errorf("the destination says, %s after the copy was complete: %s", st.LagTime(now), st.Text(now))
	}
	p.up()
	for name, s := range ends {
		eventually(t, name+" has the link again", func() bool { return whole(s) })
	}
}

func TestLinkStateCompared(t *testing.T) {
	at := func(epoch string, seq uint64) pipeline.Position { return pipeline.Position{Epoch: epoch, Seq: seq} }
	histories := []historyState{{Epoch: "1", First: 1, Last: 9, Messages: 9}, {Epoch: "2", First: 1, Last: 5, Messages: 5}}
	cases := map[string]struct {
		original []historyState
		copied   pipeline.Position
		lag      uint64
	}{
		"nothing":             {nil, pipeline.Position{}, 0},
		"nothing copied":      {histories, pipeline.Position{}, 14},
		"in the epoch before": {histories, at("1", 4), 10},
		"in the newest":       {histories, at("2", 4), 1},
		"complete":            {histories, at("2", 5), 0},
		"copied meanwhile":    {histories, at("2", 7), 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s LinkState
			s.compared(tc.original, tc.copied, true)
			if s.Lag != tc.lag || s.Complete.IsZero() != (tc.lag > 0) {
				t.Errorf("lag %d, complete at %s", s.Lag, s.Complete)
			}
			if s.compared(tc.original, tc.copied, false); s.Lag != tc.lag {
				t.Errorf("lag %d", s.Lag)
			}
		})
	}
}

// TestLinkTLS links over TLS: with certificates that fit it copies, with others it
// says what is wrong and nothing crosses.
func TestLinkTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ours.leaf(t, "server")
	clientCert, clientKey := ours.leaf(t, "client")
	foreignCert, foreignKey := theirs.leaf(t, "client")
	cases := map[string]struct {
		mutual bool
		link   Link
		joins  bool
	}{
		"trusted":                  {link: Link{CAFile: ours.caFile}, joins: true},
		"other authority":          {link: Link{CAFile: theirs.caFile}},
		"unknown authority":        {},
		"client certificate":       {mutual: true, link: Link{CAFile: ours.caFile, CertFile: clientCert, KeyFile: clientKey}, joins: true},
		"no client certificate":    {mutual: true, link: Link{CAFile: ours.caFile}},
		"other client certificate": {mutual: true, link: Link{CAFile: ours.caFile, CertFile: foreignCert, KeyFile: foreignKey}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			public, seed := testUser(t)
			destination := testServer(t, func(c *ServerConfig) {
				c.LeafHost, c.LeafPort = "127.0.0.1", -1
				c.Users = []User{{NKey: public, Site: "a", Leaf: true}}
				c.TLSCertFile, c.TLSKeyFile = serverCert, serverKey
				if tc.mutual {
					c.ClientCAFile = ours.caFile
				}
			})
			if !strings.HasPrefix(destination.LinkURL(), "tls://") {
				t.Errorf("links are taken at %s", destination.LinkURL())
			}
			link := tc.link
			link.Site, link.URL, link.NKeySeedFile = "a", destination.LinkURL(), seed
			source := testServer(t, func(c *ServerConfig) { c.Link = &link })
			l := &linked{source: source, destination: destination, writing: inProcess(t, source), reading: inProcess(t, destination)}
			last := appendNumbered(t, testWriter(t, l.writing, "a"), 10)
			if tc.joins {
				l.copied(t, last)
				return
			}
			eventually(t, "the source says that nothing is copied", func() bool {
				st, _ := source.Link()
				return errors.Is(st.Err, ErrUnreachable) && strings.Contains(st.Err.Error(), "certificates")
			})
			if _, err := l.reading.History("a").State(t.Context()); !errors.Is(err, pipeline.ErrNoHistory) {
				t.Errorf("the destination has something: %v", err)
			}
		})
	}
}
