package cloud

import (
	"encoding/base64"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const pagePrefix = "after:"

// notPaged refuses to page through what was named, as EC2 does.
func notPaged(ids []string, limit *int32, set string) error {
	if len(ids) > 0 && limit != nil {
		return fail("InvalidParameterCombination", "The parameter %s cannot be used with the parameter maxResults", set)
	}
	return nil
}

// paginate cuts one page out of recs, which are ordered by ID. The token names
// the last record of the page before, so that records that come or go between
// two calls never make a page skip or repeat another.
func paginate[T record](recs []T, limit *int32, token *string) ([]T, *string, error) {
	if token != nil && *token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(*token)
		last, ok := strings.CutPrefix(string(raw), pagePrefix)
		if err != nil || !ok {
			return nil, nil, fail("InvalidNextToken", "The token '%s' is invalid", *token)
		}
		for len(recs) > 0 && recs[0].Common().ID <= last {
			recs = recs[1:]
		}
	}
	if limit == nil || *limit == 0 {
		return recs, nil, nil
	}
	if *limit < 1 || *limit > 10000 {
		return nil, nil, invalid(*limit, "MaxResults", "Expecting a value from 1 to 10000.")
	}
	if n := int(*limit); len(recs) > n {
		last := recs[n-1].Common().ID
		return recs[:n], aws.String(base64.RawURLEncoding.EncodeToString([]byte(pagePrefix + last))), nil
	}
	return recs, nil, nil
}
