package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/ec2query"
	"github.com/steadcloud/stead/internal/sigv4"
	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/volume"
)

// apiError is an answer to a client: one of EC2's error codes and a message
// for a person.
type apiError struct {
	Code    string
	Message string
	Status  int    // HTTP; 0 is 400
	Reason  string // that EBS gives beside the code
	cause   error
}

// RefusedError is what the daemon refuses to do for a reason that EC2 has a code
// for. It is one of the SDK's API errors to who asks with errors.As.
type RefusedError struct{ Code, Message string }

// Error says why, without the code.
func (e *RefusedError) Error() string { return e.Message }

// ErrorCode returns EC2's code, such as InvalidAMIName.Duplicate.
func (e *RefusedError) ErrorCode() string { return e.Code }

// ErrorMessage returns the reason.
func (e *RefusedError) ErrorMessage() string { return e.Message }

// ErrorFault says that it was asked wrongly.
func (e *RefusedError) ErrorFault() smithy.ErrorFault { return smithy.FaultClient }

func (e *apiError) Error() string { return e.Code + ": " + e.Message }
func (e *apiError) Unwrap() error { return e.cause }

func (e *apiError) status() int {
	if e.Status == 0 {
		return http.StatusBadRequest
	}
	return e.Status
}

// fail makes an error of a client's making.
func fail(code, format string, args ...any) *apiError {
	return &apiError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// errDryRun answers a dry run that would have been allowed.
var errDryRun = &apiError{Code: "DryRunOperation", Message: "Request would have succeeded, but DryRun flag is set.", Status: http.StatusPreconditionFailed}

// errStopping refuses to start machines while all are being shut down.
var errStopping = &apiError{Code: "Unavailable", Message: "The local cloud is stopping.", Status: http.StatusServiceUnavailable}

func missing(param string) *apiError {
	return fail("MissingParameter", "The request must contain the parameter %s", param)
}

func invalid(value any, param, why string) *apiError {
	return fail("InvalidParameterValue", "Value (%v) for parameter %s is invalid. %s", value, param, why)
}

func unsupported(what, remedy string) *apiError {
	return fail("UnsupportedOperation", "%s is not supported here. %s", what, remedy)
}

// asAPIError turns any error into an answer. What no rule names is the
// cloud's own fault and says so, with its text: the client is on this machine
// or trusted with its keys.
func asAPIError(err error) *apiError {
	var api *apiError
	var param *ec2query.ParamError
	var sig *sigv4.Error
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &param):
		return paramError(param)
	case errors.As(err, &sig):
		return signatureError(sig)
	case errors.Is(err, volume.ErrNoSpace), errors.Is(err, snapshot.ErrNoSpace):
		return &apiError{Code: "InsufficientVolumeCapacity", Message: err.Error(), Status: http.StatusInternalServerError, cause: err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &apiError{Code: "RequestTimeout", Message: err.Error(), Status: http.StatusRequestTimeout, cause: err}
	case errors.Is(err, state.ErrNotFound):
		return &apiError{Code: "InvalidParameterValue", Message: err.Error(), cause: err}
	}
	return &apiError{Code: "InternalError", Message: err.Error(), Status: http.StatusInternalServerError, cause: err}
}

func paramError(p *ec2query.ParamError) *apiError {
	switch p.Kind {
	case ec2query.ParamMissing:
		return missing(p.Param)
	case ec2query.ParamUnknown:
		return fail("UnknownParameter", "The parameter %s is not recognized", p.Param)
	default:
		return invalid(p.Value, p.Param, p.Reason)
	}
}

func signatureError(e *sigv4.Error) *apiError {
	code, status := e.Code(e.Service)
	msg := e.Message
	if code == "AuthFailure" {
		msg = "AWS was not able to validate the provided access credentials: " + msg
	}
	return &apiError{Code: code, Message: msg, Status: status, cause: e}
}
