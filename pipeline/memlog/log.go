package memlog

import (
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Log holds the histories of any number of sites and the dead letters of any
// number of destinations. It is safe for concurrent use.
type Log struct {
	now func() time.Time

	mu        sync.Mutex
	sites     map[string]*site
	dead      map[string]map[deadKey]pipeline.DeadLetter
	results   map[runKey][]pipeline.ObjectResult
	snapshots map[string]map[string]snapshot
	fault     func(site string, events []pipeline.Event) Fault
}

// Option changes a new Log.
type Option func(*Log)

// WithClock makes the log tell the time by now instead of time.Now.
func WithClock(now func() time.Time) Option { return func(l *Log) { l.now = now } }

// New returns an empty log.
func New(opts ...Option) *Log {
	l := &Log{
		now: time.Now, sites: map[string]*site{},
		dead: map[string]map[deadKey]pipeline.DeadLetter{}, results: map[runKey][]pipeline.ObjectResult{}, snapshots: map[string]map[string]snapshot{},
	}
	for _, o := range opts {
		o(l)
	}
	return l
}

// Fault is a failure of one Append.
type Fault struct {
	// Err is what Append returns; nil is no fault.
	Err error
	// Stored says that the events get into the log all the same: the
	// acknowledgement was lost.
	Stored bool
}

// SetFault makes every Append ask f whether to fail; nil ends that. f is called
// by one goroutine at a time and must not use the Log.
func (l *Log) SetFault(f func(site string, events []pipeline.Event) Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// Trim forgets the records of a site's current epoch that stand before the
// given sequence, as retention would. Current keeps what it has.
func (l *Log) Trim(siteName string, before uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sites[siteName]
	if s == nil {
		return
	}
	for len(s.entries) > 0 && s.entries[0].position.Seq < before {
		s.entries = s.entries[1:]
	}
	s.wake()
}

// Publish appends a message as it is, as a stranger with access could: it may
// be anything. It fences the site's writer.
func (l *Log) Publish(siteName string, m pipeline.Message) (pipeline.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.site(siteName)
	if err != nil {
		return pipeline.Position{}, err
	}
	s.append(m, l.now())
	s.wake()
	return s.last(), nil
}

// site is one site's history: its current epoch, and the newest message of
// every subject. Guarded by Log.mu.
type site struct {
	epoch   string
	seq     uint64            // of the last record ever appended in this epoch
	entries []entry           // in order, without gaps, up to seq
	after   pipeline.Position // the end of the epoch before
	past    []ended           // the epochs before, the oldest first
	current map[string]entry
	changed chan struct{} // closed at the next change
	subs    map[string]*subscription
	stored  time.Time
}

// ended is an epoch that is over, as far as it is kept.
type ended struct {
	last, after pipeline.Position
	entries     []entry
}

type entry struct {
	message  pipeline.Message
	position pipeline.Position
	stored   time.Time
}

// site returns the named site, with its first epoch if it is new.
func (l *Log) site(name string) (*site, error) {
	if s := l.sites[name]; s != nil {
		return s, nil
	}
	epoch, err := pipeline.NextEpoch("", l.now())
	if err != nil {
		return nil, err
	}
	s := &site{epoch: epoch, current: map[string]entry{}, changed: make(chan struct{}), subs: map[string]*subscription{}}
	l.sites[name] = s
	return s, nil
}

func (s *site) last() pipeline.Position { return pipeline.Position{Epoch: s.epoch, Seq: s.seq} }

func (s *site) append(m pipeline.Message, now time.Time) {
	s.seq++
	e := entry{message: m, position: s.last(), stored: now}
	s.entries = append(s.entries, e)
	s.current[m.Subject] = e
	s.stored = now
}

func (s *site) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// record decodes the entry.
func (e entry) record(headersOnly bool) (pipeline.Record, error) {
	decode := pipeline.Decode
	if headersOnly {
		decode = pipeline.DecodeHeaders
	}
	event, err := decode(e.message)
	if err != nil {
		r := pipeline.Record{Position: e.position, Stored: e.stored}
		if ref, parseErr := pipeline.ParseRef(e.message.Subject); parseErr == nil {
			r.Ref = ref
		}
		return r, err
	}
	return pipeline.Record{Event: event, Position: e.position, Stored: e.stored}, nil
}
