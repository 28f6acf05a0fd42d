package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// The steward does, for the users of one site, what needs rights over streams:
// the methods of admin, as requests on drs.v1.<site>.ctl.<verb>. The site stands
// in the subject, which the server checks against the user's permissions; a
// request can name no stream, so it reaches no other site's.
const (
	verbState  = "state"
	verbOpen   = "open"
	verbBegin  = "begin"
	verbReader = "reader"
	verbAppend = "append"
	verbTidy   = "tidy"
	// verbLink is for the source's server, over a link.
	verbLink = "link"
)

// readerSlots is how many readers of one site there may be at once. Their names
// are fixed, since permissions are granted by name.
const readerSlots = 8

func (s site) readerName(slot int) string { return "read_" + s.token + "_" + strconv.Itoa(slot) }

type stewardRequest struct {
	Options StreamOptions     `json:"options"`
	At      pipeline.Position `json:"at"`
	Read    readRequest       `json:"read"`
	Link    *linkOffer        `json:"link,omitempty"`
}

type stewardReply struct {
	State    siteState `json:"state"`
	Consumer string    `json:"consumer,omitempty"`
	// Prefix is what stands for "$JS.API" where the request came from, if not that.
	Prefix string     `json:"prefix,omitempty"`
	Append string     `json:"append,omitempty"`
	Link   *linkReply `json:"link,omitempty"`
	Error  string     `json:"error,omitempty"`
	Code   string     `json:"code,omitempty"`
}

// codes carries the errors that callers act on across the wire.
var codes = map[string]error{
	"fenced":   pipeline.ErrFenced,
	"full":     ErrFull,
	"denied":   ErrDenied,
	"foreign":  ErrForeignStream,
	"missing":  jetstream.ErrStreamNotFound,
	"conflict": ErrConflict,
}

// stewardError is an error that the steward reported.
type stewardError struct {
	text  string
	cause error
}

func (e *stewardError) Error() string { return e.text }
func (e *stewardError) Unwrap() error { return e.cause }

// remote asks the steward, and does it itself where there is none.
type remote struct {
	conn   *Conn
	direct *local
}

var errNoSteward = errors.New("no steward")

func (r *remote) ask(ctx context.Context, s site, verb string, q stewardRequest) (stewardReply, error) {
	var reply stewardReply
	data, err := json.Marshal(q)
	if err != nil {
		return reply, fmt.Errorf("encode request to the steward: %w", err)
	}
	subject := s.control() + "." + verb
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	ctx, explain, stop := r.conn.waits.watch(ctx, subject)
	defer stop()
	msg, err := r.conn.nc.RequestWithContext(ctx, subject, data)
	if err = explain(err); err != nil {
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, ErrDenied) {
			return reply, errNoSteward
		}
		return reply, fmt.Errorf("ask the steward of site %q: %w", s.name, explainAPI(err))
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return reply, fmt.Errorf("decode the steward's answer: %w", err)
	}
	if reply.Error != "" {
		return reply, &stewardError{text: reply.Error, cause: codes[reply.Code]}
	}
	return reply, nil
}

func (r *remote) state(ctx context.Context, s site) (siteState, error) {
	reply, err := r.ask(ctx, s, verbState, stewardRequest{})
	if errors.Is(err, errNoSteward) {
		return r.direct.state(ctx, s)
	}
	return reply.State, err
}

func (r *remote) open(ctx context.Context, s site, o StreamOptions, floor pipeline.Position) (siteState, error) {
	reply, err := r.ask(ctx, s, verbOpen, stewardRequest{Options: o, At: floor})
	if errors.Is(err, errNoSteward) {
		return r.direct.open(ctx, s, o, floor)
	}
	return reply.State, err
}

func (r *remote) begin(ctx context.Context, s site, o StreamOptions, at pipeline.Position) (siteState, error) {
	reply, err := r.ask(ctx, s, verbBegin, stewardRequest{Options: o, At: at})
	if errors.Is(err, errNoSteward) {
		return r.direct.begin(ctx, s, o, at)
	}
	return reply.State, err
}

func (r *remote) reader(ctx context.Context, s site, q readRequest) (jetstream.Consumer, func(), error) {
	reply, err := r.ask(ctx, s, verbReader, stewardRequest{Read: q})
	if errors.Is(err, errNoSteward) {
		return r.direct.reader(ctx, s, q)
	}
	if err != nil {
		return nil, nil, err
	}
	js, prefix := r.conn.js, apiPrefix
	if reply.Prefix != "" {
		prefix = reply.Prefix
		if js, err = jetstream.NewWithAPIPrefix(r.conn.nc, prefix, jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
			return nil, nil, fmt.Errorf("read through %q: %w", prefix, err)
		}
	}
	ctx, explain, stop := r.conn.waits.watch(ctx, prefix)
	defer stop()
	consumer, err := js.Consumer(ctx, q.stream(s), reply.Consumer)
	if err != nil {
		return nil, nil, fmt.Errorf("look up the reader of stream %q: %w", q.stream(s), explainAPI(explain(err)))
	}
	return consumer, func() {}, nil // its name is used again
}

func (r *remote) appendOf(ctx context.Context, s site, at pipeline.Position) (string, error) {
	reply, err := r.ask(ctx, s, verbAppend, stewardRequest{At: at})
	if errors.Is(err, errNoSteward) {
		return r.direct.appendOf(ctx, s, at)
	}
	return reply.Append, err
}

// tidy asks for the site's unused large bodies to be collected soon.
func (r *remote) tidy(ctx context.Context, s site) error {
	_, err := r.ask(ctx, s, verbTidy, stewardRequest{})
	return err
}

// steward answers the requests of the sites' users.
type steward struct {
	conn *Conn
	log  *slog.Logger
	// slots bounds the requests at work.
	slots chan struct{}
	wg    sync.WaitGroup
	stop  context.CancelFunc
	ctx   context.Context //nolint:containedctx // the life of the service, ended by close

	// untidy are sites that ask for their large bodies to be collected. Who finds it full asks again.
	untidy chan string

	mu     sync.Mutex
	next   map[string]int // reader slot by site
	closed bool           // no more work is taken
}

const (
	stewardWorkers = 8
	stewardTimeout = 15 * time.Second
	sweepEvery     = 6 * time.Hour
	// tidyLeast is the least time between two collections that a site asks for.
	tidyLeast = 5 * time.Minute
)

func startSteward(conn *Conn, log *slog.Logger) (*steward, error) {
	ctx, cancel := context.WithCancel(context.Background())
	st := &steward{
		conn: conn, log: log, slots: make(chan struct{}, stewardWorkers),
		ctx: ctx, stop: cancel, next: make(map[string]int), untidy: make(chan string, stewardWorkers),
	}
	if _, err := conn.nc.Subscribe(pipeline.SubjectPrefix+".*.ctl.*", st.take); err != nil {
		cancel()
		return nil, fmt.Errorf("start the steward: %w", err)
	}
	st.wg.Go(st.sweep)
	return st, nil
}

// sweep collects the sites' unused large bodies now and then.
func (st *steward) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	asked := map[string]time.Time{}
	for {
		var err error
		select {
		case <-st.ctx.Done():
			return
		case <-ticker.C:
			clear(asked)
			err = st.sweepOnce(st.ctx)
		case name := <-st.untidy:
			if time.Since(asked[name]) < tidyLeast {
				continue
			}
			err = st.collect(st.ctx, name)
			asked[name] = time.Now()
		}
		if err != nil && st.ctx.Err() == nil {
			st.log.Warn("cannot collect unused large bodies", slog.Any(telemetry.KeyError, err))
		}
	}
}

func (st *steward) collect(ctx context.Context, siteName string) error {
	removed, err := st.conn.CollectClaims(ctx, siteName)
	if removed > 0 {
		st.log.Info("removed unused large bodies", slog.String(telemetry.KeySite, siteName), slog.Int(telemetry.KeyCount, removed))
	}
	return err
}

func (st *steward) sweepOnce(ctx context.Context) error {
	var sites []string
	err := st.conn.do(ctx, func(ctx context.Context) error {
		lister := st.conn.js.ListStreams(ctx)
		for info := range lister.Info() {
			name := info.Config.Metadata[metaSite]
			if info.Config.Name == siteOf(name).claims() && info.State.Msgs > 0 {
				sites = append(sites, name)
			}
		}
		return lister.Err()
	})
	for _, name := range sites {
		err = errors.Join(err, st.collect(ctx, name))
	}
	return err
}

// close ends the service and waits for the requests at work.
func (st *steward) close() error {
	st.stop()
	st.mu.Lock()
	st.closed = true
	st.mu.Unlock()
	st.wg.Wait()
	return st.conn.Close()
}

func (st *steward) take(msg *nats.Msg) {
	if msg.Reply == "" || strings.HasSuffix(msg.Subject, "."+verbVolumes) {
		return // an announcement, or nobody who waits; or not ours to answer
	}
	select {
	case st.slots <- struct{}{}:
	case <-st.ctx.Done():
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return
	}
	st.wg.Go(func() {
		defer func() { <-st.slots }()
		ctx, cancel := context.WithTimeout(st.ctx, stewardTimeout)
		defer cancel()
		reply, err := st.answer(ctx, msg)
		if err != nil {
			reply = stewardReply{Error: err.Error()}
			for code, known := range codes {
				if errors.Is(err, known) {
					reply.Code = code
				}
			}
		}
		data, err := json.Marshal(reply)
		if err == nil {
			err = msg.Respond(data)
		}
		if err != nil {
			st.log.Warn("cannot answer a request", slog.String(telemetry.KeyName, msg.Subject), slog.Any(telemetry.KeyError, err))
		}
	})
}

func (st *steward) answer(ctx context.Context, msg *nats.Msg) (reply stewardReply, err error) {
	tokens := strings.Split(msg.Subject, ".")
	if len(tokens) != 5 {
		return reply, fmt.Errorf("unknown request %q", msg.Subject)
	}
	name, err := pipeline.UnescapeToken(tokens[2])
	if err != nil || name == "" {
		return reply, fmt.Errorf("request %q names no site", msg.Subject)
	}
	var q stewardRequest
	if err := json.Unmarshal(msg.Data, &q); err != nil {
		return reply, fmt.Errorf("decode request %q: %w", msg.Subject, err)
	}
	if e := q.At.Epoch; e != "" && !validEpoch(e) {
		return reply, fmt.Errorf("request %q: %q is not an epoch", msg.Subject, e)
	}
	if e := q.Read.Epoch; e != "" && !validEpoch(e) {
		return reply, fmt.Errorf("request %q: %q is not an epoch", msg.Subject, e)
	}
	s, do := siteOf(name), st.conn.admin
	switch tokens[4] {
	case verbState:
		reply.State, err = do.state(ctx, s)
	case verbOpen:
		reply.State, err = do.open(ctx, s, q.Options, q.At)
	case verbBegin:
		reply.State, err = do.begin(ctx, s, q.Options, q.At)
	case verbReader:
		reply.Consumer, err = st.reader(ctx, s, q.Read)
		if msg.Header.Get(headerRequestInfo) != "" {
			reply.Prefix = sitePrefix // it came out of the site's account
		}
	case verbAppend:
		reply.Append, err = do.appendOf(ctx, s, q.At)
	case verbTidy:
		select {
		case st.untidy <- name:
		default:
		}
	case verbLink:
		if q.Link == nil {
			return reply, fmt.Errorf("request %q offers nothing", msg.Subject)
		}
		var answer linkReply
		answer, err = st.conn.direct.acceptLink(ctx, s, *q.Link)
		reply.Link = &answer
	default:
		err = fmt.Errorf("unknown request %q", msg.Subject)
	}
	return reply, err
}

// reader makes a reader under the next of the site's fixed names. Whoever held
// that name before loses it and asks again.
func (st *steward) reader(ctx context.Context, s site, q readRequest) (string, error) {
	st.mu.Lock()
	slot := st.next[s.name] % readerSlots
	st.next[s.name] = slot + 1
	st.mu.Unlock()
	cfg := q.config(s)
	readOnce(&cfg)
	cfg.Name = s.readerName(slot)
	err := st.conn.js.DeleteConsumer(ctx, q.stream(s), cfg.Name)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return "", fmt.Errorf("replace reader %q: %w", cfg.Name, explainAPI(err))
	}
	if _, err := st.conn.js.CreateConsumer(ctx, q.stream(s), cfg); err != nil {
		return "", fmt.Errorf("create reader %q: %w", cfg.Name, explainAPI(err))
	}
	return cfg.Name, nil
}
