package stream

// ring holds the bytes of a stream from an offset on. It grows to its limit and
// never beyond.
type ring struct {
	buf   []byte // its length is a power of two, or 0
	start uint64 // offset of the first byte that is held
	end   uint64 // offset after the last
	limit int
}

const firstRing = 64 << 10

func newRing(limit int) ring { return ring{limit: limit} }

func (r *ring) held() int { return int(r.end - r.start) } //nolint:gosec // G115: at most limit
func (r *ring) room() int { return r.limit - r.held() }

// reserve makes place for n more bytes, which must be within room.
func (r *ring) reserve(n int) {
	need := r.held() + n
	if need <= len(r.buf) {
		return
	}
	size := max(len(r.buf), firstRing)
	for size < need {
		size *= 2
	}
	next := make([]byte, size)
	old := *r
	r.buf = next
	for off := old.start; off < old.end; {
		part := old.at(off, old.end)
		r.put(off, part)
		off += uint64(len(part))
	}
}

// index is the place of an offset.
func (r *ring) index(off uint64) uint64 {
	return off & uint64(len(r.buf)-1) //nolint:gosec // G115: a length
}

// at returns the bytes from off on, to end at most, as far as they lie together.
func (r *ring) at(off, end uint64) []byte {
	i := r.index(off)
	return r.buf[i:min(uint64(len(r.buf)), i+end-off)]
}

// put writes p at off.
func (r *ring) put(off uint64, p []byte) {
	n := copy(r.buf[r.index(off):], p)
	copy(r.buf, p[n:])
}

// append takes as much of p as there is room for.
func (r *ring) append(p []byte) int {
	p = p[:min(len(p), r.room())]
	if len(p) == 0 {
		return 0
	}
	r.reserve(len(p))
	r.put(r.end, p)
	r.end += uint64(len(p))
	return len(p)
}

// copyAt copies what is held from off on into p.
func (r *ring) copyAt(off uint64, p []byte) int {
	end := min(r.end, off+uint64(len(p)))
	n := 0
	for off < end {
		m := copy(p[n:], r.at(off, end))
		n, off = n+m, off+uint64(m) //nolint:gosec // G115: a length
	}
	return n
}

// read moves what is held first to p.
func (r *ring) read(p []byte) int {
	n := r.copyAt(r.start, p)
	r.drop(r.start + uint64(n)) //nolint:gosec // G115: a length
	return n
}

// drop forgets everything before off.
func (r *ring) drop(off uint64) { r.start = max(r.start, min(off, r.end)) }
