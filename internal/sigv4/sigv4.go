// Package sigv4 verifies AWS Signature Version 4 on the server's side, in its
// header form (Authorization) and in its presigned query form (X-Amz-Signature).
//
// A request that passes was signed with the secret key of a known access key,
// for the region and service of its scope, within the time allowed, and neither
// its method, path, query, signed headers nor body was changed since. Every
// header X-Amz-… that is there must be among the signed ones, so that none can
// be added on the way.
//
// The body may stay unsigned (UNSIGNED-PAYLOAD) only for services whose clients
// leave it so: s3 and ebs. Signatures of chunked bodies, of version 4A and of
// versions before 4 are refused as malformed.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

const (
	algorithm       = "AWS4-HMAC-SHA256"
	terminator      = "aws4_request"
	unsignedPayload = "UNSIGNED-PAYLOAD"
	timeFormat      = "20060102T150405Z"
	dateFormat      = "20060102"

	// maxSkew is how far a client's clock may be off, and how long a signature
	// lives that states no lifetime.
	maxSkew = 15 * time.Minute
	// maxExpires is the longest lifetime of a presigned request.
	maxExpires = 7 * 24 * time.Hour
)

// Credential is an access key that the server knows.
type Credential struct {
	AccessKeyID     string
	SecretAccessKey string
	Account         string // twelve digits
}

// Identity is who signed a request, and for what.
type Identity struct {
	AccessKeyID string
	Account     string
	Region      string // of the signature's scope; lower-case letters, digits, hyphens
	Service     string // of the signature's scope: ec2, sts, ssm
}

// Lookup finds the credential of an access key; false if there is none.
type Lookup func(accessKeyID string) (Credential, bool)

// Verify checks the signature of r, a request as a server receives it, whose
// body has been read into body, at the time now. Any refusal is an *Error.
func Verify(r *http.Request, body []byte, now time.Time, lookup Lookup) (Identity, error) {
	s, err := parse(r)
	if err != nil {
		return Identity{}, err
	}
	if err := s.check(r, body, now, lookup); err != nil {
		err.Service = s.scope.service
		return Identity{}, err
	}
	return Identity{s.accessKeyID, s.account, s.scope.region, s.scope.service}, nil
}

// check verifies a signature that could be read. It sets s.account.
func (s *signature) check(r *http.Request, body []byte, now time.Time, lookup Lookup) *Error {
	if err := s.checkHeaders(r.Header); err != nil {
		return err
	}
	cred, ok := lookup(s.accessKeyID)
	if !ok {
		return refuse(UnknownKey, "the access key %q is not known here", s.accessKeyID)
	}
	s.account = cred.Account
	if err := s.checkTime(now); err != nil {
		return err
	}
	hash, err := payloadHash(r, s, body)
	if err != nil {
		return err
	}
	if want := s.sign(cred.SecretAccessKey, s.canonicalRequest(r, hash)); subtle.ConstantTimeCompare(want, s.mac) != 1 {
		return refuse(BadSignature, "the signature does not match the request: is the secret access key that of %q?", s.accessKeyID)
	}
	return nil
}

// checkHeaders refuses a request with headers that ought to be signed and are
// not.
func (s *signature) checkHeaders(h http.Header) *Error {
	signed := make(map[string]bool, len(s.signedHeaders))
	for _, name := range s.signedHeaders {
		signed[name] = true
	}
	if !signed["host"] {
		return refuse(Malformed, "the header host is not signed")
	}
	for name := range h {
		if name := strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !signed[name] {
			return refuse(BadSignature, "the header %s is not signed", name)
		}
	}
	return nil
}

func (s *signature) checkTime(now time.Time) *Error {
	if s.scope.date != s.time.Format(dateFormat) {
		return refuse(BadSignature, "the scope's date %s is not that of the request, %s", s.scope.date, s.time.Format(timeFormat))
	}
	until := s.time.Add(maxSkew)
	if s.expires > 0 {
		until = s.time.Add(s.expires)
	}
	switch {
	case s.time.After(now.Add(maxSkew)):
		return refuse(Expired, "signed for %s, which is more than %s ahead of %s here", s.time.Format(timeFormat), maxSkew, now.UTC().Format(timeFormat))
	case now.After(until):
		return refuse(Expired, "signed at %s, valid until %s, and it is %s here", s.time.Format(timeFormat), until.Format(timeFormat), now.UTC().Format(timeFormat))
	}
	return nil
}

// payloadHash returns the last line of the canonical request.
func payloadHash(r *http.Request, s *signature, body []byte) (string, *Error) {
	stated := r.Header.Get("X-Amz-Content-Sha256")
	if stated == "" && s.presigned {
		stated = s.statedHash
	}
	if stated == unsignedPayload && mayStayUnsigned(s.scope.service) {
		return stated, nil
	}
	sum := sha256.Sum256(body)
	actual := hex.EncodeToString(sum[:])
	switch {
	case stated == "" && s.presigned && s.scope.service == "s3":
		return unsignedPayload, nil
	case stated == "" || stated == actual:
		return actual, nil
	case stated == unsignedPayload:
		return "", refuse(BadSignature, "the body of a request to %s must be signed", s.scope.service)
	case strings.HasPrefix(stated, "STREAMING-"):
		return "", refuse(Malformed, "bodies signed in chunks are not supported")
	}
	return "", refuse(BadSignature, "X-Amz-Content-Sha256 is not the hash of the body")
}

func mayStayUnsigned(service string) bool { return service == "s3" || service == "ebs" }

// sign returns the signature that the request should have.
func (s *signature) sign(secret, canonicalRequest string) []byte {
	sum := sha256.Sum256([]byte(canonicalRequest))
	toSign := strings.Join([]string{
		algorithm, s.time.Format(timeFormat), s.scope.String(), hex.EncodeToString(sum[:]),
	}, "\n")
	key := mac([]byte("AWS4"+secret), s.scope.date)
	for _, part := range []string{s.scope.region, s.scope.service, terminator} {
		key = mac(key, part)
	}
	return mac(key, toSign)
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}
