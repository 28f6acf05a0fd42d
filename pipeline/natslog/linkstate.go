package natslog

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// LinkState is what one end of a link knows of it.
type LinkState struct {
	// Site is the source.
	Site string
	// Copied is how far the copy has come, Last how far the original had when this
	// end last knew of it.
	Copied, Last pipeline.Position
	// Lag is the number of records of the original that are not known to be in the
	// copy; Complete is when there last were none, zero if never.
	Lag      uint64
	Complete time.Time
	// Heard is when the other end was last heard of; zero if never.
	Heard time.Time
	// Err is why the other end does not answer, or nothing is copied, nil while it is.
	Err error

	began time.Time // when this end began to look
}

// linkSilent is how long the other end of a link may say nothing: some exchanges.
const linkSilent = 15 * time.Second

// Connected reports whether the other end is heard of.
func (s LinkState) Connected(now time.Time) bool {
	return !s.Heard.IsZero() && now.Sub(s.Heard) < linkSilent && s.Err == nil
}

// LagTime is how long ago the copy was last known to have everything.
func (s LinkState) LagTime(now time.Time) time.Duration {
	if s.Complete.IsZero() {
		return now.Sub(s.began)
	}
	return now.Sub(s.Complete)
}

// Text says in one line how the link is.
func (s LinkState) Text(now time.Time) string {
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	text := "connected"
	switch {
	case s.Heard.IsZero():
		text = "the other end was never heard of"
	case !s.Connected(now):
		text = "the other end was last heard of " + ago(s.Heard) + " ago"
	}
	if s.Err != nil {
		text += " (" + s.Err.Error() + ")"
	}
	if s.Lag > 0 {
		text += fmt.Sprintf(", %d records are not copied yet", s.Lag)
	}
	if s.Complete.IsZero() {
		return text + ", the copy was never complete"
	}
	return text + ", the copy was complete " + ago(s.Complete) + " ago"
}

// compared takes note of what the original holds and how far the copy is. certain
// says that both are of now.
func (s *LinkState) compared(original []historyState, copied pipeline.Position, certain bool) {
	s.Copied, s.Lag = copied, 0
	for _, h := range original {
		switch {
		case h.Epoch > copied.Epoch:
			s.Lag += h.Messages
		case h.Epoch == copied.Epoch:
			s.Lag += max(h.Last, copied.Seq) - copied.Seq
		}
		s.Last = pipeline.Position{Epoch: h.Epoch, Seq: h.Last}
	}
	if certain && s.Lag == 0 {
		s.Complete = time.Now()
	}
}

// Links returns the state of the server's links, at either end, by site. It is safe
// for concurrent use.
func (s *Server) Links() []LinkState {
	var states []LinkState
	if state, linked := s.Link(); linked {
		states = append(states, state)
	}
	for _, u := range s.cfg.Users {
		if u.Leaf && !slices.ContainsFunc(states, func(l LinkState) bool { return l.Site == u.Site }) {
			states = append(states, s.copies.link(u.Site))
		}
	}
	slices.SortFunc(states, func(a, b LinkState) int { return cmp.Compare(a.Site, b.Site) })
	return states
}

// measureLinks has the metrics of links read, until unregister is called.
func (s *Server) measureLinks() (unregister func()) {
	if s.cfg.Link == nil && s.cfg.LeafPort == 0 {
		return func() {}
	}
	gauge := func(m telemetry.Metric, value func(LinkState, time.Time) float64) func() {
		return telemetry.Gauge(m, func() []telemetry.Sample {
			var samples []telemetry.Sample
			for _, l := range s.Links() {
				samples = append(samples, telemetry.Sample{
					Value: value(l, time.Now()), Attrs: []telemetry.Attr{telemetry.String(telemetry.KeySite, l.Site)},
				})
			}
			return samples
		})
	}
	all := []func(){
		gauge(telemetry.MetricLinkConnected, func(l LinkState, now time.Time) float64 {
			if l.Connected(now) {
				return 1
			}
			return 0
		}),
		gauge(telemetry.MetricLinkLagEvents, func(l LinkState, _ time.Time) float64 { return float64(l.Lag) }),
		gauge(telemetry.MetricLinkLagSeconds, func(l LinkState, now time.Time) float64 { return l.LagTime(now).Seconds() }),
	}
	return func() {
		for _, u := range all {
			u()
		}
	}
}
