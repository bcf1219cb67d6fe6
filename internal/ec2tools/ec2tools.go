// Package ec2tools answers to the commands of the EC2 API tools that people
// and their notes still know, on today's API.
package ec2tools

import (
	"context"
	"errors"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// EC2 is what the commands need of an endpoint. *ec2.Client satisfies it.
type EC2 interface {
	RegisterImage(context.Context, *ec2.RegisterImageInput, ...func(*ec2.Options)) (*ec2.RegisterImageOutput, error)
}

// Endpoint is what a command's own options say about where to send the
// request. Empty fields leave it to the caller's context.
type Endpoint struct {
	Region, URL                                string
	AccessKeyID, SecretAccessKey, SessionToken string
}

// Connect makes a client for an endpoint.
type Connect func(ctx context.Context, e Endpoint) (EC2, error)

// ErrUsage marks an error in a command's arguments.
var ErrUsage = errors.New("usage")

// Known tells whether argv0 is the name of a command, also with a path.
func Known(argv0 string) bool { return false }

// Run runs the command called name ("ec2reg", "ec2-register", or "reg" as in
// `stead ec2 reg`) with args.
func Run(ctx context.Context, connect Connect, name string, args []string, stdout, stderr io.Writer) error {
	return errors.ErrUnsupported
}
