package state

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Hint looks at a record's stored bytes and says false when it can't be one
// that is looked for. It spares decoding those, which is most of a long list's
// cost. true promises nothing.
type Hint func(stored []byte) bool

// MayHaveTag hints at records whose tag has one of the values.
func MayHaveTag(key string, values ...string) Hint {
	return mayHold(values, func(value string) string { return quoted(key) + ":" + quoted(value) })
}

// MayHaveKey hints at records with a tag of one of the keys.
func MayHaveKey(keys ...string) Hint {
	return mayHold(keys, func(key string) string { return quoted(key) + ":" })
}

func mayHold(wanted []string, as func(string) string) Hint {
	written := make([][]byte, len(wanted))
	for i, s := range wanted {
		written[i] = []byte(as(s))
	}
	return func(stored []byte) bool {
		return slices.ContainsFunc(written, func(w []byte) bool { return bytes.Contains(stored, w) })
	}
}

// quoted is a string as Put writes it.
func quoted(s string) string {
	raw, _ := json.Marshal(s) // no string fails
	return string(raw)
}

// passes tells whether a stored record is to be decoded. One of an older
// version may have been written in another way.
func passes(stored []byte, rec Record, hints []Hint) bool {
	if len(hints) == 0 || !bytes.HasPrefix(stored, encode(rec.Version(), nil)) {
		return true
	}
	for _, hint := range hints {
		if !hint(stored) {
			return false
		}
	}
	return true
}
