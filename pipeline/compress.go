package pipeline

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// MaxBody is the largest body an Event may have, in bytes; the API server's
	// own limit on objects is well below it.
	MaxBody = 16 << 20
	// compressAbove is the size of a body from which compression is tried.
	compressAbove = 64 << 10

	encodingZstd = "zstd"
	// zstdWindow bounds what one compression or decompression keeps in memory
	// beside the body itself.
	zstdWindow = 1 << 20
)

// encoder and decoder hold no goroutines and are safe for concurrent use.
var (
	encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true))
	})
	decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil,
			zstd.WithDecoderMaxMemory(MaxBody),
			zstd.WithDecoderLowmem(true))
	})
)

// deflate returns body as it is to be stored, and its content encoding. Small
// bodies and those that do not shrink stay as they are.
func deflate(body []byte) (data []byte, encoding string) {
	if len(body) <= compressAbove {
		return body, ""
	}
	z, err := encoder()
	if err != nil {
		return body, ""
	}
	if data := z.EncodeAll(body, make([]byte, 0, len(body)/2)); len(data) < len(body) {
		return data, encodingZstd
	}
	return body, ""
}

// inflate undoes deflate for data that may be hostile: it never returns, nor
// allocates, much more than MaxBody.
func inflate(data []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		if len(data) > MaxBody {
			return nil, fmt.Errorf("the body has %d bytes", len(data))
		}
		return data, nil
	case encodingZstd:
		z, err := decoder()
		if err != nil {
			return nil, fmt.Errorf("start decompression: %w", err)
		}
		body, err := z.DecodeAll(data, nil)
		if err != nil {
			return nil, fmt.Errorf("decompress the body: %w", err)
		}
		if len(body) > MaxBody {
			return nil, errors.New("the body is too large")
		}
		return body, nil
	default:
		return nil, fmt.Errorf("unknown content encoding %q", encoding)
	}
}
