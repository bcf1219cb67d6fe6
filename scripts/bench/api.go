package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/cloud"
)

const aboutAPI = "Requests a second, one after another on one connection. stead runs with `--machines none`, " +
	"checks every signature, and has every change on the disk before it answers; moto's server keeps all in memory. " +
	"“Bare” requests are signed and the answer read to its end but not decoded: what the server takes. " +
	"“SDK” is what a Go program sees, its own decoding of the answer included."

const (
	instancesWanted = 1000
	zone            = "us-east-1a"
	apiLimit        = 2 * time.Minute // until resources are as wanted
)

// endpoint is one of the two servers compared.
type endpoint struct {
	client *ec2.Client
	bare   *bareClient
	image  string
	many   int // requests a round, so that a round takes about a second
}

// api compares the API with moto's server.
func api(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("none")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	ours, err := s.endpoint(ctx)
	if err != nil {
		return nil, err
	}
	sides := []*endpoint{ours}
	theirs, stop, err := startMoto(ctx, b)
	switch {
	case errors.Is(err, errNoMoto):
		b.say("moto_server is not installed: no comparison")
	case err != nil:
		return nil, err
	default:
		defer func() { err = errors.Join(err, stop()) }()
		sides = append(sides, theirs)
	}
	for _, load := range apiLoads() {
		r, err := load.measure(ctx, b, sides)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", load.what, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// apiLoad is one kind of request, sent again and again.
type apiLoad struct {
	what    string
	target  target
	prepare func(context.Context, *endpoint) error
	many    func(*endpoint) int // requests a round
	request func(context.Context, *endpoint) error
}

// apiLoads is in an order: the listings are of just the instances that fill
// launched, a hundred at a time. moto cuts an unlimited listing off after a
// hundred reservations.
func apiLoads() []apiLoad {
	describes := func(times int) func(*endpoint) int { return func(e *endpoint) int { return times * e.many } }
	twenty := func(*endpoint) int { return 20 }
	return []apiLoad{
		{
			what: "DescribeInstances, 1,000 instances, bare", target: ratioAtLeast(20), prepare: fill,
			many: describes(1), request: func(ctx context.Context, e *endpoint) error { return e.bare.describe(ctx) },
		},
		{what: "DescribeInstances, 1,000 instances, SDK", many: describes(1), request: describeAll},
		{what: "DescribeInstances, one ID of 1,000, SDK", many: describes(10), request: describeOne()},
		{what: "CreateVolume, SDK", many: twenty, request: createVolume},
		{what: "RunInstances of one beside 1,000, SDK", many: twenty, request: runInstance},
	}
}

// measure sends a round of requests to one side and then to the other, and
// again.
func (l apiLoad) measure(ctx context.Context, b *bench, sides []*endpoint) (row, error) {
	b.say("%s", l.what)
	r := row{what: l.what, unit: perSecond, against: "moto", target: l.target}
	rates := make([]series, 2)
	for _, e := range sides {
		if l.prepare != nil {
			if err := l.prepare(ctx, e); err != nil {
				return r, err
			}
		}
		if err := l.request(ctx, e); err != nil { // the first one warms up
			return r, err
		}
	}
	for range b.repeats(5) {
		for i, e := range sides {
			start, many := time.Now(), l.many(e)
			for range many {
				if err := l.request(ctx, e); err != nil {
					return r, err
				}
			}
			rates[i] = append(rates[i], float64(many)/time.Since(start).Seconds())
		}
	}
	r.ours, r.theirs = rates[0], rates[1]
	return r, nil
}

func createVolume(ctx context.Context, e *endpoint) error {
	_, err := e.client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(zone), Size: aws.Int32(1)})
	return err
}

func launchInstances(ctx context.Context, e *endpoint, n int32) error {
	_, err := e.client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: &e.image, MinCount: &n, MaxCount: &n, InstanceType: types.InstanceTypeT3Micro,
	})
	return err
}

func runInstance(ctx context.Context, e *endpoint) error { return launchInstances(ctx, e, 1) }

// fill launches instances up to the number wanted, and waits until they run.
func fill(ctx context.Context, e *endpoint) error {
	all, _, err := count(ctx, e)
	if err != nil {
		return err
	}
	for all < instancesWanted {
		n := min(100, instancesWanted-all)
		if err := launchInstances(ctx, e, int32(n)); err != nil {
			return err
		}
		all += n
	}
	return until(ctx, apiLimit, "1,000 running instances", func() (bool, error) {
		_, running, err := count(ctx, e)
		return running == instancesWanted, err
	})
}

func count(ctx context.Context, e *endpoint) (all, running int, err error) {
	out, err := e.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		return 0, 0, err
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			all++
			if i.State.Name == types.InstanceStateNameRunning {
				running++
			}
		}
	}
	return all, running, nil
}

func describeAll(ctx context.Context, e *endpoint) error {
	all, _, err := count(ctx, e)
	if err == nil && all != instancesWanted {
		err = fmt.Errorf("%d instances instead of %d", all, instancesWanted)
	}
	return err
}

// describeOne asks for the instance in the middle.
func describeOne() func(context.Context, *endpoint) error {
	ids := map[*endpoint]string{}
	return func(ctx context.Context, e *endpoint) error {
		in := &ec2.DescribeInstancesInput{}
		if id := ids[e]; id != "" {
			in.InstanceIds = []string{id}
		}
		out, err := e.client.DescribeInstances(ctx, in)
		if err != nil {
			return err
		}
		ids[e] = aws.ToString(out.Reservations[len(out.Reservations)/2].Instances[0].InstanceId)
		return nil
	}
}

// started starts the cloud in the background.
func (s *scratch) started(ctx context.Context) (*ec2.Client, cloud.Info, error) {
	if _, _, err := s.run(ctx, "cloud", "start", "-q"); err != nil {
		return nil, cloud.Info{}, err
	}
	return s.client(ctx)
}

// endpoint starts the cloud and registers an image there.
func (s *scratch) endpoint(ctx context.Context) (*endpoint, error) {
	client, info, err := s.started(ctx)
	if err != nil {
		return nil, err
	}
	e := &endpoint{client: client, bare: newBareClient(client, info.Endpoint, info.Region), many: 20}
	e.image, err = registerImage(ctx, client)
	return e, err
}

// registerImage makes an image of an empty disk.
func registerImage(ctx context.Context, client *ec2.Client) (string, error) {
	volume, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(zone), Size: aws.Int32(1)})
	if err != nil {
		return "", err
	}
	if err := waitVolume(ctx, client, *volume.VolumeId); err != nil {
		return "", err
	}
	snapshot, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: volume.VolumeId})
	if err != nil {
		return "", err
	}
	soon := func(o *ec2.SnapshotCompletedWaiterOptions) { o.MinDelay = 10 * time.Millisecond }
	if err := ec2.NewSnapshotCompletedWaiter(client, soon).Wait(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snapshot.SnapshotId}}, apiLimit); err != nil {
		return "", err
	}
	image, err := client.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("empty"), Architecture: types.ArchitectureValuesX8664, RootDeviceName: aws.String("/dev/sda1"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: snapshot.SnapshotId}}},
	})
	if err != nil {
		return "", err
	}
	return *image.ImageId, nil
}
