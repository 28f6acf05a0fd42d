package rsync

import "fmt"

// Class says what the end of a pass means for what comes next.
type Class uint8

const (
	// Done: everything was done.
	Done Class = iota
	// Transient: the connection or a process died; the same again goes on from there.
	Transient
	// Permanent: the same again fails the same way.
	Permanent
	// Storage: the filesystem failed, most often because it is full.
	Storage
	// Partial: some files could not be copied.
	Partial
	// Vanished: some files went away while they were copied.
	Vanished
	// TooManyDeletions: the limit stopped deletions.
	TooManyDeletions
	// Canceled: we ended it.
	Canceled
	// Memory: it ran out of memory.
	Memory
	// Different: verification found differences.
	Different
)

var classes = [...]string{
	"Done", "Transient", "Permanent", "Storage", "Partial", "Vanished", "TooManyDeletions", "Canceled", "Memory", "Different",
}

// String is the class's name as status shows it.
func (c Class) String() string {
	if int(c) < len(classes) {
		return classes[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// MarshalText writes the class by its name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (c *Class) UnmarshalText(text []byte) error {
	for i, name := range classes {
		if name == string(text) {
			*c = Class(i)
			return nil
		}
	}
	return fmt.Errorf("there is no class %.40q", text)
}

// Exit codes of rsync that we act on, and the shim's own beside them.
const (
	codeOK        = 0
	codePartial   = 23
	codeVanished  = 24
	codeMaxDelete = 25
	// codeLost is the shim's: the stream or the peer failed. rsync hands it on.
	codeLost = 70
)

// exitCode is what is known of one of rsync's exit codes.
type exitCode struct {
	class   Class
	meaning string
}

var exitCodes = map[int]exitCode{
	codeOK:        {Done, "done"},
	1:             {Permanent, "bad usage"},
	2:             {Permanent, "the two versions of rsync do not understand each other"},
	3:             {Permanent, "the directory cannot be used"},
	4:             {Permanent, "this rsync cannot do what was asked"},
	5:             {Transient, "the session could not be started"},
	6:             {Transient, "it could not log"},
	10:            {Transient, "a socket failed"},
	11:            {Storage, "reading or writing files failed: the filesystem is full, read-only or broken"},
	12:            {Transient, "the connection broke"},
	13:            {Transient, "a message could not be written"},
	14:            {Transient, "a process could not be started"},
	15:            {Transient, "one of its processes crashed"},
	16:            {Transient, "one of its processes was killed"},
	19:            {Canceled, "it was asked to stop"},
	20:            {Canceled, "it was asked to stop"},
	21:            {Transient, "one of its processes was lost"},
	22:            {Memory, "out of memory"},
	codePartial:   {Partial, "some files could not be copied"},
	codeVanished:  {Vanished, "some files vanished while they were copied"},
	codeMaxDelete: {TooManyDeletions, "more would be deleted than the limit allows"},
	30:            {Transient, "the peer did not answer in time"},
	35:            {Transient, "the peer did not answer in time"},
	codeLost:      {Transient, "the stream to the peer ended"},
}

// ClassOf is the class of an exit code, and what rsync means by it. Ends by a signal
// and codes that it does not document are Transient: the retries are limited.
func ClassOf(code int) (Class, string) {
	if c, ok := exitCodes[code]; ok {
		return c.class, c.meaning
	}
	return Transient, "it ended in an unusual way"
}
