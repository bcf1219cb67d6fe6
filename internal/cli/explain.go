package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"github.com/steadcloud/stead/internal/awscli"
	"github.com/steadcloud/stead/internal/dryrun"
)

// explain is a flag's value: which calls are shown.
type explain string

const (
	explainChanges explain = "changes"
	explainAll     explain = "all"
)

// String returns what is shown, "" for nothing.
func (e *explain) String() string { return string(*e) }

// Set reads what to show.
func (e *explain) Set(s string) error {
	switch explain(s) {
	case explainChanges, explainAll:
		*e = explain(s)
		return nil
	}
	return fmt.Errorf("%q is neither changes nor all", s)
}

// Type names the value in help texts.
func (e *explain) Type() string { return "CALLS" }

// explainer shows each call as the command line that does the same, before it
// is made.
type explainer struct {
	say    func(line string)
	all    bool
	region string // what needs no --region
}

// ID implements middleware.InitializeMiddleware.
func (explainer) ID() string { return "stead explain" }

// HandleInitialize implements middleware.InitializeMiddleware.
func (e explainer) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
	operation := middleware.GetOperationName(ctx)
	if ctx.Value(explainedCall{}) != nil {
		return next.HandleInitialize(ctx, in)
	}
	if e.all || !dryrun.Reads(operation) {
		e.say(awscli.Line(awsmiddleware.GetServiceID(ctx), operation, in.Parameters) + regionFlag(awsmiddleware.GetRegion(ctx), e.region))
	}
	return next.HandleInitialize(context.WithValue(ctx, explainedCall{}, true), in)
}

// explainedCall marks the context of a call that was shown: what the SDK signs
// to send along with it is no call of its own.
type explainedCall struct{}

// regionFlag is what a line ends with whose region isn't the context's own.
func regionFlag(region, own string) string {
	if region == "" || region == own {
		return ""
	}
	return " --region " + region
}

func (e explainer) attach(stack *middleware.Stack) error {
	if _, ok := stack.Initialize.Get(dryrun.Signer); ok {
		return stack.Initialize.Insert(e, dryrun.Signer, middleware.Before)
	}
	return stack.Initialize.Add(e, middleware.After)
}

// decorate puts --explain and --dry-run into every client that will be made of
// a configuration. It is the only way to one, so that no verb can forget it.
func (a *App) decorate(cfg aws.Config) aws.Config {
	a.region = cmp.Or(a.region, cfg.Region)
	cfg.APIOptions = slices.Clone(cfg.APIOptions)
	plain := cfg
	if a.flags.explain != "" && (a.plan == nil || a.flags.explain == explainAll) {
		e := explainer{say: a.explained, all: a.flags.explain == explainAll, region: a.region}
		cfg.APIOptions = append(cfg.APIOptions, e.attach)
	}
	if a.plan != nil {
		cfg.APIOptions = append(cfg.APIOptions, a.foreseen(plain).Attach)
	}
	return cfg
}

// explained prints a line of --explain on stderr, above the live progress.
func (a *App) explained(line string) {
	if a.shown == nil {
		fmt.Fprintln(a.Stderr, line)
		return
	}
	a.shown.explain(line)
}
