package transform

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/itchyny/gojq"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Reason says in what way a rule failed on an object.
type Reason string

// The reasons.
const (
	// Failed: the jq program ended in an error.
	Failed Reason = "Failed"
	// TimedOut: the time for one object was used up.
	TimedOut Reason = "TimedOut"
	// TooMuch: the program wanted too much memory, or too much work in one step.
	TooMuch Reason = "TooMuch"
	// TooMany: more objects came out than allowed.
	TooMany Reason = "TooMany"
	// TooLarge: what came out, or went in, is longer than allowed.
	TooLarge Reason = "TooLarge"
	// NotAnObject: something other than an object came out.
	NotAnObject Reason = "NotAnObject"
	// KindChanged: an object of another apiVersion or kind came out.
	KindChanged Reason = "KindChanged"
	// Unnamed: an object without a name came out, or without a namespace where it
	// had one, or with one where it had none.
	Unnamed Reason = "Unnamed"
	// ProtectedNamespace: an object was moved into a namespace that the caller
	// protects.
	ProtectedNamespace Reason = "ProtectedNamespace"
	// Twice: the same object came out more than once.
	Twice Reason = "Twice"
	// Unreadable: the object that went in is no JSON.
	Unreadable Reason = "Unreadable"
)

// Error says which rule failed on an object, and why. Its text holds nothing of
// the object but what the rule's own error(...) says, and not even that for
// Secrets, for rules with a parameter from one, and for those that run after such a rule.
type Error struct {
	// Rule is the zero ID when no rule is to blame.
	Rule    ID
	Reason  Reason
	Message string
}

// Error names the rule.
func (e *Error) Error() string {
	if e.Rule == (ID{}) {
		return "transform object: " + e.Message
	}
	return fmt.Sprintf("transform object: %s: %s", e.Rule, e.Message)
}

// classify marks err for pipeline.Decide.
func (e *Error) classify() error {
	if e.Reason == Unreadable {
		return pipeline.WithClass(pipeline.Malformed, e)
	}
	return pipeline.WithClass(pipeline.Invalid, e)
}

// describe turns what ended a program into an Error. secret says that it knew something
// that must not be told.
func describe(id ID, secret bool, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Rule: id, Reason: Failed}
	switch {
	case errors.Is(err, errTime):
		e.Reason, e.Message = TimedOut, err.Error()
		return e
	case errors.Is(err, errMemory), errors.Is(err, errSteps):
		e.Reason, e.Message = TooMuch, err.Error()
		return e
	case errors.Is(err, errTooLarge):
		e.Reason, e.Message = TooLarge, err.Error()
		return e
	case errors.Is(err, errDepth), errors.Is(err, errNumber), errors.Is(err, errIndex), errors.Is(err, errLong), errors.Is(err, errNotNumber), errors.Is(err, errNotJSON):
		e.Message = err.Error()
		return e
	}
	if raised, ok := errors.AsType[gojq.ValueError](err); ok {
		switch v := raised.Value().(type) {
		case string:
			e.Message = shorten(v)
		case nil:
			e.Message = "error(null)"
		default:
			e.Message = shorten(gojq.Preview(v))
		}
		if secret {
			e.Message = "the program raised an error; what it says is withheld, for it has to do with a Secret"
		}
		return e
	}
	e.Message = withoutValues(err.Error())
	return e
}

const maxMessage = 200

func shorten(s string) string {
	if r := []rune(s); len(r) > maxMessage {
		return string(r[:maxMessage]) + " ..."
	}
	return s
}

const jsonType = `(null|string|object|array|number|boolean)`

var (
	applied      = regexp.MustCompile(`(?s)^(@?\w+)(\(.*)? cannot be applied to`)
	appliedType  = regexp.MustCompile(`^@?\w+ cannot be applied to: ` + jsonType)
	dividedType  = regexp.MustCompile(`^cannot (?:divide|modulo) ` + jsonType)
	operandTypes = regexp.MustCompile(`(?s)^[a-z ]+: ` + jsonType + `(?: \(.*\))? and ` + jsonType)
	operation    = regexp.MustCompile(`^[a-z ]+: `)
	givenType    = regexp.MustCompile(`^[a-z@" ]+: ` + jsonType)
)

// withoutValues takes the previews of values out of gojq's messages: they would
// carry what objects hold into logs. Of what it does not know it leaves no more than
// the beginning.
func withoutValues(message string) string {
	if m := applied.FindStringSubmatch(message); m != nil {
		if typed := appliedType.FindString(message); typed != "" {
			return typed
		}
		return m[1] + " cannot be applied to these values"
	}
	if divided := dividedType.FindString(message); divided != "" {
		return divided + " by: number"
	}
	if m := operandTypes.FindStringSubmatch(message); m != nil {
		return operation.FindString(message) + m[1] + " and " + m[2]
	}
	if given := givenType.FindString(message); given != "" {
		return given
	}
	if i := strings.IndexAny(message, `:("`); i >= 0 {
		message = strings.TrimRight(message[:i], " ")
	}
	return shorten(message)
}
