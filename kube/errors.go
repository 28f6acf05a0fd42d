package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// IsNotFound reports that the object, its namespace or its kind is not there.
func IsNotFound(err error) bool { return apierrors.IsNotFound(err) }

// IsConflict reports that the object is not the one that was meant: its UID
// differs, or it is gone.
func IsConflict(err error) bool { return apierrors.IsConflict(err) }

// IsUnauthorized reports that the server does not accept the credentials.
func IsUnauthorized(err error) bool { return apierrors.IsUnauthorized(err) }

// IsForbidden reports that the server does not permit the request to this user,
// or that an admission rule refuses it.
func IsForbidden(err error) bool { return apierrors.IsForbidden(err) }

// IsExpired reports 410: what was asked for is older than what the server remembers.
func IsExpired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// classify marks an error of the API server, or of the way to it, with its
// class, and takes object content out of its text.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		// It never reached the server, or was lost on the way.
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			err = fmt.Errorf("%w: %w", pipeline.ErrUnreachable, err)
		}
		return pipeline.WithClass(pipeline.Transient, err)
	}
	status := withoutContent(api.Status())
	if mismatch(status) {
		status.Code, status.Reason = http.StatusConflict, metav1.StatusReasonConflict
		status.Message = "the object has another UID"
	}
	return pipeline.WithClass(classOf(status), &apierrors.StatusError{ErrStatus: status})
}

// classOf maps what the server says to a class. Where reason and code are not
// enough the message is read; a test against a real server pins those texts.
func classOf(s metav1.Status) pipeline.Class {
	switch s.Reason {
	case metav1.StatusReasonUnauthorized:
		return pipeline.Transient // tokens are rotated
	case metav1.StatusReasonForbidden:
		if says(s.Message, missingTexts) || apierrors.HasStatusCause(&apierrors.StatusError{ErrStatus: s}, "NamespaceTerminating") {
			return pipeline.Dependency
		}
		return pipeline.Forbidden
	case metav1.StatusReasonNotFound:
		return pipeline.Dependency // the namespace or the kind; for a read, the object
	case metav1.StatusReasonInvalid:
		if immutable(s) {
			return pipeline.Immutable
		}
		return pipeline.Invalid
	case metav1.StatusReasonMethodNotAllowed, metav1.StatusReasonNotAcceptable, metav1.StatusReasonUnsupportedMediaType:
		return pipeline.Invalid
	default:
	}
	switch {
	case s.Code == http.StatusBadRequest, s.Code == http.StatusUnprocessableEntity, s.Code == http.StatusRequestEntityTooLarge:
		return pipeline.Invalid
	case s.Code < http.StatusInternalServerError:
		return pipeline.Transient // conflicts, throttling, timeouts
	case says(s.Message, webhookTexts):
		return pipeline.Dependency
	case says(s.Message, refusedTexts):
		return pipeline.Invalid
	}
	return pipeline.Transient
}

var (
	// missingTexts are in refusals (403) that pass when something else appears or goes.
	missingTexts = []string{
		"because it is being terminated",   // the namespace
		"exceeded quota",                   // room in the quota
		"status unknown for quota",         // the quota's controller
		"failed quota",                     // requests and limits, which a LimitRange sets
		"error looking up service account", // the Pod's service account
		"not yet ready to handle request",  // the admission plugin
		"no PriorityClass with name",       // the Pod's priority class
		"failed to look up RuntimeClass",   // the Pod's runtime class
		"RuntimeClass not found",           // the same
	}
	// webhookTexts are in server errors (5xx) that pass when a webhook's backend answers.
	webhookTexts = []string{"failed calling webhook", "conversion webhook for"}
	// refusedTexts are in server errors (5xx) about the object itself.
	refusedTexts = []string{
		"failed to create typed patch object",    // not of the kind's schema
		"request is too large",                   // for the server's store
		"trying to send message larger than max", // the same
	}
	// immutableTexts are in validation errors of fields that cannot change.
	immutableTexts = []string{
		"immutable",
		"may not change once set",
		"may not be changed",
		"may not be unset",
		"may not be updated",
		"may not change fields other than",
		"updates to statefulset spec for fields other than",
		"cannot be changed",
		"cannot change roleref",
		"failed rule: self == oldself",
	}
)

func says(message string, texts []string) bool {
	for _, text := range texts {
		if strings.Contains(message, text) {
			return true
		}
	}
	return false
}

// immutable reports that fields which cannot change are all that is wrong: an
// object made anew would be accepted.
func immutable(s metav1.Status) bool {
	if s.Details == nil || len(s.Details.Causes) == 0 {
		return false
	}
	for _, cause := range s.Details.Causes {
		if !says(strings.ToLower(cause.Message), immutableTexts) {
			return false
		}
	}
	return true
}

// mismatch reports that an object with a UID was applied over one with another.
func mismatch(s metav1.Status) bool {
	if s.Reason != metav1.StatusReasonInvalid || s.Details == nil {
		return false
	}
	for _, cause := range s.Details.Causes {
		if cause.Field == "metadata.uid" {
			return true
		}
	}
	return false
}

// isTLS reports that the connection failed because one side does not trust or
// understand the other.
func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		host         x509.HostnameError
		invalid      x509.CertificateInvalidError
		header       tls.RecordHeaderError
		alert        tls.AlertError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) ||
		errors.As(err, &invalid) || errors.As(err, &header) || errors.As(err, &alert)
}
