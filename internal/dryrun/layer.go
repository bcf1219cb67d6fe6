package dryrun

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// layer is a Cloud as a step of a client's middleware.
type layer struct{ cloud *Cloud }

// ID implements middleware.InitializeMiddleware.
func (layer) ID() string { return "stead dry run" }

// HandleInitialize implements middleware.InitializeMiddleware.
func (l layer) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (out middleware.InitializeOutput, metadata middleware.Metadata, err error) {
	service, operation := awsmiddleware.GetServiceID(ctx), middleware.GetOperationName(ctx)
	if !Reads(operation) {
		out.Result, err = l.cloud.change(ctx, service, operation, in.Parameters)
		return out, metadata, err
	}
	ask := func(ctx context.Context, q any) (any, error) {
		res, md, err := next.HandleInitialize(ctx, middleware.InitializeInput{Parameters: q})
		metadata = md
		return res.Result, err
	}
	out.Result, err = l.cloud.read(ctx, in.Parameters, ask)
	return out, metadata, err
}

// asker passes a read on to the endpoint.
type asker func(ctx context.Context, in any) (any, error)

// Reads tells whether an operation only reads. AWS names its operations so;
// what has another name changes something.
func Reads(operation string) bool {
	for _, prefix := range []string{"Describe", "Get", "List", "Search", "Lookup", "Head"} {
		if strings.HasPrefix(operation, prefix) {
			return true
		}
	}
	return operation == "ListChangedBlocks"
}

// change foresees a call that changes something. The plan has it only if it
// would succeed.
func (c *Cloud) change(ctx context.Context, service, operation string, in any) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := c.apply(ctx, in)
	if err != nil {
		return nil, err
	}
	if out == nil {
		return nil, &smithy.GenericAPIError{
			Code:    "UnsupportedOperation.DryRun",
			Message: fmt.Sprintf("a dry run can't foresee what %s of %s does", operation, service),
		}
	}
	step := Step{Service: service, Operation: operation, Region: c.region, Place: c.name}
	if put, ok := in.(*ebs.PutSnapshotBlockInput); ok {
		c.plan.put(step, put)
		return out, nil
	}
	if done, ok := in.(*ebs.CompleteSnapshotInput); ok && aws.ToInt32(done.ChangedBlocksCount) < 0 {
		in = &ebs.CompleteSnapshotInput{SnapshotId: done.SnapshotId} // as many as there will be
	}
	step.Input = clone(in)
	c.plan.Add(step)
	return out, nil
}

// codeOf is the code of an endpoint's refusal, "" where it is none.
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// refuse is an error as the endpoint would answer it.
func refuse(code, format string, args ...any) error {
	return &smithy.GenericAPIError{Code: code, Message: fmt.Sprintf(format, args...), Fault: smithy.FaultClient}
}
