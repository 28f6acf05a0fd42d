package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Wish is what a destination wishes of a source: to serve one claim for one session. It is repeated for as long as it
// stands, and holds nothing secret.
type Wish struct {
	// Session is the attempt. Its claim is "site/namespace/name", its expiry ends the source's mover whatever else happens.
	Session stream.Session `json:"session"`
	// Peer is the pin of the destination's identity.
	Peer stream.Pin `json:"peer"`
	// Transfer tells transfers apart: of two sessions of one, that of the lower epoch is void.
	Transfer string `json:"transfer"`
	// Privileged asks for a mover that may read the files of all owners.
	Privileged bool `json:"privileged,omitempty"`
}

// Answer is what a source says of a wish.
type Answer struct {
	Session string      `json:"session"`
	State   SourceState `json:"state"`
	// Message says what it waits for, or with Class why it refuses.
	Message string `json:"message,omitempty"`
	Class   Class  `json:"class,omitempty"`
	// Pin is that of the source's identity, Addresses are where its mover can be reached; both are there once it serves.
	Pin       stream.Pin `json:"pin,omitzero"`
	Addresses []string   `json:"addresses,omitempty"`
	Facts     *Facts     `json:"facts,omitempty"`
}

// Facts is what a source tells of its claim.
type Facts struct {
	UID         string   `json:"uid"`
	Capacity    string   `json:"capacity,omitempty"`
	AccessModes []string `json:"accessModes,omitempty"`
	Block       bool     `json:"block,omitempty"`
	// Node that its mover is held to.
	Node string `json:"node,omitempty"`
	// Live says that somebody may write to the volume while it is copied.
	Live bool `json:"live,omitempty"`
}

// question is what a source sends: how it is doing. reply is what it gets: what is wished of it.
type (
	question struct {
		Version int      `json:"version"`
		Answers []Answer `json:"answers"`
	}
	reply struct {
		Version int    `json:"version"`
		Wishes  []Wish `json:"wishes"`
		// Over are sessions that were wished and are not any more. One that is not named may be of another destination,
		// or of one that has just been started: its lease has to lapse.
		Over []string `json:"over,omitempty"`
	}
)

const (
	wireVersion = 1
	// Bounds of what is taken from the other side.
	maxMessage   = 512 << 10
	maxEntries   = 1000
	maxText      = 1024
	maxName      = 253
	maxAddresses = 8
	maxModes     = 8
	// maxSession is how far ahead a session may expire.
	maxSession = 31 * 24 * time.Hour
)

func parseQuestion(text []byte) (question, error) {
	var q question
	if err := parse(text, &q); err != nil {
		return question{}, fmt.Errorf("read what the source says: %w", err)
	}
	if q.Version != wireVersion || len(q.Answers) > maxEntries {
		return question{}, fmt.Errorf("read what the source says: version %d, %d answers: use the same version at both sites", q.Version, len(q.Answers))
	}
	for i := range q.Answers {
		if err := q.Answers[i].check(); err != nil {
			return question{}, fmt.Errorf("read what the source says: %w", err)
		}
	}
	return q, nil
}

func parseReply(text []byte) (reply, error) {
	var r reply
	if err := parse(text, &r); err != nil {
		return reply{}, fmt.Errorf("read what is wished: %w", err)
	}
	if r.Version != wireVersion || len(r.Wishes) > maxEntries || len(r.Over) > maxEntries {
		return reply{}, fmt.Errorf("read what is wished: version %d, %d wishes: use the same version at both sites", r.Version, len(r.Wishes))
	}
	for _, w := range r.Wishes {
		if err := w.check(); err != nil {
			return reply{}, fmt.Errorf("read what is wished: %w", err)
		}
	}
	return r, nil
}

func parse(text []byte, into any) error {
	if len(text) > maxMessage {
		return fmt.Errorf("%d bytes are too many", len(text))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(into); err != nil {
		return errors.New("it is not of the form that is expected") // the cause would quote what a stranger wrote
	}
	return nil
}

// site, namespace and name are the parts of the session's claim.
func (w Wish) parts() (site, namespace, name string, ok bool) {
	parts := strings.Split(w.Session.Claim, "/")
	const three = 3
	if len(parts) != three {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], isName(parts[0]) && isName(parts[1]) && isName(parts[2])
}

func (w Wish) check() error {
	if _, _, _, ok := w.parts(); !ok {
		return errors.New("a wish names no claim")
	}
	if !isToken(w.Session.ID) || !isToken(w.Transfer) || w.Session.Epoch == 0 || w.Peer == (stream.Pin{}) {
		return errors.New("a wish has no session")
	}
	return nil
}

// check says what is wrong with an answer, and makes its texts harmless.
func (a *Answer) check() error {
	switch a.State {
	case SourcePreparing, SourceServing, SourceRefused:
	case SourceSilent:
		return errors.New("an answer says nothing")
	default:
		return errors.New("an answer is of no known state")
	}
	if !isToken(a.Session) || len(a.Addresses) > maxAddresses || !knownClass(a.Class) {
		return errors.New("an answer has no session, too many addresses, or no known class")
	}
	if a.State == SourceServing && a.Pin == (stream.Pin{}) {
		return errors.New("an answer tells no pin")
	}
	for _, address := range a.Addresses {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return errors.New("an answer tells an address that is none")
		}
	}
	a.Message = harmless(a.Message, maxText)
	if f := a.Facts; f != nil {
		f.UID, f.Node = harmless(f.UID, maxName), harmless(f.Node, maxName)
		if len(f.AccessModes) > maxModes {
			return errors.New("an answer tells too many access modes")
		}
		for _, mode := range f.AccessModes {
			if !knownMode(mode) {
				return errors.New("an answer tells an access mode that is none")
			}
		}
		if q, err := resource.ParseQuantity(f.Capacity); f.Capacity != "" && (len(f.Capacity) > maxName || err != nil || q.Sign() <= 0) {
			return errors.New("an answer tells a capacity that is none")
		}
	}
	return nil
}

func knownMode(m string) bool {
	switch m {
	case modeOnce, modeReadOnly, modeMany, modeOncePod:
		return true
	}
	return false
}

func knownClass(c Class) bool {
	switch c {
	case "", Done, Transient, Permanent, Storage, Partial, Vanished, TooManyDeletions, Memory, Different, Canceled, Refused, InUse:
		return true
	case Suspended, Deleted: // these are nobody else's to say
	}
	return false
}

// isName reports whether a text may be part of the path of an object.
func isName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return !strings.Contains(s, "..")
}

// isToken reports whether a text may be part of a name of ours.
func isToken(s string) bool {
	const longest = 64
	if s == "" || len(s) > longest {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// harmless is a text of a stranger as it may be shown: one line, of printable characters, not too long.
func harmless(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar:
			return '?'
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s))
}
