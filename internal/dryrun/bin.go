package dryrun

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/rbin"
)

// applyBin foresees changes of the Recycle Bin's rules, which nothing else of a
// plan depends on.
func (c *Cloud) applyBin(_ context.Context, in any) (any, error) {
	switch in.(type) {
	case *rbin.CreateRuleInput:
		return &rbin.CreateRuleOutput{}, nil
	case *rbin.UpdateRuleInput:
		return &rbin.UpdateRuleOutput{}, nil
	case *rbin.DeleteRuleInput:
		return &rbin.DeleteRuleOutput{}, nil
	}
	return nil, nil
}
