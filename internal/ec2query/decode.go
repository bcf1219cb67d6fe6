package ec2query

import (
	"errors"
	"net/url"
)

// Decode fills in, a pointer to an action's Input, from the parameters of a
// request. A refused parameter is a *ParamError; of several, the first in
// alphabetical order.
func Decode(form url.Values, in any) error {
	return errors.New("ec2query: not yet")
}
