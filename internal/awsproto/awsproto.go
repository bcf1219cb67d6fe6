// Package awsproto holds the two small wire protocols that the local cloud
// speaks beside EC2's own: AWS query (STS) and AWS JSON 1.1 (SSM). Both work on
// the SDK's Input and Output types.
package awsproto

import (
	"errors"
	"io"
	"net/http"
)

// STSNamespace is the XML namespace of STS responses.
const STSNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// JSONContentType is the media type of AWS JSON 1.1 requests and responses.
const JSONContentType = "application/x-amz-json-1.1"

// EncodeQuery writes out, a pointer to an action's Output, as an AWS query
// response body.
func EncodeQuery(w io.Writer, namespace, action, requestID string, out any) error {
	return errors.New("awsproto: not yet")
}

// EncodeQueryError writes an AWS query error body for a fault of the sender's
// (status 4xx) or of the receiver's (5xx).
func EncodeQueryError(w io.Writer, namespace, requestID string, status int, code, message string) error {
	return errors.New("awsproto: not yet")
}

// JSONTarget returns the service and the action that an AWS JSON request names
// in X-Amz-Target (AmazonSSM.GetParameter); false if it names none.
func JSONTarget(h http.Header) (service, action string, ok bool) {
	return "", "", false
}

// DecodeJSON fills in, a pointer to an action's Input. An error is a
// SerializationException of the client's making.
func DecodeJSON(body []byte, in any) error { return errors.New("awsproto: not yet") }

// EncodeJSON writes out, a pointer to an action's Output, as AWS JSON.
func EncodeJSON(w io.Writer, out any) error { return errors.New("awsproto: not yet") }

// EncodeJSONError writes an AWS JSON error body.
func EncodeJSONError(w io.Writer, code, message string) error {
	return errors.New("awsproto: not yet")
}
