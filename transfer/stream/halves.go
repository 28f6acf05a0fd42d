package stream

import "time"

// sender is the sending half of a relayed stream: what was written and not yet
// acknowledged, and what of it may be sent next. It is a value of offsets and
// bytes; it sends nothing itself.
type sender struct {
	ring   ring
	next   uint64 // the next offset to send
	credit uint64
	sealed bool // the writer has closed its direction
	finned bool // the end was sent, at least since the last rewind
	done   bool // the peer has acknowledged the end
}

// write takes as much of p as there is room for.
func (s *sender) write(p []byte) int { return s.ring.append(p) }

// ready says whether something may be sent.
func (s *sender) ready() bool {
	return s.next < min(s.ring.end, s.credit) || s.sealed && !s.finned && s.next == s.ring.end
}

// fill copies the next payload to p and returns its offset and size. No payload
// with fin means that the end is to be sent, at off.
func (s *sender) fill(p []byte) (off uint64, n int, fin bool) {
	off = s.next
	if limit := min(s.ring.end, s.credit); limit > off {
		n = s.ring.copyAt(off, p[:min(uint64(len(p)), limit-off)])
		s.next += uint64(n) //nolint:gosec // G115: a length
		return off, n, false
	}
	fin = s.sealed && !s.finned && off == s.ring.end
	s.finned = s.finned || fin
	return off, 0, fin
}

// sent is up to where the peer should have received, the end counted as one.
func (s *sender) sent() uint64 {
	if s.finned {
		return s.next + 1
	}
	return s.next
}

// learn takes in the peer's state. What claims more than was ever sent is ignored.
func (s *sender) learn(ack, credit uint64) {
	end := s.ring.end
	if s.sealed && ack == end+1 {
		s.done, s.finned = true, true
		ack = end
	}
	if ack > end {
		return
	}
	s.ring.drop(ack)
	s.next = max(s.next, s.ring.start)
	s.credit = max(s.credit, credit)
}

// rewind goes back to what the peer has: it misses what follows.
func (s *sender) rewind() {
	s.next = s.ring.start
	s.finned = s.done
}

// receiver is the receiving half: what has arrived and was not read, and how much
// more the peer may send.
type receiver struct {
	ring    ring
	window  int    // how much may be on its way
	granted uint64 // the last credit
	fin     bool
	finAt   uint64
	ended   bool // all has arrived, up to the end

	rate    float64 // bytes read per second, smoothed
	since   time.Time
	counted uint64 // offset at since
}

// Bounds of the window: what is on its way is half a second's worth, within these.
// 8 MiB carries 160 MiB/s at 50 ms, and is far from the 64 MiB at which NATS
// takes a client for too slow.
const (
	windowTime  = 500 * time.Millisecond
	firstWindow = 1 << 20
	minWindow   = 256 << 10
	maxWindow   = 8 << 20
)

func newReceiver(now time.Time) receiver {
	return receiver{ring: newRing(maxWindow), window: firstWindow, since: now, granted: firstWindow}
}

// accept takes a payload. gap says that something before it is missing.
func (r *receiver) accept(off uint64, p []byte) (gap bool) {
	if off > r.ring.end {
		return true
	}
	end := off + uint64(len(p))
	if end <= r.ring.end || end > r.granted { // known already; or beyond what was granted
		return false
	}
	r.ring.append(p[r.ring.end-off:])
	r.seal()
	return false
}

// finish takes the end, at an offset.
func (r *receiver) finish(off uint64) (gap bool) {
	if off < r.ring.end || r.fin && off != r.finAt {
		return false // nonsense: the peer has sent more already
	}
	r.fin, r.finAt = true, off
	r.seal()
	return !r.ended
}

func (r *receiver) seal() { r.ended = r.ended || r.fin && r.ring.end == r.finAt }

// ack is what the peer is told.
func (r *receiver) ack() uint64 {
	if r.ended {
		return r.ring.end + 1
	}
	return r.ring.end
}

// due says whether a new credit is worth a message.
func (r *receiver) due() bool {
	return !r.ended && r.ring.start+uint64(r.window) >= r.granted+uint64(r.window)/4 //nolint:gosec // G115: positive
}

// grant sizes the window by the rate of reading and returns the credit, which
// never falls.
func (r *receiver) grant(now time.Time) uint64 {
	if d := now.Sub(r.since); d >= 5*time.Millisecond && r.ring.start > r.counted {
		inst := float64(r.ring.start-r.counted) / d.Seconds()
		r.rate += (inst - r.rate) / 2
		r.since, r.counted = now, r.ring.start
		r.window = int(min(max(r.rate*windowTime.Seconds(), minWindow), maxWindow))
	}
	r.granted = max(r.granted, r.ring.start+uint64(r.window)) //nolint:gosec // G115: positive
	return r.granted
}
