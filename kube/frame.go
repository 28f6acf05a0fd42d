package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	frameBuffer = 16 << 10
	// frameLimit is far above what an API server stores (3 MiB requests) and
	// bounds what a broken peer can make us hold.
	frameLimit = 64 << 20
)

// errFrame reports a stream of something else than JSON objects.
var errFrame = errors.New("the stream is not a sequence of JSON objects")

// frameReader cuts a stream into JSON objects without decoding them. Objects
// may follow each other with or without white space.
type frameReader struct {
	r          io.Reader
	buf        []byte
	start, end int // what is read and not yet returned
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: r, buf: make([]byte, frameBuffer)}
}

// next returns the next object; it is good until the next call. It returns io.EOF
// at an end between objects and io.ErrUnexpectedEOF at an end within one.
func (f *frameReader) next() ([]byte, error) {
	var (
		pos      = f.start
		depth    int
		inString bool
		opened   int // where the present string's text starts
	)
	for {
		for pos < f.end {
			if inString {
				i := bytes.IndexByte(f.buf[pos:f.end], '"')
				if i < 0 {
					pos = f.end
					break
				}
				pos += i + 1
				inString = escaped(f.buf[opened : pos-1])
				continue
			}
			c := f.buf[pos]
			pos++
			switch c {
			case '"':
				inString, opened = true, pos
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					frame := f.buf[f.start:pos]
					f.start = pos
					return frame, nil
				}
			case ' ', '\n', '\t', '\r':
				if depth == 0 {
					f.start = pos
				}
			}
			if depth <= 0 && (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
				return nil, errFrame
			}
		}
		shift, err := f.fill()
		pos -= shift
		opened -= shift
		if errors.Is(err, io.EOF) && depth > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
}

// escaped reports whether a quote after text is escaped: an odd number of backslashes precedes it.
func escaped(text []byte) bool {
	n := 0
	for n < len(text) && text[len(text)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// fill reads more. What is pending moves to the buffer's front, by shift bytes.
func (f *frameReader) fill() (shift int, err error) {
	pending := f.end - f.start
	switch {
	case pending == 0 && len(f.buf) > 16*frameBuffer:
		shift = f.start
		f.buf = make([]byte, frameBuffer) // a huge object has passed
	case f.start > 0:
		shift = f.start
		copy(f.buf, f.buf[f.start:f.end])
	case f.end == len(f.buf):
		if len(f.buf) >= frameLimit {
			return 0, fmt.Errorf("%w: an object of more than %d bytes", errFrame, frameLimit)
		}
		bigger := make([]byte, 2*len(f.buf))
		copy(bigger, f.buf[:f.end])
		f.buf = bigger
	}
	f.start, f.end = 0, pending
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return shift, nil // an error comes again at the next read
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return shift, err
}
