package cloud

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func spotMarket(o *types.SpotMarketOptions) *types.InstanceMarketOptionsRequest {
	return &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot, SpotOptions: o}
}

func persistent() *types.InstanceMarketOptionsRequest {
	return spotMarket(&types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypePersistent, InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorStop})
}

// launchSpot launches a spot instance with a root that is kept, and gives its
// ID and its request's.
func launchSpot(t *testing.T, c *Cloud, client *ec2.Client, market *types.InstanceMarketOptionsRequest) (id, request string) {
	t.Helper()
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "spot-"+snap, ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap, DeleteOnTermination: aws.Bool(false)}))
	id = launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image, InstanceMarketOptions: market, TagSpecifications: []types.TagSpecification{
		{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("web")}}},
		{ResourceType: types.ResourceTypeSpotInstancesRequest, Tags: []types.Tag{{Key: aws.String("of"), Value: aws.String("web")}}},
	}})
	i := describe(t, client, id)
	if i.InstanceLifecycle != types.InstanceLifecycleTypeSpot || i.SpotInstanceRequestId == nil {
		t.Fatalf("the instance's life cycle is %q of request %v", i.InstanceLifecycle, i.SpotInstanceRequestId)
	}
	return id, *i.SpotInstanceRequestId
}

func spotRequest(t *testing.T, client *ec2.Client, id string) types.SpotInstanceRequest {
	t.Helper()
	out, err := client.DescribeSpotInstanceRequests(t.Context(), &ec2.DescribeSpotInstanceRequestsInput{SpotInstanceRequestIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.SpotInstanceRequests[0]
}

func wantSpot(t *testing.T, client *ec2.Client, id string, want types.SpotInstanceState, code string) types.SpotInstanceRequest {
	t.Helper()
	r := spotRequest(t, client, id)
	if r.State != want || *r.Status.Code != code {
		t.Errorf("request is %s with %s, want %s with %s", r.State, *r.Status.Code, want, code)
	}
	return r
}

func cancelSpot(t *testing.T, client *ec2.Client, id string) {
	t.Helper()
	out, err := client.CancelSpotInstanceRequests(t.Context(), &ec2.CancelSpotInstanceRequestsInput{SpotInstanceRequestIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if s := out.CancelledSpotInstanceRequests[0].State; s != types.CancelSpotInstanceRequestStateCancelled {
		t.Errorf("a cancelled request is %s", s)
	}
}

func stopped(t *testing.T, client *ec2.Client, id string) {
	t.Helper()
	if _, err := client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
}

func terminated(t *testing.T, client *ec2.Client, id string) {
	t.Helper()
	if _, err := client.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
}

// Who terminates without cancelling first gets another instance, and so on
// until the request is cancelled.
func TestTrap10TerminatingLaunchesAnother(t *testing.T) {
	c, client := newTestCloud(t)
	id, req := launchSpot(t, c, client, persistent())
	wantSpot(t, client, req, types.SpotInstanceStateActive, "fulfilled")
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	terminated(t, client, id)
	var next string
	eventually(t, "another instance", func() bool {
		r := spotRequest(t, client, req)
		next = aws.ToString(r.InstanceId)
		return next != id && r.State == types.SpotInstanceStateActive
	})
	i := waitInstance(t, client, next, types.InstanceStateNameRunning)
	if *i.BlockDeviceMappings[0].Ebs.VolumeId == root || *i.Tags[0].Value != "web" || *i.SpotInstanceRequestId != req {
		t.Errorf("the other one is %+v", i)
	}
	if s := volumeState(t, client, root); s != types.VolumeStateAvailable {
		t.Errorf("the kept root is %s", s)
	}
	cancelSpot(t, client, req)
	wantSpot(t, client, req, types.SpotInstanceStateCancelled, "request-canceled-and-instance-running")
	waitInstance(t, client, next, types.InstanceStateNameRunning)
	terminated(t, client, next)
	c.work.wait()
	wantSpot(t, client, req, types.SpotInstanceStateCancelled, "instance-terminated-by-user")
	out, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filters("instance-lifecycle", "spot", "spot-instance-request-id", req)})
	if err != nil || len(out.Reservations) != 2 {
		t.Errorf("%d instances were launched, want 2 (%v)", len(out.Reservations), err)
	}
}

// Cancelling the request of a stopped instance terminates it.
func TestTrap10CancellingTerminatesAStoppedOne(t *testing.T) {
	c, client := newTestCloud(t)
	id, req := launchSpot(t, c, client, persistent())
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	stopped(t, client, id)
	wantSpot(t, client, req, types.SpotInstanceStateDisabled, "instance-stopped-by-user")
	cancelSpot(t, client, req)
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	if s := volumeState(t, client, root); s != types.VolumeStateAvailable {
		t.Errorf("the kept root is %s", s)
	}
}

// Starting one whose root was taken away terminates it.
func TestTrap10StartWithoutRootTerminates(t *testing.T) {
	c, client := newTestCloud(t)
	id, req := launchSpot(t, c, client, persistent())
	root := *describe(t, client, id).BlockDeviceMappings[0].Ebs.VolumeId
	stopped(t, client, id)
	if _, err := client.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &root}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	eventually(t, "another instance", func() bool { return aws.ToString(spotRequest(t, client, req).InstanceId) != id })
}

// What a spot instance can't have: protection, another type, and, for a
// one-time request, a stop.
func TestTrap10WhatSpotCannotHave(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	id, req := launchSpot(t, c, client, spotMarket(nil))
	_, err := client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "UnsupportedOperation")
	_, err = client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}})
	wantCode(t, err, "UnsupportedOperation")
	terminated(t, client, id)
	c.work.wait()
	r := wantSpot(t, client, req, types.SpotInstanceStateClosed, "instance-terminated-by-user")
	if *r.InstanceId != id || r.Type != types.SpotInstanceTypeOneTime || *r.Tags[0].Value != "web" {
		t.Errorf("the request is %+v", r)
	}
	id, _ = launchSpot(t, c, client, persistent())
	stopped(t, client, id)
	_, err = client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, InstanceType: &types.AttributeValue{Value: aws.String("t3.large")}})
	wantCode(t, err, "UnsupportedOperation")
	for name, tc := range map[string]struct {
		in   ec2.RunInstancesInput
		code string
	}{
		"protected":             {ec2.RunInstancesInput{DisableApiTermination: aws.Bool(true), InstanceMarketOptions: spotMarket(nil)}, "InvalidParameterCombination"},
		"persistent, terminate": {ec2.RunInstancesInput{InstanceMarketOptions: spotMarket(&types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypePersistent})}, "InvalidParameterCombination"},
		"one-time, stop":        {ec2.RunInstancesInput{InstanceMarketOptions: spotMarket(&types.SpotMarketOptions{InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorStop})}, "InvalidParameterCombination"},
		"one-time, until":       {ec2.RunInstancesInput{InstanceMarketOptions: spotMarket(&types.SpotMarketOptions{ValidUntil: aws.Time(time.Now().Add(time.Hour))})}, "InvalidParameterCombination"},
		"hibernate":             {ec2.RunInstancesInput{InstanceMarketOptions: spotMarket(&types.SpotMarketOptions{InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorHibernate})}, "UnsupportedOperation"},
		"price":                 {ec2.RunInstancesInput{InstanceMarketOptions: spotMarket(&types.SpotMarketOptions{MaxPrice: aws.String("0.0001")})}, "InvalidParameterValue"},
		"another market":        {ec2.RunInstancesInput{InstanceMarketOptions: &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeCapacityBlock}}, "UnsupportedOperation"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.in.ImageId, tc.in.MinCount, tc.in.MaxCount = describe(t, client, id).ImageId, aws.Int32(1), aws.Int32(1)
			_, err := client.RunInstances(ctx, &tc.in)
			wantCode(t, err, tc.code)
		})
	}
}

// A request that waits for an instance when its daemon dies gets it from the
// next one; one that can't be launched any more has failed.
func TestSpotRequestSurvivesItsDaemon(t *testing.T) {
	dir, m := Dir(t.TempDir()), &moody{}
	c, client, end := openMoody(t, dir, m)
	_, good := launchSpot(t, c, client, persistent())
	_, bad := launchSpot(t, c, client, persistent())
	m.rest()
	c.work.wait()
	for _, id := range []string{good, bad} {
		err := amend(c, job{"spot-request", testScope, id}, func(_ *state.Tx, r *state.SpotRequest) error {
			c.setSpot(r, state.SpotOpen, spotPending, "")
			if id == bad {
				r.Launch.Devices[0].SnapshotID = "snap-0123456789abcdef0"
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	was := *spotRequest(t, client, good).InstanceId
	end()
	_, client, _ = openMoody(t, dir, m)
	eventually(t, "another instance", func() bool { return *spotRequest(t, client, good).InstanceId != was })
	eventually(t, "failed", func() bool { return spotRequest(t, client, bad).State == types.SpotInstanceStateFailed })
	if r := spotRequest(t, client, bad); *r.Status.Code != spotBad || r.Status.Message == nil {
		t.Errorf("the one that failed is %+v", r)
	}
}

func TestSpotPricesAreNotMadeUp(t *testing.T) {
	_, client := newTestCloud(t)
	out, err := client.DescribeSpotPriceHistory(t.Context(), &ec2.DescribeSpotPriceHistoryInput{InstanceTypes: []types.InstanceType{"t3.micro"}, Filters: filters("product-description", "Linux/UNIX")})
	if err != nil || len(out.SpotPriceHistory) != 0 {
		t.Errorf("prices are %v, %v", out, err)
	}
	_, err = client.DescribeSpotPriceHistory(t.Context(), &ec2.DescribeSpotPriceHistoryInput{AvailabilityZone: aws.String("us-east-1z")})
	wantCode(t, err, "InvalidZone.NotFound")
	_, err = client.RequestSpotInstances(t.Context(), &ec2.RequestSpotInstancesInput{})
	wantCode(t, err, "UnsupportedOperation")
	_, err = client.CancelSpotInstanceRequests(t.Context(), &ec2.CancelSpotInstanceRequestsInput{SpotInstanceRequestIds: []string{"sir-01234567"}})
	wantCode(t, err, "InvalidSpotInstanceRequestID.NotFound")
}

// Capacity that is taken back stops the instance; nobody but its return starts
// it again, and cancelling the request ends it.
func TestTrap10Interrupted(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	id, req := launchSpot(t, c, client, persistent())
	for range 2 {
		if err := c.InterruptSpot(testScope, id, false); err != nil {
			t.Fatal(err)
		}
	}
	i := waitInstance(t, client, id, types.InstanceStateNameStopped)
	if i.StateReason == nil || *i.StateReason.Code != "Server.SpotInstanceShutdown" {
		t.Errorf("it is stopped for %+v", i.StateReason)
	}
	wantSpot(t, client, req, types.SpotInstanceStateOpen, "instance-stopped-no-capacity")
	_, err := client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "IncorrectSpotRequestState")
	if err := c.InterruptSpot(testScope, id, true); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameRunning)
	wantSpot(t, client, req, types.SpotInstanceStateActive, "fulfilled")
	wantRefused := func(err error, code string) {
		t.Helper()
		var api *apiError
		if !errors.As(err, &api) || api.Code != code {
			t.Errorf("error is %v, want %s", err, code)
		}
	}
	wantRefused(c.InterruptSpot(testScope, id, true), "IncorrectInstanceState")

	if err := c.InterruptSpot(testScope, id, false); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
	cancelSpot(t, client, req)
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	once, oneTime := launchSpot(t, c, client, spotMarket(nil))
	if err := c.InterruptSpot(testScope, once, false); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, once, types.InstanceStateNameTerminated)
	c.work.wait()
	wantSpot(t, client, oneTime, types.SpotInstanceStateClosed, "instance-terminated-no-capacity")
	wantRefused(c.InterruptSpot(testScope, "i-0123456789abcdef0", false), "InvalidInstanceID.NotFound")
}
