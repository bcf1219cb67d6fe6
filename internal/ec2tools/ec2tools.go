// Package ec2tools answers to the commands of the EC2 API tools that people
// and their notes still know, on today's API.
//
// The commands keep their names, their options and their output: lines of
// fields between tabs that scripts cut, each headed by what it tells of
// (INSTANCE, VOLUME, …). What the API has changed since stays hidden where
// that is possible: an image without a kernel is registered as HVM. Where it is
// not, the command that does the same today is printed.
package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// EC2 is what the commands need of an endpoint. *ec2.Client satisfies it.
type EC2 interface {
	imageAPI
	instanceAPI
	volumeAPI
	accessAPI
}

type imageAPI interface {
	RegisterImage(context.Context, *ec2.RegisterImageInput, ...func(*ec2.Options)) (*ec2.RegisterImageOutput, error)
	DeregisterImage(context.Context, *ec2.DeregisterImageInput, ...func(*ec2.Options)) (*ec2.DeregisterImageOutput, error)
	CreateImage(context.Context, *ec2.CreateImageInput, ...func(*ec2.Options)) (*ec2.CreateImageOutput, error)
	DescribeImages(context.Context, *ec2.DescribeImagesInput, ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error)
}

type instanceAPI interface {
	RunInstances(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error)
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
	StartInstances(context.Context, *ec2.StartInstancesInput, ...func(*ec2.Options)) (*ec2.StartInstancesOutput, error)
	StopInstances(context.Context, *ec2.StopInstancesInput, ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error)
	RebootInstances(context.Context, *ec2.RebootInstancesInput, ...func(*ec2.Options)) (*ec2.RebootInstancesOutput, error)
	TerminateInstances(context.Context, *ec2.TerminateInstancesInput, ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error)
	ModifyInstanceAttribute(context.Context, *ec2.ModifyInstanceAttributeInput, ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error)
}

type volumeAPI interface {
	CreateVolume(context.Context, *ec2.CreateVolumeInput, ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error)
	AttachVolume(context.Context, *ec2.AttachVolumeInput, ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error)
	DetachVolume(context.Context, *ec2.DetachVolumeInput, ...func(*ec2.Options)) (*ec2.DetachVolumeOutput, error)
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	CreateSnapshot(context.Context, *ec2.CreateSnapshotInput, ...func(*ec2.Options)) (*ec2.CreateSnapshotOutput, error)
	DeleteSnapshot(context.Context, *ec2.DeleteSnapshotInput, ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error)
	DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
}

type accessAPI interface {
	CreateKeyPair(context.Context, *ec2.CreateKeyPairInput, ...func(*ec2.Options)) (*ec2.CreateKeyPairOutput, error)
	CreateSecurityGroup(context.Context, *ec2.CreateSecurityGroupInput, ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	AuthorizeSecurityGroupIngress(context.Context, *ec2.AuthorizeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error)
	AuthorizeSecurityGroupEgress(context.Context, *ec2.AuthorizeSecurityGroupEgressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupEgressOutput, error)
	CreateTags(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error)
}

// Compile-time proof that the SDK's client serves.
var _ EC2 = (*ec2.Client)(nil)

// Endpoint is what a command's own options say about where to send the
// request. Empty fields leave it to the caller's context.
type Endpoint struct {
	Region, URL                                string
	AccessKeyID, SecretAccessKey, SessionToken string
}

// Connect makes a client for an endpoint. It is called after the arguments
// are checked.
type Connect func(ctx context.Context, e Endpoint) (EC2, error)

// Streams are where a command reads and writes: results to Stdout, help and
// notes to Stderr, and from Stdin what an argument of "-" stands for.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ErrUsage marks an error in a command's arguments.
var ErrUsage = errors.New("usage")

// ErrNotFound marks an error about what isn't there.
var ErrNotFound = errors.New("not found")

// usageError is a mistake in the arguments.
func usageError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// Tool tells of one command.
type Tool struct {
	Short   string   // "ec2reg"
	Long    []string // "ec2-register"
	Summary string
}

// Sub is the name under `stead ec2`: "reg" for ec2reg.
func (t Tool) Sub() string { return strings.TrimPrefix(t.Short, prefix) }

// Names are all that a program may be called to be the command.
func (t Tool) Names() []string { return append([]string{t.Short}, t.Long...) }

const prefix = "ec2"

// Tools lists the commands.
func Tools() []Tool {
	var list []Tool
	for _, c := range commands() {
		list = append(list, c.Tool)
	}
	return list
}

// find looks a command up by a name it goes by: ec2reg, ec2-register, and reg
// or register as in `stead ec2 reg`.
func find(name string) (command, bool) {
	for _, c := range commands() {
		for _, n := range c.Names() {
			if name == n || name == strings.TrimPrefix(strings.TrimPrefix(n, prefix), "-") {
				return c, true
			}
		}
	}
	return command{}, false
}

// Known tells whether argv0, with or without a path, is the name of a command.
func Known(argv0 string) bool {
	name := path.Base(argv0)
	c, ok := find(name)
	return ok && slices.Contains(c.Names(), name)
}

// Run runs the command called name ("ec2reg", "ec2-register", or "reg" as in
// `stead ec2 reg`) with args.
func Run(ctx context.Context, connect Connect, name string, args []string, s Streams) error {
	c, ok := find(path.Base(name))
	if !ok {
		return usageError("no EC2 tool is called %q", name)
	}
	return c.execute(ctx, connect, args, s)
}
