package kube

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// messageLimit bounds the text of an error.
const messageLimit = 512

// withoutContent returns the status with its texts freed of object content: the
// server quotes refused values, diffs and whole specs, which may hold secrets
// and would end up in logs, conditions and dead letters.
func withoutContent(s metav1.Status) metav1.Status {
	if s.Details != nil {
		details := *s.Details
		details.Causes = make([]metav1.StatusCause, len(s.Details.Causes))
		for i, cause := range s.Details.Causes {
			cause.Message = redact(cause.Message)
			details.Causes[i] = cause
		}
		s.Details = &details
	}
	if s.Reason == metav1.StatusReasonInvalid && s.Details != nil && len(s.Details.Causes) > 0 {
		parts := make([]string, len(s.Details.Causes))
		for i, cause := range s.Details.Causes {
			parts[i] = cause.Message
			if cause.Field != "" {
				parts[i] = cause.Field + ": " + cause.Message
			}
		}
		s.Message = fmt.Sprintf("%s %q is invalid: %s", s.Details.Kind, s.Details.Name, strings.Join(parts, "; "))
		s.Message = shorten(s.Message)
		return s
	}
	s.Message = redact(s.Message)
	return s
}

// redact takes quoted values out of one message of the server.
func redact(message string) string {
	message, _, _ = strings.Cut(message, "\n") // a diff follows
	for _, verb := range []string{"Invalid value: ", "Unsupported value: ", "Duplicate value: ", "Not found: "} {
		if before, after, found := strings.Cut(message, verb); found {
			message = before + strings.TrimSuffix(verb, ": ") + afterValue(after)
			break
		}
	}
	if before, _, found := strings.Cut(message, ", got "); found && strings.Contains(before, "typed patch object") {
		message = before
	}
	return shorten(message)
}

// afterValue returns what follows a quoted value: ": detail" or nothing. The value
// is JSON, or Go syntax from older servers.
func afterValue(text string) string {
	decoder := json.NewDecoder(strings.NewReader(text))
	var value json.RawMessage
	if err := decoder.Decode(&value); err == nil {
		if rest := text[decoder.InputOffset():]; rest == "" || strings.HasPrefix(rest, ": ") {
			return rest
		}
	}
	if i := strings.LastIndex(text, "}: "); i >= 0 {
		return text[i+1:]
	}
	if i := strings.LastIndex(text, `": `); i >= 0 {
		return text[i+1:]
	}
	return ""
}

func shorten(message string) string {
	if len(message) <= messageLimit {
		return message
	}
	return strings.ToValidUTF8(message[:messageLimit], "") + "…"
}
