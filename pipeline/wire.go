package pipeline

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Message is an Event as it travels: CloudEvents 1.0 in binary mode with
// headers of our own beside, so that any CloudEvents consumer can read the log.
type Message struct {
	Subject string
	// Header keys stand exactly as written, without canonicalization.
	Header map[string][]string
	// Data is the body, compressed if the header says so.
	Data []byte
}

// Headers of a Message. HeaderID is the same whenever the same Event is
// encoded, so that a log may use it to tell a repetition.
const (
	HeaderSpecVersion = "ce-specversion"
	HeaderID          = "ce-id"
	HeaderSource      = "ce-source"
	HeaderType        = "ce-type"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"

	HeaderContentType     = "content-type"
	HeaderContentEncoding = "content-encoding"

	HeaderUID        = "Drs-Uid"
	HeaderVersion    = "Drs-Version"
	HeaderAPIVersion = "Drs-Api-Version"
	HeaderKind       = "Drs-Kind"
	HeaderEvidence   = "Drs-Evidence"
	HeaderManager    = "Drs-Manager"
	HeaderDigest     = "Drs-Digest"

	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
)

const (
	specVersion     = "1.0"
	typePrefix      = "io.dr-syncer."
	sourcePrefix    = "/sites/"
	contentTypeJSON = "application/json"

	// maxHeaderValue bounds every header that is read, in bytes.
	maxHeaderValue = 4 << 10
	// maxSubject bounds subjects, in bytes: a NATS protocol line has 4 KiB.
	maxSubject = 3 << 10
	// maxTrace bounds the trace headers: W3C asks for 512 characters of state.
	maxTrace = 1 << 10
)

// Encode writes e in the wire form. It refuses an Event that Decode would not
// take back: an unknown Op, missing identity, evidence where none belongs, a
// digest that is not the body's. A body above MaxBody is ErrTooLarge. Every error
// is of class Malformed: the same Event is refused again.
func Encode(e Event) (Message, error) {
	m, err := encode(e)
	if err != nil {
		return Message{}, WithClass(Malformed, fmt.Errorf("encode event of %s: %w", e.Ref, err))
	}
	return m, nil
}

func encode(e Event) (Message, error) {
	if err := check(e); err != nil {
		return Message{}, err
	}
	if len(e.Body) > 0 && DigestOf(e.Body) != e.Digest {
		return Message{}, errors.New("digest is not that of the body")
	}
	var room [1 << 10]byte // on the stack
	h := headerText{text: appendSubjectOf(room[:0], &e)}
	m := Message{Subject: string(h.text)}
	if len(m.Subject) > maxSubject {
		return Message{}, fmt.Errorf("subject has %d bytes: %w", len(m.Subject), ErrTooLarge)
	}
	h.text = h.text[:0]
	h.set(HeaderSpecVersion, specVersion)
	h.text = appendMessageID(h.text, &e)
	h.end(HeaderID)
	h.text = appendToken(append(h.text, sourcePrefix...), e.Ref.Site)
	h.end(HeaderSource)
	h.text = append(append(h.text, typePrefix...), e.Op.String()...)
	h.end(HeaderType)
	h.text = appendCloudSubject(h.text, &e)
	h.end(HeaderSubject)
	var err error
	if h.text, err = e.Observed.UTC().AppendText(h.text); err != nil {
		return Message{}, fmt.Errorf("observed: %w", err)
	}
	h.end(HeaderTime)
	for _, f := range textFields(&e) {
		h.text = appendPercent(h.text, *f.value)
		h.end(f.header)
	}
	if e.Op == OpDelete {
		h.set(HeaderEvidence, e.Evidence.String())
	}
	if traceable(e.Trace.Parent) {
		h.set(HeaderTraceParent, e.Trace.Parent)
		if traceable(e.Trace.State) {
			h.set(HeaderTraceState, e.Trace.State)
		}
	}
	if len(e.Body) > 0 {
		h.text = hex.AppendEncode(h.text, e.Digest[:])
		h.end(HeaderDigest)
		h.set(HeaderContentType, contentTypeJSON)
		var encoding string
		m.Data, encoding = deflate(e.Body)
		h.set(HeaderContentEncoding, encoding)
	}
	m.Header, err = h.header()
	return m, err
}

// headerText gathers the values of headers side by side: one allocation for all.
type headerText struct {
	text []byte
	ends [maxHeaders]struct {
		key string
		at  int
	}
	count int
}

// maxHeaders is how many headers a message has at most.
const maxHeaders = 17

// set adds a header. An empty value is none.
func (h *headerText) set(key, value string) {
	h.text = append(h.text, value...)
	h.end(key)
}

// end makes a header of what was appended to the text since the one before.
func (h *headerText) end(key string) {
	begin := 0
	if h.count > 0 {
		begin = h.ends[h.count-1].at
	}
	if len(h.text) > begin {
		h.ends[h.count].key, h.ends[h.count].at = key, len(h.text)
		h.count++
	}
}

// header is what was gathered, with room for what a log adds.
func (h *headerText) header() (map[string][]string, error) {
	text, begin := string(h.text), 0
	values := make([]string, h.count)
	header := make(map[string][]string, maxHeaders+7)
	for i, end := range h.ends[:h.count] {
		if size := end.at - begin; size > maxHeaderValue {
			return nil, fmt.Errorf("%s has %d bytes: %w", end.key, size, ErrTooLarge)
		}
		values[i] = text[begin:end.at]
		header[end.key] = values[i : i+1 : i+1]
		begin = end.at
	}
	return header, nil
}

// Decode reads a message that Encode wrote. Whatever else it is handed, it
// returns an error that wraps ErrForeign, after bounded work and memory. The
// Event may share m's Data.
func Decode(m Message) (Event, error) {
	e, err := decodeHeaders(m)
	if err != nil {
		return Event{}, foreign(m, err)
	}
	if !e.hasBody() {
		if len(m.Data) > 0 {
			return Event{}, foreign(m, fmt.Errorf("a %s has no body, this one has %d bytes", e.Op, len(m.Data)))
		}
		return e, nil
	}
	encoding, err := header(m, HeaderContentEncoding)
	if err != nil {
		return Event{}, foreign(m, err)
	}
	if e.Body, err = inflate(m.Data, encoding); err != nil {
		return Event{}, foreign(m, err)
	}
	if len(e.Body) == 0 {
		return Event{}, foreign(m, errors.New("the body is missing"))
	}
	if DigestOf(e.Body) != e.Digest {
		return Event{}, foreign(m, errors.New("the body does not match its digest"))
	}
	return e, nil
}

// DecodeHeaders is Decode for messages that were read without their data: Body
// stays nil and m.Data is not looked at.
func DecodeHeaders(m Message) (Event, error) {
	e, err := decodeHeaders(m)
	if err != nil {
		return Event{}, foreign(m, err)
	}
	return e, nil
}

func foreign(m Message, err error) error {
	const enough = 256
	subject := m.Subject
	if len(subject) > enough {
		subject = subject[:enough] + "..."
	}
	return fmt.Errorf("%w: message on %q: %w", ErrForeign, subject, err)
}

// check refuses events that are not well formed.
func check(e Event) error {
	switch e.Op {
	case OpPut, OpHeartbeat:
		if len(e.Body) == 0 {
			return errors.New("the body is missing")
		}
		if len(e.Body) > MaxBody {
			return fmt.Errorf("the body has %d bytes: %w", len(e.Body), ErrTooLarge)
		}
	case OpDelete, OpRelease:
		if len(e.Body) > 0 || e.Digest != (Digest{}) {
			return fmt.Errorf("a %s has neither body nor digest", e.Op)
		}
	default:
		return fmt.Errorf("unknown operation %s", e.Op)
	}
	return checkHeaders(e)
}

// checkHeaders is the part of check that needs no body.
func checkHeaders(e Event) error {
	if known := e.Evidence >= EvidenceWatch && e.Evidence <= EvidenceEmptied; known != (e.Op == OpDelete) || e.Evidence > EvidenceEmptied {
		return fmt.Errorf("evidence %q does not go with a %s", e.Evidence, e.Op)
	}
	if e.Ref.Site == "" {
		return errors.New("the site is missing")
	}
	if e.Op == OpHeartbeat {
		if e.Ref != (Ref{Site: e.Ref.Site}) {
			return errors.New("a heartbeat names no object")
		}
		if e.UID != "" || e.Version != "" || e.APIVersion != "" || e.Kind != "" || e.Manager != "" {
			return errors.New("a heartbeat describes no object")
		}
		return nil
	}
	switch {
	case e.Ref.Resource == "" || e.Ref.Name == "":
		return errors.New("resource and name must not be empty")
	case e.UID == "":
		return errors.New("the UID is missing")
	case e.Version == "":
		return errors.New("the resource version is missing")
	case e.Op == OpPut && (e.APIVersion == "" || e.Kind == ""):
		return errors.New("API version and kind of the body are missing")
	}
	return nil
}

// textField is a header that holds a string of the Event.
type textField struct {
	header string
	value  *string
}

func textFields(e *Event) [5]textField {
	return [...]textField{
		{HeaderUID, &e.UID},
		{HeaderVersion, &e.Version},
		{HeaderAPIVersion, &e.APIVersion},
		{HeaderKind, &e.Kind},
		{HeaderManager, &e.Manager},
	}
}

// decodeHeaders reads all but the body, and checks that everything said twice
// is said the same way.
func decodeHeaders(m Message) (Event, error) {
	h := reader{m: m}
	e := Event{Ref: h.ref(), Op: h.op()}
	e.Evidence = read(&h, HeaderEvidence, parseEvidence)
	e.Observed = read(&h, HeaderTime, parseTime)
	for _, f := range textFields(&e) {
		*f.value = read(&h, f.header, percentDecode)
	}
	if e.hasBody() {
		e.Digest = read(&h, HeaderDigest, ParseDigest)
		h.want(HeaderContentType, contentTypeJSON)
	} else {
		h.want(HeaderDigest, "")
	}
	h.want(HeaderSpecVersion, specVersion)
	h.want(HeaderSource, sourcePrefix+EscapeToken(e.Ref.Site))
	h.want(HeaderSubject, string(appendCloudSubject(nil, &e)))
	h.want(HeaderID, string(appendMessageID(nil, &e)))
	if h.err != nil {
		return Event{}, h.err
	}
	if m.Subject != string(appendSubjectOf(nil, &e)) {
		return Event{}, fmt.Errorf("a %s has no place on this subject", e.Op)
	}
	if err := checkHeaders(e); err != nil {
		return Event{}, err
	}
	e.Trace = trace(m)
	return e, nil
}

// reader reads the parts of a message and keeps the first error; after it, what
// is read means nothing.
type reader struct {
	m   Message
	err error
}

// read parses one header.
func read[T any](r *reader, key string, parse func(string) (T, error)) T {
	text, err := header(r.m, key)
	v := *new(T)
	if err == nil {
		v, err = parse(text)
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("header %s: %w", key, err)
	}
	return v
}

// want reads a header that can have one value only.
func (r *reader) want(key, value string) {
	read(r, key, func(text string) (string, error) {
		if text != value {
			return "", fmt.Errorf("is %q where %q belongs", text, value)
		}
		return text, nil
	})
}

// ref reads the subject: a heartbeat's Ref names only the site.
func (r *reader) ref() Ref {
	ref, err := parseSubject(r.m.Subject)
	if err != nil && r.err == nil {
		r.err = err
	}
	return ref
}

func (r *reader) op() Op {
	return read(r, HeaderType, func(text string) (Op, error) {
		name, ok := strings.CutPrefix(text, typePrefix)
		if !ok {
			return 0, fmt.Errorf("unknown type %q", text)
		}
		return parseOp(name)
	})
}

// parseTime reads a time in UTC.
func parseTime(text string) (time.Time, error) {
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return t, err
	}
	return t.UTC(), nil
}

// trace reads the trace headers. A broken trace is no trace: it never makes an
// event unreadable.
func trace(m Message) telemetry.TraceContext {
	parent, err := header(m, HeaderTraceParent)
	if err != nil || !traceable(parent) {
		return telemetry.TraceContext{}
	}
	t := telemetry.TraceContext{Parent: parent}
	if state, err := header(m, HeaderTraceState); err == nil && traceable(state) {
		t.State = state
	}
	return t
}

// traceable reports whether s can be a trace header as it is.
func traceable(s string) bool {
	if s == "" || len(s) > maxTrace || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// header returns the only value of a header, or "".
func header(m Message, key string) (string, error) {
	values := m.Header[key]
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", fmt.Errorf("it has %d values", len(values))
	case len(values[0]) > maxHeaderValue:
		return "", fmt.Errorf("it has %d bytes", len(values[0]))
	}
	return values[0], nil
}

func (e Event) hasBody() bool { return e.Op == OpPut || e.Op == OpHeartbeat }

func appendSubjectOf(b []byte, e *Event) []byte {
	if e.Op == OpHeartbeat {
		return append(b, HeartbeatSubject(e.Ref.Site)...)
	}
	return e.Ref.appendSubject(b)
}

// parseSubject tells whose subject it is: an object's, or a site's for
// heartbeats.
func parseSubject(subject string) (Ref, error) {
	if len(subject) > maxSubject {
		return Ref{}, fmt.Errorf("%w: it has %d bytes", ErrSubject, len(subject))
	}
	rest, ours := strings.CutPrefix(subject, SubjectPrefix+".")
	token, mark := strings.CutSuffix(rest, heartbeatSuffix)
	if !ours || !mark {
		return ParseRef(subject)
	}
	site, err := UnescapeToken(token)
	if err != nil || site == "" {
		return Ref{}, fmt.Errorf("%w: %q", ErrSubject, subject)
	}
	return Ref{Site: site}, nil
}

// appendMessageID appends the name of the Event among all events of its source.
func appendMessageID(b []byte, e *Event) []byte {
	if e.Op == OpHeartbeat {
		return e.Observed.UTC().AppendFormat(append(appendPercent(b, e.Ref.Site), '/'), time.RFC3339Nano)
	}
	b = append(appendPercent(b, e.UID), '/')
	b = append(appendPercent(b, e.Version), '/')
	return append(b, e.Op.String()...)
}

// appendCloudSubject appends the CloudEvents subject: the object as people write it.
func appendCloudSubject(b []byte, e *Event) []byte {
	if e.Op == OpHeartbeat {
		return append(b, e.Op.String()...)
	}
	for _, part := range [...]string{e.Ref.Group, e.Ref.Resource, e.Ref.Namespace} {
		if part != "" {
			b = append(appendPercent(b, part), '/')
		}
	}
	return appendPercent(b, e.Ref.Name)
}

// percentEncode makes any string a header value the way the CloudEvents
// bindings ask for: bytes outside printable ASCII, space, '"' and '%' become %XX.
func percentEncode(s string) string {
	n := escapes(s)
	if n == 0 {
		return s
	}
	return string(appendPercent(make([]byte, 0, len(s)+2*n), s))
}

func appendPercent(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; mustPercent(c) {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// escapes counts the bytes of s that need an escape.
func escapes(s string) int {
	n := 0
	for i := range len(s) {
		if mustPercent(s[i]) {
			n++
		}
	}
	return n
}

func mustPercent(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }

// percentDecode is the inverse of percentEncode and takes only what that writes.
func percentDecode(s string) (string, error) {
	if escapes(s) == 0 {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		c, err := unhex(s[i+1:])
		if err != nil {
			return "", err
		}
		b = append(b, c)
		i += 2
	}
	if percentEncode(string(b)) != s {
		return "", errors.New("value is not in its only form")
	}
	return string(b), nil
}
