package ec2query

import "fmt"

// ParamKind says what is wrong with a request parameter.
type ParamKind int

const (
	// ParamInvalid is a parameter whose value its field cannot take. EC2 answers
	// InvalidParameterValue.
	ParamInvalid ParamKind = iota
	// ParamMissing is a required parameter that was not given. EC2 answers
	// MissingParameter.
	ParamMissing
	// ParamUnknown is a parameter that the action does not have. EC2 answers
	// UnknownParameter.
	ParamUnknown
)

// ParamError is a request parameter that Decode refuses.
type ParamError struct {
	Kind   ParamKind
	Param  string // name on the wire, with its whole path: Filter.1.Name
	Value  string // what the client sent; empty if missing
	Reason string // what would have been right, for a person
}

func (e *ParamError) Error() string {
	switch e.Kind {
	case ParamMissing:
		return fmt.Sprintf("parameter %s: missing", e.Param)
	case ParamUnknown:
		return fmt.Sprintf("parameter %s: unknown", e.Param)
	default:
		return fmt.Sprintf("parameter %s: invalid value %q: %s", e.Param, e.Value, e.Reason)
	}
}
