package pipeline

import (
	"context"
	"errors"
	"fmt"
)

// Class says what kind of failure an error is. It is decided where the
// knowledge is (package kube for API errors) and read in one place (Decide).
type Class uint8

const (
	// Transient failures may pass by themselves: timeouts, throttling, server errors, conflicts.
	Transient Class = iota
	// Dependency failures wait for something that this flow itself may bring: a
	// namespace, a kind, a webhook's backend, quota.
	Dependency
	// Forbidden: the destination does not permit it.
	Forbidden
	// Invalid: the destination refuses the object as it is.
	Invalid
	// Immutable: a field that cannot change has changed, and policy says park.
	Immutable
	// Foreign: an object of the same name is not ours.
	Foreign
	// Malformed: the message or the object cannot be read.
	Malformed
)

// classified is an error with its class.
type classified struct {
	class Class
	err   error
}

func (c *classified) Error() string { return c.err.Error() }
func (c *classified) Unwrap() error { return c.err }

// WithClass marks err with a class. The outermost mark counts. nil stays nil.
func WithClass(class Class, err error) error {
	if err == nil {
		return nil
	}
	return &classified{class: class, err: err}
}

// ClassOf returns the class of err; an unmarked error is Transient.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[*classified](err); ok {
		return c.class
	}
	return Transient
}

// ErrForeign marks a message that is not in our wire form.
var ErrForeign = errors.New("not a DR-Syncer message")

// ErrUnreachable marks an attempt that did not reach the destination at all: it
// says nothing of the record.
var ErrUnreachable = errors.New("the destination cannot be reached")

// Action is what is to be done with an attempt.
type Action uint8

const (
	// Done: settle it.
	Done Action = iota
	// Retry: try again in place after a delay.
	Retry
	// Park: put it into the dead letters and settle it.
	Park
	// Abandon: shutting down; leave it unsettled.
	Abandon
)

// Decide maps the end of an attempt to an action: the only place that does.
// attempts counts this one; budget is the number of attempts granted. Permanent
// classes are parked at once, the others when the budget is spent: Transient,
// Dependency, and Forbidden, as permissions come late too. What never reached the
// destination is tried again without end.
func Decide(err error, attempts, budget int) Action {
	switch {
	case err == nil:
		return Done
	case errors.Is(err, context.Canceled):
		return Abandon
	case errors.Is(err, ErrUnreachable):
		return Retry
	}
	switch ClassOf(err) {
	case Transient, Dependency, Forbidden:
		if attempts < budget {
			return Retry
		}
		return Park
	case Invalid, Immutable, Foreign, Malformed:
		return Park
	}
	return Park
}

// MarshalText writes the class by its name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (c *Class) UnmarshalText(text []byte) error {
	for k := Transient; k <= Malformed; k++ {
		if k.String() == string(text) {
			*c = k
			return nil
		}
	}
	return fmt.Errorf("unknown failure class %q", text)
}

// String is the class's name as users see it.
func (c Class) String() string {
	switch c {
	case Transient:
		return "Transient"
	case Dependency:
		return "Dependency"
	case Forbidden:
		return "Forbidden"
	case Invalid:
		return "Invalid"
	case Immutable:
		return "Immutable"
	case Foreign:
		return "Foreign"
	case Malformed:
		return "Malformed"
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}
