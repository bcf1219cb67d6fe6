// Package ec2tools answers to the commands of the EC2 API tools that people
// and their notes still know, on today's API. So far that is ec2-register,
// ec2reg for short.
//
// The commands keep their options and their output, tab-separated lines that
// scripts cut. What the API has changed since stays hidden: an image without
// a kernel is registered as HVM.
package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

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

// Connect makes a client for an endpoint. It is called after the arguments
// are checked.
type Connect func(ctx context.Context, e Endpoint) (EC2, error)

// ErrUsage marks an error in a command's arguments.
var ErrUsage = errors.New("usage")

// usageError is a mistake in the arguments.
func usageError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// command is one of the tools, under all its names; the first is shown.
type command struct {
	names []string
	run   func(ctx context.Context, connect Connect, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{names: []string{"ec2-register", "ec2reg", "register", "reg"}, run: Register},
	}
}

// find looks a command up by a name it goes by. Its short name without the
// ec2 prefix only counts as in `stead ec2 reg`, not as a program's name.
func find(name string) (command, bool) {
	for _, c := range commands() {
		if slices.Contains(c.names, name) {
			return c, true
		}
	}
	return command{}, false
}

// Known tells whether argv0, with or without a path, is the name of a command.
func Known(argv0 string) bool {
	name := path.Base(argv0)
	_, ok := find(name)
	return ok && len(name) > 3 && name[:3] == "ec2"
}

// Names lists the commands by their short names, for help and completion.
func Names() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.names[len(c.names)-1])
	}
	return names
}

// Run runs the command called name ("ec2reg", "ec2-register", or "reg" as in
// `stead ec2 reg`) with args. Results go to stdout, help and notes to stderr.
func Run(ctx context.Context, connect Connect, name string, args []string, stdout, stderr io.Writer) error {
	c, ok := find(path.Base(name))
	if !ok {
		return usageError("no EC2 tool is called %q", name)
	}
	return c.run(ctx, connect, args, stdout, stderr)
}
