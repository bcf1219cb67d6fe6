package ec2query

import (
	"net/url"
	"slices"
	"strings"
)

// param is one parameter of a form. Parameters are kept sorted by path, so that
// all of one structure or list lie together and no tree has to be built.
type param struct {
	key    string
	values []string // as often as it was given, at least once
}

// params returns the action's own parameters of a form, sorted by path.
func params(form url.Values) []param {
	ps := make([]param, 0, len(form))
	for k, v := range form {
		if len(v) > 0 && !envelope(k) {
			ps = append(ps, param{k, v})
		}
	}
	slices.SortFunc(ps, func(a, b param) int { return comparePaths(a.key, b.key) })
	return ps
}

// envelope says whether a parameter belongs to the request rather than to its
// action: what to call, and the signatures of versions 2 and 4 in query form.
func envelope(key string) bool {
	switch key {
	case "Action", "Version",
		"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires",
		"X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Content-Sha256",
		"AWSAccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "Timestamp", "Expires", "SecurityToken":
		return true
	}
	return false
}

// comparePaths orders keys part by part: a dot sorts before any other byte, so
// that nothing comes between A and A.1.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		x, y := a[i], b[i]
		switch {
		case x == y:
			continue
		case x == '.':
			return -1
		case y == '.':
			return 1
		case x < y:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

// cut splits off the first group of sorted parameters: those with the same part
// at offset at. The group's own path ends at offset end.
func cut(ps []param, at int) (part string, group, rest []param, end int) {
	part, _, _ = strings.Cut(ps[0].key[at:], ".")
	end = at + len(part)
	n := 1
	for n < len(ps) && len(ps[n].key) >= end && ps[n].key[at:end] == part &&
		(len(ps[n].key) == end || ps[n].key[end] == '.') {
		n++
	}
	return part, ps[:n], ps[n:], end
}

// own splits a group into the parameter that is the path itself, if given, and
// those below it.
func own(group []param, end int) (self *param, below []param) {
	if len(group[0].key) == end {
		return &group[0], group[1:]
	}
	return nil, group
}

// single returns the value of a group that must be one parameter given once.
func single(group []param, end int) (string, error) {
	self, below := own(group, end)
	if len(below) > 0 {
		return "", unknown(below[0])
	}
	if len(self.values) > 1 {
		return "", invalid(*self, self.values[1], "given more than once")
	}
	return self.values[0], nil
}

func unknown(p param) error {
	return &ParamError{Kind: ParamUnknown, Param: p.key, Value: p.values[0]}
}

func invalid(p param, value, reason string) error {
	return &ParamError{Kind: ParamInvalid, Param: p.key, Value: value, Reason: reason}
}
