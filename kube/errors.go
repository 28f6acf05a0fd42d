package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// IsNotFound reports that the object, its namespace or its kind is not there.
func IsNotFound(err error) bool { return apierrors.IsNotFound(err) }

// IsConflict reports that the object is not the one that was meant: its UID or version differs, or it is gone.
func IsConflict(err error) bool { return apierrors.IsConflict(err) }

// IsUnauthorized reports that the server does not accept the credentials.
func IsUnauthorized(err error) bool { return apierrors.IsUnauthorized(err) }

// IsForbidden reports that the server does not permit the request to this user,
// or that an admission rule refuses it.
func IsForbidden(err error) bool { return apierrors.IsForbidden(err) }

// IsExpired reports 410: what was asked for is older than what the server remembers.
func IsExpired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// classify marks an error of the API server, or of the way to it, with its class.
func classify(err error) error {
	if err == nil {
		return nil
	}
	return pipeline.WithClass(classOf(err), err)
}

// classOf maps what the server says to a class. Where reason and code are not
// enough the message is read; those texts are pinned by a test against a real
// server.
func classOf(err error) pipeline.Class {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return pipeline.Transient // never reached the server, or lost on the way
	}
	s := status.Status()
	message := s.Message
	switch s.Reason {
	case metav1.StatusReasonUnauthorized:
		return pipeline.Forbidden
	case metav1.StatusReasonForbidden:
		switch {
		case hasCause(s, "NamespaceTerminating"), strings.Contains(message, "because it is being terminated"):
			return pipeline.Dependency
		case strings.Contains(message, "exceeded quota"), strings.Contains(message, "not yet ready to handle request"):
			return pipeline.Dependency
		case strings.Contains(message, "failed quota"), strings.Contains(message, "error looking up service account"):
			return pipeline.Dependency
		}
		return pipeline.Forbidden
	case metav1.StatusReasonNotFound:
		// The namespace, the kind or, for a read, the object.
		return pipeline.Dependency
	case metav1.StatusReasonInvalid:
		if immutable(message) {
			return pipeline.Immutable
		}
		return pipeline.Invalid
	case metav1.StatusReasonBadRequest, metav1.StatusReasonRequestEntityTooLarge,
		metav1.StatusReasonUnsupportedMediaType, metav1.StatusReasonNotAcceptable, metav1.StatusReasonMethodNotAllowed:
		return pipeline.Invalid
	case metav1.StatusReasonInternalError:
		if strings.Contains(message, "failed calling webhook") || strings.Contains(message, "conversion webhook") {
			return pipeline.Dependency
		}
		if strings.Contains(message, "failed to create typed patch object") || strings.Contains(message, "field not declared in schema") {
			return pipeline.Invalid
		}
	}
	switch s.Code {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return pipeline.Invalid
	}
	return pipeline.Transient
}

func hasCause(s metav1.Status, cause metav1.CauseType) bool {
	if s.Details == nil {
		return false
	}
	for _, c := range s.Details.Causes {
		if c.Type == cause {
			return true
		}
	}
	return false
}

// immutable reports that a validation message speaks of a field that cannot change.
func immutable(message string) bool {
	for _, text := range []string{
		"field is immutable",
		"may not change once set",
		"cannot change roleRef",
		"are forbidden", // updates to statefulset spec for fields other than …
		"is immutable after creation",
		"is immutable once set",
		"may not be changed",
		"may not be unset",
		"may not be updated",
	} {
		if strings.Contains(message, text) {
			return true
		}
	}
	return false
}

// isTLS reports that the connection failed because one side does not trust or understand the other.
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
