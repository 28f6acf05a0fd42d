package pipeline

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// The file of a snapshot is one zstd stream of lines, so that "zstd -dc" shows it:
//
//	{"snapshot":1,"site":"nyc"}
//	{"position":{...},"op":"put","resource":"configmaps",...,"bytes":57}
//	{"apiVersion":"v1","kind":"ConfigMap",...}
//	...
//	{"end":{...the manifest...}}
//
// After the line of a record stand as many bytes of body as it says, and a line
// feed; without bytes there is no body. The records stand in the order of their
// positions. When the log stored them is not kept, since one of its streams says it
// differently from another: a record that is read back has the time of observation. Text that is not printable ASCII, and '"', '%' and spaces in it, are
// percent-encoded as in the wire form.
const (
	// maxSnapshotLine bounds a line that is no body.
	maxSnapshotLine = 64 << 10
	snapshotWindow  = 4 << 20
	snapshotBuffer  = 256 << 10
)

// snapshotLine is any line of the file that is not a body. The fields of one sort
// of line are set.
type snapshotLine struct {
	Snapshot int    `json:"snapshot,omitempty"`
	Site     string `json:"site,omitempty"`

	Position    *Position  `json:"position,omitempty"`
	Op          Op         `json:"op,omitempty"`
	Evidence    string     `json:"evidence,omitempty"`
	Group       string     `json:"group,omitempty"`
	Resource    string     `json:"resource,omitempty"`
	Namespace   string     `json:"namespace,omitempty"`
	Name        string     `json:"name,omitempty"`
	UID         string     `json:"uid,omitempty"`
	Version     string     `json:"version,omitempty"`
	APIVersion  string     `json:"apiVersion,omitempty"`
	Kind        string     `json:"kind,omitempty"`
	Observed    *time.Time `json:"observed,omitempty"`
	Manager     string     `json:"manager,omitempty"`
	TraceParent string     `json:"traceParent,omitempty"`
	TraceState  string     `json:"traceState,omitempty"`
	Bytes       int        `json:"bytes,omitempty"`

	End *Manifest `json:"end,omitempty"`
}

func lineOf(r Record) snapshotLine {
	observed := r.Observed.UTC()
	return snapshotLine{
		Position: &r.Position, Op: r.Op, Evidence: r.Evidence.String(),
		Group: percentEncode(r.Ref.Group), Resource: percentEncode(r.Ref.Resource),
		Namespace: percentEncode(r.Ref.Namespace), Name: percentEncode(r.Ref.Name),
		UID: percentEncode(r.UID), Version: percentEncode(r.Version),
		APIVersion: percentEncode(r.APIVersion), Kind: percentEncode(r.Kind),
		Observed: &observed, Manager: percentEncode(r.Manager),
		TraceParent: r.Trace.Parent, TraceState: r.Trace.State, Bytes: len(r.Body),
	}
}

// record is the inverse of lineOf, but for the body.
func (l *snapshotLine) record(site string) (Record, error) {
	if l.Position == nil || l.Observed == nil {
		return Record{}, errors.New("a record has no position or no time")
	}
	r := Record{Position: *l.Position, Stored: l.Observed.UTC()}
	r.Ref.Site, r.Op, r.Observed = site, l.Op, r.Stored
	var err error
	if r.Evidence, err = parseEvidence(l.Evidence); err != nil {
		return r, err
	}
	for _, f := range [...]struct {
		to   *string
		from string
	}{
		{&r.Ref.Group, l.Group},
		{&r.Ref.Resource, l.Resource},
		{&r.Ref.Namespace, l.Namespace},
		{&r.Ref.Name, l.Name},
		{&r.UID, l.UID},
		{&r.Version, l.Version},
		{&r.APIVersion, l.APIVersion},
		{&r.Kind, l.Kind},
		{&r.Manager, l.Manager},
	} {
		if *f.to, err = percentDecode(f.from); err != nil {
			return r, err
		}
	}
	if traceable(l.TraceParent) {
		r.Trace = telemetry.TraceContext{Parent: l.TraceParent}
		if traceable(l.TraceState) {
			r.Trace.State = l.TraceState
		}
	}
	if l.Bytes < 0 || l.Bytes > MaxBody {
		return r, fmt.Errorf("a body of %d bytes", l.Bytes)
	}
	return r, nil
}

// SnapshotWriter writes the file of one snapshot. It is for one goroutine.
type SnapshotWriter struct {
	out      *zstd.Encoder
	size     *countingWriter
	contents contents
	line     bytes.Buffer
	encoder  *json.Encoder
}

// NewSnapshotWriter begins the file of a snapshot of the site. What it writes means
// nothing without Close.
func NewSnapshotWriter(w io.Writer, site string) (*SnapshotWriter, error) {
	s := &SnapshotWriter{size: &countingWriter{to: w}, contents: contentsOf(site)}
	s.encoder = json.NewEncoder(&s.line)
	s.encoder.SetEscapeHTML(false)
	var err error
	if s.out, err = zstd.NewWriter(s.size, zstd.WithWindowSize(snapshotWindow), zstd.WithEncoderConcurrency(2)); err != nil {
		return nil, fmt.Errorf("write snapshot of site %q: %w", site, err)
	}
	if err := s.write(snapshotLine{Snapshot: SnapshotFormat, Site: percentEncode(site)}); err != nil {
		return nil, fmt.Errorf("write snapshot of site %q: %w", site, err)
	}
	return s, nil
}

// Add writes a record: of the site, with its body, after all records before it.
func (s *SnapshotWriter) Add(r Record) error {
	if err := s.add(r); err != nil {
		return fmt.Errorf("write %s into the snapshot: %w", r.Ref, err)
	}
	return nil
}

func (s *SnapshotWriter) add(r Record) error {
	if r.Ref.Site != s.contents.site {
		return fmt.Errorf("it is not of site %q", s.contents.site)
	}
	if err := check(r.Event); err != nil {
		return err
	}
	if err := s.write(lineOf(r)); err != nil {
		return err
	}
	if err := s.contents.add(r, s.line.Bytes(), r.Body); err != nil || len(r.Body) == 0 {
		return err
	}
	if _, err := s.out.Write(r.Body); err != nil {
		return err
	}
	_, err := s.out.Write([]byte{'\n'})
	return err
}

func (s *SnapshotWriter) write(l snapshotLine) error {
	s.line.Reset()
	if err := s.encoder.Encode(l); err != nil {
		return err
	}
	if s.line.Len() > maxSnapshotLine {
		return fmt.Errorf("its line has %d bytes: %w", s.line.Len(), ErrTooLarge)
	}
	_, err := s.out.Write(s.line.Bytes())
	return err
}

// Close ends the file as the state at a moment, none of whose records is later, and
// returns its manifest. created is now.
func (s *SnapshotWriter) Close(at Moment, created time.Time) (Manifest, error) {
	m, err := s.contents.manifest(at, created)
	if err == nil {
		err = s.write(snapshotLine{End: &m})
	}
	if err := errors.Join(err, s.out.Close()); err != nil {
		return Manifest{}, fmt.Errorf("write the end of the snapshot of site %q: %w", s.contents.site, err)
	}
	m.Size = s.size.n
	return m, nil
}

// countingWriter counts what it passes on.
type countingWriter struct {
	to io.Writer
	n  int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.n += int64(n)
	return n, err
}

// SnapshotReader reads the file of a snapshot, which may be hostile: memory stays
// bounded, and what is not as SnapshotWriter wrote it is ErrDamaged. It is for
// one goroutine.
type SnapshotReader struct {
	zip      *zstd.Decoder
	in       *bufio.Reader
	size     *countingReader
	contents contents
	manifest Manifest
	err      error // io.EOF after a good end
}

// ReadSnapshot begins to read a file. Close the reader.
func ReadSnapshot(r io.Reader) (*SnapshotReader, error) {
	s := &SnapshotReader{size: &countingReader{from: r}}
	var err error
	s.zip, err = zstd.NewReader(s.size, zstd.WithDecoderMaxWindow(snapshotWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	s.in = bufio.NewReaderSize(s.zip, snapshotBuffer)
	l, _, err := s.next()
	if err == nil {
		switch site, badSite := percentDecode(l.Site); {
		case l.Snapshot == 0 || badSite != nil || site == "":
			err = errors.New("it does not begin as one")
		case l.Snapshot != SnapshotFormat:
			err = fmt.Errorf("it has format %d, this version reads format %d", l.Snapshot, SnapshotFormat)
		default:
			s.contents = contentsOf(site)
		}
	}
	if err != nil {
		s.Close()
		return nil, s.damaged(err)
	}
	return s, nil
}

// Site is whose state it is.
func (s *SnapshotReader) Site() string { return s.contents.site }

// Next returns the next record. After the last it returns io.EOF if the whole file
// is what was written, else an error.
func (s *SnapshotReader) Next() (Record, error) {
	if s.err != nil {
		return Record{}, s.err
	}
	l, line, err := s.next()
	if err == nil && l.End != nil {
		if err = s.end(*l.End); err == nil {
			s.err = io.EOF
			return Record{}, io.EOF
		}
	}
	var r Record
	if err == nil {
		r, err = s.record(l, line)
	}
	if err != nil {
		s.err = s.damaged(err)
		return Record{}, s.err
	}
	return r, nil
}

func (s *SnapshotReader) record(l snapshotLine, line []byte) (Record, error) {
	r, err := l.record(s.contents.site)
	if err != nil {
		return r, err
	}
	// Hashed before anything else is read: line is overwritten then.
	if err := s.contents.add(r, line, nil); err != nil {
		return r, err
	}
	if l.Bytes > 0 {
		if r.Body, err = s.body(l.Bytes); err != nil {
			return r, err
		}
		s.contents.sum.Write(r.Body)
		r.Digest = DigestOf(r.Body)
	}
	return r, check(r.Event)
}

// body reads a body and its line feed. It allocates no more than there is.
func (s *SnapshotReader) body(n int) ([]byte, error) {
	var body []byte
	if n <= snapshotBuffer {
		body = make([]byte, n)
		if _, err := io.ReadFull(s.in, body); err != nil {
			return nil, err
		}
	} else {
		var b bytes.Buffer
		if _, err := io.CopyN(&b, s.in, int64(n)); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	if c, err := s.in.ReadByte(); err != nil || c != '\n' {
		return nil, errors.Join(errors.New("a body does not end where it should"), err)
	}
	return body, nil
}

// end checks the last line against what was read.
func (s *SnapshotReader) end(claimed Manifest) error {
	found, err := s.contents.manifest(claimed.Moment, claimed.Created)
	if err != nil {
		return err
	}
	if found.Digest != claimed.Digest || found.Records != claimed.Records || found.Name != claimed.Name || found.Site != claimed.Site {
		return fmt.Errorf("it has %d records with digest %s, and says %d with %s", found.Records, found.Digest, claimed.Records, claimed.Digest)
	}
	if _, err := s.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("something stands after its end"), err)
	}
	s.manifest = found
	s.manifest.Size = s.size.n
	return nil
}

// Manifest describes the file, as it was found; it is zero until Next returned io.EOF.
func (s *SnapshotReader) Manifest() Manifest { return s.manifest }

// Close gives back what reading took; the file itself is not closed. It may be repeated.
func (s *SnapshotReader) Close() { s.zip.Close() }

// next reads one line. It is valid until the next read.
func (s *SnapshotReader) next() (l snapshotLine, line []byte, err error) {
	line, err = s.in.ReadSlice('\n')
	if err == nil && len(line) > maxSnapshotLine {
		err = bufio.ErrBufferFull
	}
	if err == nil {
		err = json.Unmarshal(line, &l)
	}
	return l, line, err
}

func (s *SnapshotReader) damaged(err error) error {
	if s.size.err != nil && !errors.Is(s.size.err, io.EOF) {
		return fmt.Errorf("read the snapshot: %w", s.size.err)
	}
	if errors.Is(err, io.EOF) { // which Next says of a good end only
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// countingReader counts what it passes on, and keeps its failure.
type countingReader struct {
	from io.Reader
	n    int64
	err  error
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.n += int64(n)
	if err != nil {
		r.err = err
	}
	return n, err
}
