package server_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go/middleware"

	"github.com/steadcloud/stead/internal/server"
)

// callsFile lists the API actions that Managers send, as IAM calls them. The
// policy in docs is made of it and of its like in internal/cli.
const callsFile = "testdata/calls.txt"

var updateCalls = flag.Bool("update", false, "write "+callsFile+" anew; run all tests with it")

// sent are the actions that this run's Managers have sent.
var sent struct {
	sync.Mutex
	actions map[string]bool
}

// recorded returns the client with each call noted.
func recorded(api server.EC2) server.EC2 {
	c, ok := api.(*ec2.Client)
	if !ok {
		return api
	}
	return ec2.New(c.Options(), func(o *ec2.Options) { o.APIOptions = append(o.APIOptions, noteCalls) })
}

func recordedSSM(c *ssm.Client) *ssm.Client {
	return ssm.New(c.Options(), func(o *ssm.Options) { o.APIOptions = append(o.APIOptions, noteCalls) })
}

func noteCalls(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("note", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		noteCall(awsmiddleware.GetServiceID(ctx), middleware.GetOperationName(ctx))
		return next.HandleInitialize(ctx, in)
	}), middleware.After)
}

func noteCall(service, operation string) {
	sent.Lock()
	defer sent.Unlock()
	if sent.actions == nil {
		sent.actions = map[string]bool{}
	}
	sent.actions[strings.ToLower(service)+":"+operation] = true
}

// checkCalls holds the list of actions true: each that was sent is on it, and,
// when all tests ran, none is on it that nothing sends.
func checkCalls() error {
	sent.Lock()
	defer sent.Unlock()
	got := slices.Sorted(maps.Keys(sent.actions))
	if !*updateCalls && os.Getenv("STEAD_STRICT") != "1" {
		return nil // whoever adds a call has enough to think of
	}
	if *updateCalls {
		return os.WriteFile(callsFile, []byte(strings.Join(got, "\n")+"\n"), 0o644)
	}
	text, err := os.ReadFile(callsFile)
	if err != nil {
		return err
	}
	listed := strings.Fields(string(text))
	all := flag.Lookup("test.run").Value.String() == "" && os.Getenv("STEAD_TEST_EC2_URL") == "" && len(got) > 0
	var wrong []error
	for _, a := range got {
		if !slices.Contains(listed, a) {
			wrong = append(wrong, fmt.Errorf("%s is sent, and isn't in %s: run the tests with -update, then those of internal/cli", a, callsFile))
		}
	}
	for _, a := range listed {
		if all && !sent.actions[a] {
			wrong = append(wrong, fmt.Errorf("%s is in %s, and no test sends it", a, callsFile))
		}
	}
	return errors.Join(wrong...)
}
