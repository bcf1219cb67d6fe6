package cloud

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/steadcloud/stead/internal/state"
)

// How long tokens are good for, as on AWS.
const (
	blockTokenLife = 7 * 24 * time.Hour
	pageTokenLife  = time.Hour
)

// What tokens are for.
const (
	tokenBlock   = 'b' // the block of a snapshot
	tokenBlocks  = 'l' // where a list of blocks goes on
	tokenChanged = 'c' // where a list of changed blocks does
)

// tokenKey signs tokens. A token is what it is for, a block index, when it
// expires, and an HMAC-SHA256 of these with whom and what it is for: so nothing
// needs to be kept of it, and a client can use it for nothing else.
type tokenKey []byte

const (
	tokenHead = 1 + 4 + 8
	tokenSize = tokenHead + sha256.Size
)

func (k tokenKey) mac(head []byte, s state.Scope, snaps []string) []byte {
	h := hmac.New(sha256.New, k)
	h.Write(head)
	for _, part := range append([]string{s.Account, s.Region}, snaps...) {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil)
}

// sign makes a token for an index in snapshots.
func (k tokenKey) sign(kind byte, index int64, until time.Time, s state.Scope, snaps ...string) string {
	b := make([]byte, 0, tokenSize)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(index))
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	return base64.StdEncoding.EncodeToString(append(b, k.mac(b, s, snaps)...))
}

// open gives the index in a token, or why it isn't one that was given for these
// snapshots and is still good.
func (k tokenKey) open(token string, kind byte, now time.Time, s state.Scope, snaps ...string) (index int64, wrong string) {
	b, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize || b[0] != kind || !hmac.Equal(b[tokenHead:], k.mac(b[:tokenHead:tokenHead], s, snaps)) {
		return 0, "is not one that was given for this"
	}
	if until := time.Unix(int64(binary.BigEndian.Uint64(b[5:])), 0); now.After(until) {
		return 0, "has expired at " + until.UTC().Format(time.RFC3339)
	}
	return int64(binary.BigEndian.Uint32(b[1:])), ""
}

// openPage gives where a list goes on.
func (c *Cloud) openPage(token string, kind byte, s state.Scope, snaps ...string) (int64, error) {
	index, wrong := c.tokens.open(token, kind, c.now(), s, snaps...)
	if wrong != "" {
		return 0, ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidPageToken, "The page token %s; list from the start again.", wrong)
	}
	return index, nil
}

// loadTokenKey reads the folder's key for tokens, making it at first start.
func loadTokenKey(path string) (tokenKey, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails (crypto/rand)
		if err := writeFile(path, key); err != nil {
			return nil, fmt.Errorf("write key for tokens: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key for tokens: %w", err)
	}
	if len(key) != sha256.Size || bytes.Equal(key, make([]byte, sha256.Size)) {
		return nil, fmt.Errorf("read key for tokens %s: not a key; remove the file and a new one is made", path)
	}
	return key, nil
}
