package metadata

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	minTTL      = 1 // seconds
	maxTTL      = 21600
	expiryLen   = 8
)

// tokens issues and checks session tokens without keeping them: a token is its
// expiry, signed together with whom it was given to, so that a machine can ask
// for as many as it likes.
type tokens struct{ key [sha256.Size]byte }

func newTokens() *tokens {
	t := new(tokens)
	_, _ = rand.Read(t.key[:]) // never fails: crypto/rand ends the process instead
	return t
}

func (t *tokens) issue(in *Instance, expires time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixNano()))
	return base64.URLEncoding.EncodeToString(append(b, t.sign(in, b)...))
}

// check returns how long a token is good for still.
func (t *tokens) check(in *Instance, token string, now time.Time) (time.Duration, bool) {
	b, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(b) != expiryLen+sha256.Size || !hmac.Equal(b[expiryLen:], t.sign(in, b[:expiryLen])) {
		return 0, false
	}
	left := time.Unix(0, int64(binary.BigEndian.Uint64(b))).Sub(now)
	return left, left > 0
}

// sign binds a token to the instance and its address: neither another machine
// nor a later owner of the address can use it.
func (t *tokens) sign(in *Instance, expiry []byte) []byte {
	m := hmac.New(sha256.New, t.key[:])
	m.Write(expiry)
	m.Write(in.PrivateIP.AsSlice())
	m.Write([]byte(in.ID))
	return m.Sum(nil)
}
