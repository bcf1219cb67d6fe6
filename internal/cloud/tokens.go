package cloud

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"

	"github.com/steadcloud/stead/internal/state"
)

// once makes a request with a client token idempotent: the first one runs
// create and records the IDs it made; one that repeats it gets the same IDs;
// one with the same token and other parameters is refused. All within tx, so
// that a token is never recorded without its result.
func (c *Cloud) once(tx *state.Tx, s state.Scope, action string, token *string, params any, create func() ([]string, error)) ([]string, error) {
	if token == nil || *token == "" {
		return create()
	}
	if len(*token) > 64 {
		return nil, invalid(*token, "ClientToken", "A client token has at most 64 characters.")
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	hash := hex.EncodeToString(sum[:])
	id := action + ":" + hex.EncodeToString([]byte(*token))
	switch t, err := state.Get[state.Token](tx, s, id); {
	case err == nil && t.Hash != hash:
		return nil, fail("IdempotentParameterMismatch", "The client token '%s' was used before with other parameters.", *token)
	case err == nil:
		return t.Results, nil
	case !errors.Is(err, state.ErrNotFound):
		return nil, err
	}
	ids, err := create()
	if err != nil {
		return nil, err
	}
	t := &state.Token{Meta: state.Meta{Account: s.Account, Region: s.Region, ID: id, Created: c.now().UTC()}, Hash: hash, Results: ids}
	return ids, state.Put(tx, t)
}

// dropTokens forgets the tokens of a resource that is gone, once nothing of
// what they made is left: a request that repeats one makes something new.
func dropTokens(tx *state.Tx, s state.Scope, id string) error {
	tokens, err := state.List[state.Token](tx, s)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if slices.Contains(t.Results, id) && !anyLeft(tx, s, t.Results, id) {
			if err := state.Delete(tx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func anyLeft(tx *state.Tx, s state.Scope, ids []string, gone string) bool {
	return slices.ContainsFunc(ids, func(id string) bool {
		_, instErr := state.Get[state.Instance](tx, s, id)
		_, volErr := state.Get[state.Volume](tx, s, id)
		return id != gone && (instErr == nil || volErr == nil)
	})
}
