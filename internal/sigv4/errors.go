package sigv4

import (
	"fmt"
	"net/http"
)

// Kind says why a request is refused.
type Kind int

const (
	// Missing is a request with no signature at all.
	Missing Kind = iota + 1
	// Malformed is a signature that cannot be read or lacks a part.
	Malformed
	// UnknownKey is an access key that Lookup does not know.
	UnknownKey
	// BadSignature is a signature that does not match the request.
	BadSignature
	// Expired is a request signed too long ago, or for a time too far ahead.
	Expired
)

// Error is a request whose signature is refused.
type Error struct {
	Kind    Kind
	Service string // that the request claims to be for; empty where unreadable
	Message string // what is wrong, for the client's log; never a secret
}

func (e *Error) Error() string { return "verify signature: " + e.Message }

func refuse(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Code returns the error code and the HTTP status with which a service answers
// such a refusal. Services differ: EC2 does not tell a wrong key from a wrong
// signature. A service that is not known here answers as STS does.
func (e *Error) Code(service string) (code string, status int) {
	switch service {
	case "ec2":
		return e.ec2Code()
	case "ssm":
		return e.jsonCode()
	case "ebs":
		code, _ = e.jsonCode()
		return code, http.StatusForbidden
	default:
		return e.queryCode()
	}
}

// EC2Code returns the error code that EC2 answers.
func (e *Error) EC2Code() string {
	code, _ := e.ec2Code()
	return code
}

func (e *Error) ec2Code() (string, int) {
	switch e.Kind {
	case Missing:
		return "MissingAuthenticationToken", http.StatusForbidden
	case Malformed:
		return "IncompleteSignature", http.StatusBadRequest
	case Expired:
		return "RequestExpired", http.StatusBadRequest
	default:
		return "AuthFailure", http.StatusUnauthorized
	}
}

func (e *Error) queryCode() (string, int) {
	switch e.Kind {
	case Missing:
		return "MissingAuthenticationToken", http.StatusForbidden
	case Malformed:
		return "IncompleteSignature", http.StatusBadRequest
	case UnknownKey:
		return "InvalidClientTokenId", http.StatusForbidden
	default: // an expired one too
		return "SignatureDoesNotMatch", http.StatusForbidden
	}
}

func (e *Error) jsonCode() (string, int) {
	switch e.Kind {
	case Missing:
		return "MissingAuthenticationTokenException", http.StatusBadRequest
	case Malformed:
		return "IncompleteSignatureException", http.StatusBadRequest
	case UnknownKey:
		return "UnrecognizedClientException", http.StatusBadRequest
	default:
		return "InvalidSignatureException", http.StatusBadRequest
	}
}
