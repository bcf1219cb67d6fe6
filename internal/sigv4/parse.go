package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// signature is what a request says about its own signature.
type signature struct {
	accessKeyID   string
	scope         scope
	signedHeaders []string // lower case, sorted
	mac           []byte
	time          time.Time
	presigned     bool
	expires       time.Duration // presigned only; zero if not stated
	statedHash    string        // presigned only: X-Amz-Content-Sha256 in the query
	query         []pair        // encoded canonically, without the signature
	account       string
}

// scope is what a signature is good for.
type scope struct{ date, region, service string }

func (s scope) String() string {
	return strings.Join([]string{s.date, s.region, s.service, terminator}, "/")
}

// parse reads the signature of a request from where it is.
func parse(r *http.Request) (*signature, error) {
	query, bad := parseQuery(r.URL.RawQuery)
	if bad != nil {
		return nil, bad
	}
	s := &signature{query: query}
	auth := r.Header.Values("Authorization")
	inQuery := len(values(query, "X-Amz-Signature"))+len(values(query, "X-Amz-Algorithm")) > 0
	switch {
	case len(auth) == 0 && !inQuery:
		return nil, refuse(Missing, "the request is not signed")
	case len(auth) > 1 || len(auth) == 1 && inQuery:
		return nil, refuse(Malformed, "the request is signed more than once")
	case inQuery:
		bad = s.parsePresigned()
	default:
		bad = s.parseHeader(r.Header, auth[0])
	}
	if bad != nil {
		bad.Service = s.scope.service
		return nil, bad
	}
	return s, nil
}

// parseHeader reads `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…,
// Signature=…`.
func (s *signature) parseHeader(h http.Header, auth string) *Error {
	alg, rest, _ := strings.Cut(strings.TrimSpace(auth), " ")
	if alg != algorithm {
		return refuse(Malformed, "the signature's algorithm %q is not %s", clip(alg), algorithm)
	}
	parts := map[string]string{}
	for f := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(f), "=")
		if _, twice := parts[name]; !ok || twice {
			return refuse(Malformed, "the header Authorization has a part that is not Name=value or is there twice: %q", clip(f))
		}
		parts[name] = value
	}
	if err := s.parseParts(parts["Credential"], parts["SignedHeaders"], parts["Signature"]); err != nil {
		return err
	}
	name := "X-Amz-Date"
	if len(h.Values(name)) == 0 {
		name = "Date"
	}
	if len(h.Values(name)) != 1 {
		return refuse(Malformed, "the request needs one header X-Amz-Date or Date")
	}
	return s.parseTime(h.Get(name), name)
}

// parsePresigned reads the X-Amz-… parameters of the query.
func (s *signature) parsePresigned() *Error {
	get := func(name string) (string, *Error) {
		v := values(s.query, name)
		if len(v) > 1 {
			return "", refuse(Malformed, "the parameter %s is there twice", name)
		}
		if len(v) == 0 {
			return "", nil
		}
		return v[0], nil
	}
	var p [7]string
	for i, name := range []string{
		"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-SignedHeaders",
		"X-Amz-Signature", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Content-Sha256",
	} {
		var err *Error
		if p[i], err = get(name); err != nil {
			return err
		}
	}
	if p[0] != algorithm {
		return refuse(Malformed, "the signature's algorithm %q is not %s", clip(p[0]), algorithm)
	}
	s.presigned, s.statedHash = true, p[6]
	if err := s.parseParts(p[1], p[2], p[3]); err != nil {
		return err
	}
	if err := s.parseTime(p[4], "X-Amz-Date"); err != nil {
		return err
	}
	if p[5] != "" {
		n, err := strconv.ParseUint(p[5], 10, 31)
		if s.expires = time.Duration(n) * time.Second; err != nil || s.expires < time.Second || s.expires > maxExpires {
			return refuse(Malformed, "X-Amz-Expires %q is not a number of seconds from 1 to %d", clip(p[5]), int(maxExpires.Seconds()))
		}
	}
	s.query = slices.DeleteFunc(s.query, func(p pair) bool { return p.name == "X-Amz-Signature" })
	return nil
}

// parseParts reads the parts that both forms have.
func (s *signature) parseParts(credential, headers, mac string) *Error {
	if credential == "" || headers == "" || mac == "" {
		return refuse(Malformed, "the signature needs Credential, SignedHeaders and Signature")
	}
	f := strings.Split(credential, "/")
	if len(f) != 5 || f[4] != terminator {
		return refuse(Malformed, "the credential is not KEY/DATE/REGION/SERVICE/%s", terminator)
	}
	if f[0] == "" || !plainWord(f[2]) || !plainWord(f[3]) {
		return refuse(Malformed, "the credential's key, region or service is empty or has letters that it cannot have")
	}
	s.accessKeyID = f[0]
	s.scope = scope{date: f[1], region: f[2], service: f[3]}
	s.signedHeaders = strings.Split(headers, ";")
	if !slices.IsSorted(s.signedHeaders) || headers != strings.ToLower(headers) ||
		len(slices.Compact(slices.Clone(s.signedHeaders))) != len(s.signedHeaders) {
		return refuse(Malformed, "SignedHeaders is not a sorted list of lower-case names")
	}
	var err error
	if s.mac, err = hex.DecodeString(mac); err != nil || len(s.mac) != sha256.Size {
		return refuse(Malformed, "the signature is not %d bytes in hexadecimal", sha256.Size)
	}
	return nil
}

func (s *signature) parseTime(v, name string) *Error {
	for _, layout := range []string{timeFormat, http.TimeFormat, time.RFC3339} {
		t, err := time.Parse(layout, v)
		if err == nil && (layout == timeFormat || name == "Date") {
			s.time = t.UTC()
			return nil
		}
	}
	return refuse(Malformed, "%s %q is not a time such as %s", name, clip(v), timeFormat)
}

// plainWord says whether a region or service is spelled as all of AWS's are.
// Callers use them as names.
func plainWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

// clip shortens what a client sent for a message.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
