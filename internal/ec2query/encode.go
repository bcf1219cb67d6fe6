package ec2query

import (
	"errors"
	"io"
)

// Encode writes out, a pointer to an action's Output, as the XML response body
// of action.
func Encode(w io.Writer, action, requestID string, out any) error {
	return errors.New("ec2query: not yet")
}

// EncodeError writes EC2's XML error body. The HTTP status is the caller's.
func EncodeError(w io.Writer, requestID, code, message string) error {
	return errors.New("ec2query: not yet")
}
