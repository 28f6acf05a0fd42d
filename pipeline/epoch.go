package pipeline

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// NextEpoch returns a new epoch's name: a ULID of the given time that compares
// greater than the epoch before, whatever the clock did. before is empty for
// the first epoch.
func NextEpoch(before string, now time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make epoch: %w", err)
	}
	if id.String() > before {
		return id.String(), nil
	}
	last, err := ulid.ParseStrict(before)
	if err != nil {
		return "", fmt.Errorf("make epoch after %q: %w", before, err)
	}
	if err := id.SetTime(last.Time() + 1); err != nil {
		return "", fmt.Errorf("make epoch after %q: %w", before, err)
	}
	return id.String(), nil
}
