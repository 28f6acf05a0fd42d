package rsync

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Stream is a secure duplex stream to the other end: package transfer/stream has one.
type Stream interface {
	io.ReadWriteCloser
	// CloseWrite ends the direction to the peer, which reads io.EOF after the data.
	CloseWrite() error
	// SetDeadline bounds reads and writes, the zero time unbounds them.
	SetDeadline(t time.Time) error
}

// The peer's messages begin with a kind and a length. What the destination sends
// after its request is bare.
type messageKind byte

const (
	messageRequest messageKind = iota + 1
	messageAnswer
	messageData
	messageExit
)

const (
	messageHeader = 4
	// maxData is the size of a data message: few enough calls, little enough memory.
	maxData = 256 << 10
	// maxText bounds every other message.
	maxText = 64 << 10
)

// Answer is what the source says to a request.
type answer struct {
	// Refused says why not; the other fields are empty then.
	Refused string `json:"refused,omitempty"`
	Version string `json:"version,omitempty"`
	// Used is how much of the source's volume is in use, if it is one of its own.
	Used usage `json:"used,omitzero"`
}

// exitMessage is the source's last word: how its rsync ended.
type exitMessage struct {
	Code     int      `json:"code"`
	Problems []string `json:"problems,omitempty"`
}

var errWire = errors.New("the peer does not speak this protocol")

// putMessageHeader writes the header of a message whose n bytes follow it.
func putMessageHeader(b []byte, k messageKind, n int) {
	binary.BigEndian.PutUint32(b, uint32(k)<<24|uint32(n)) //nolint:gosec // G115: at most maxData
}

// send writes a message that is a value.
func send(w io.Writer, k messageKind, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxText {
		return errWire
	}
	b := append(make([]byte, messageHeader), text...)
	putMessageHeader(b, k, len(text))
	_, err = w.Write(b)
	return err
}

// header reads the header of the next message.
func header(r *bufio.Reader) (messageKind, int, error) {
	var b [messageHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // it ends with an exit message, or not at all
		}
		return 0, 0, err
	}
	v := binary.BigEndian.Uint32(b[:])
	k, n := messageKind(v>>24), int(v&0xffffff)
	if k < messageRequest || k > messageExit || n > maxData || k != messageData && n > maxText {
		return 0, 0, errWire
	}
	return k, n, nil
}

// text reads the next message, which must be of kind k.
func text(r *bufio.Reader, k messageKind) ([]byte, error) {
	got, n, err := header(r)
	if err != nil {
		return nil, err
	}
	if got != k {
		return nil, errWire
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}

// value reads the next message, which must be of kind k, into v.
func value(r *bufio.Reader, k messageKind, v any) error {
	b, err := text(r, k)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errWire
	}
	return nil
}

// maxUnwanted is how much may still come when rsync takes no more: at its end a few
// bytes do, before the peer's last word. More means that it has died.
const maxUnwanted = 1 << 20

var errUnwanted = errors.New("rsync has ended before the data")

// receive copies data messages to w until the exit message.
func receive(r *bufio.Reader, w io.Writer) (exitMessage, error) {
	var exit exitMessage
	unwanted := 0
	for {
		k, n, err := header(r)
		if err != nil {
			return exit, fmt.Errorf("read what the source sends: %w", err)
		}
		switch k {
		case messageData:
			lost, err := copyData(w, r, n)
			if unwanted += lost; unwanted > maxUnwanted && err == nil {
				err = errUnwanted
			}
			if err != nil {
				return exit, fmt.Errorf("read what the source sends: %w", err)
			}
		case messageExit:
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				return exit, fmt.Errorf("read how the source ended: %w", err)
			}
			if err := json.Unmarshal(b, &exit); err != nil {
				return exit, errWire
			}
			return exit, nil
		case messageRequest, messageAnswer:
			return exit, errWire
		}
	}
}

// copyData copies n bytes as they come in, and returns how many w did not take.
func copyData(w io.Writer, r *bufio.Reader, n int) (lost int, err error) {
	for n > 0 {
		if _, err := r.Peek(1); err != nil {
			return lost, err
		}
		b, err := r.Peek(min(n, r.Buffered()))
		if err != nil {
			return lost, err
		}
		if m, err := w.Write(b); err != nil {
			lost += len(b) - m
		}
		n -= len(b)
		_, _ = r.Discard(len(b)) // they are buffered
	}
	return lost, nil
}
