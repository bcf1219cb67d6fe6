package cloud

import (
	"errors"
	"io"
	"net/http"

	"github.com/steadcloud/stead/internal/awsproto"
)

// dlmRoutes are the actions of the Data Lifecycle Manager.
var dlmRoutes = []awsproto.Route{
	{Method: http.MethodPost, Path: "/policies", Action: "CreateLifecyclePolicy"},
	{Method: http.MethodGet, Path: "/policies", Action: "GetLifecyclePolicies"},
	{Method: http.MethodGet, Path: "/policies/{PolicyId}", Action: "GetLifecyclePolicy"},
	{Method: http.MethodPatch, Path: "/policies/{PolicyId}", Action: "UpdateLifecyclePolicy"},
	{Method: http.MethodDelete, Path: "/policies/{PolicyId}", Action: "DeleteLifecyclePolicy"},
	{Method: http.MethodPost, Path: "/tags/{ResourceArn}", Action: "TagResource"},
	{Method: http.MethodDelete, Path: "/tags/{ResourceArn}", Action: "UntagResource"},
	{Method: http.MethodGet, Path: "/tags/{ResourceArn}", Action: "ListTagsForResource"},
}

// restProtocol is that of the services whose actions are paths, with JSON in
// the body.
type restProtocol struct {
	routes  []awsproto.Route
	invalid string // the code for a request that can't be read
}

func (p restProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	route, fields, ok := awsproto.FindRoute(p.routes, r)
	if !ok {
		return "", nil, &apiError{Code: "UnknownOperationException", Message: "There is no action at " + r.Method + " " + r.URL.Path, Status: http.StatusNotFound}
	}
	return route.Action, func(in any) error {
		if err := awsproto.DecodeREST(in, body, fields, r.URL.Query()); err != nil {
			return fail(p.invalid, "%v", err)
		}
		return nil
	}, nil
}

func (restProtocol) encode(w io.Writer, _, _ string, out any) error {
	return awsproto.EncodeREST(w, out)
}

func (restProtocol) fault(w io.Writer, _ string, e *apiError) error {
	code := e.Code
	if code == "InternalError" {
		code = "InternalServerException"
	}
	return awsproto.EncodeJSONError(w, code, e.Message)
}

func (restProtocol) contentType() string { return awsproto.RESTContentType }

// DLM's own error codes.
const (
	dlmInvalid  = "InvalidRequestException"
	dlmNotFound = "ResourceNotFoundException"
	dlmLimit    = "LimitExceededException"
)

// asInvalid makes of an error about a parameter one of DLM's.
func asInvalid(err error) error {
	var api *apiError
	if errors.As(err, &api) {
		return fail(dlmInvalid, "%s", api.Message)
	}
	return err
}
