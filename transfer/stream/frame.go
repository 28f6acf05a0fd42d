package stream

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// frameType says what a frame of the relay is for. Every frame carries its
// sender's state, whatever it is for.
type frameType uint8

const (
	frameOpen   frameType = iota + 1 // the destination asks for the stream
	frameState                       // the state only: credit, acknowledgement, heartbeat
	frameData                        // payload at offset
	frameRewind                      // send again from ack on: something is missing
	frameFin                         // the direction ends at offset
	frameReset                       // the stream is gone
	frameLast   = frameReset
)

// frame is one message of the relay.
type frame struct {
	kind  frameType
	epoch uint64
	// offset is where the payload begins; without payload, up to where the
	// sender has sent, one more when it has sent the end too.
	offset uint64
	// ack is up to where the sender has received, one more when it has the end too.
	ack uint64
	// credit is up to where the peer may send.
	credit  uint64
	payload []byte
}

const (
	frameVersion = 1
	// version, kind, 2 reserved, length, checksum, epoch, offset, ack, credit
	headerSize = 4 + 4 + 4 + 8*4
	// maxPayload leaves a frame below NATS's default limit, and small enough for other
	// traffic to come between.
	maxPayload = 128<<10 - headerSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFrame = errors.New("not a frame of the relay")

// putHeader writes the header of a frame into b, whose payload is in its place already.
func putHeader(b []byte, f frame) {
	b[0], b[1], b[2], b[3] = frameVersion, byte(f.kind), 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-headerSize)) //nolint:gosec // G115: at most maxPayload
	binary.BigEndian.PutUint64(b[12:], f.epoch)
	binary.BigEndian.PutUint64(b[20:], f.offset)
	binary.BigEndian.PutUint64(b[28:], f.ack)
	binary.BigEndian.PutUint64(b[36:], f.credit)
	binary.BigEndian.PutUint32(b[8:], checksum(b))
}

// checksum is of all of the frame but itself. TLS inside finds what was tampered
// with; this finds what was damaged, before it costs the stream.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[12:])
}

// encodeFrame is the wire form of f.
func encodeFrame(f frame) []byte {
	b := append(make([]byte, headerSize), f.payload...)
	putHeader(b, f)
	return b
}

// parseFrame reads a frame. Its payload is a part of b.
func parseFrame(b []byte) (frame, error) {
	if len(b) < headerSize || len(b) > headerSize+maxPayload || b[0] != frameVersion || b[2] != 0 || b[3] != 0 {
		return frame{}, errFrame
	}
	f := frame{
		kind:    frameType(b[1]),
		epoch:   binary.BigEndian.Uint64(b[12:]),
		offset:  binary.BigEndian.Uint64(b[20:]),
		ack:     binary.BigEndian.Uint64(b[28:]),
		credit:  binary.BigEndian.Uint64(b[36:]),
		payload: b[headerSize:],
	}
	switch {
	case f.kind == 0 || f.kind > frameLast,
		(f.kind == frameData) != (len(f.payload) > 0),
		binary.BigEndian.Uint32(b[4:]) != uint32(len(f.payload)), //nolint:gosec // G115: at most maxPayload
		binary.BigEndian.Uint32(b[8:]) != checksum(b),
		f.offset+uint64(len(f.payload)) < f.offset:
		return frame{}, errFrame
	}
	return f, nil
}
