package dryrun_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/dryrun"
)

// silent is an endpoint that nobody may ask, but for its zones.
type silent struct{ asked []string }

func (s *silent) Do(r *http.Request) (*http.Response, error) {
	if form, err := io.ReadAll(r.Body); err == nil && strings.Contains(string(form), "Action=DescribeAvailabilityZones") {
		const zones = `<r><availabilityZoneInfo><item><zoneName>us-east-1a</zoneName></item></availabilityZoneInfo></r>`
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(zones))}, nil
	}
	s.asked = append(s.asked, r.URL.String())
	return nil, errors.New("the endpoint was asked")
}

// newClient is a client in a dry run of an endpoint that nobody may ask.
func newClient(t *testing.T) (*ec2.Client, *dryrun.Plan) {
	t.Helper()
	end := &silent{}
	o := ec2.Options{
		Region: "us-east-1", HTTPClient: end, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
	}
	plan := dryrun.NewPlan()
	cloud := plan.Over(ec2.New(o), "us-east-1")
	o.APIOptions = append(o.APIOptions, cloud.Attach)
	t.Cleanup(func() {
		if len(end.asked) > 0 {
			t.Errorf("the endpoint was asked %v", end.asked)
		}
	})
	return ec2.New(o), plan
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// TestDiskOfAPlan makes, finds, changes and deletes a volume that isn't there.
func TestDiskOfAPlan(t *testing.T) {
	c, plan := newClient(t)
	ctx := context.Background()
	in := &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(3), ClientToken: aws.String("once"),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}},
	}
	v, err := c.CreateVolume(ctx, in)
	if err != nil || !dryrun.Placeholder(*v.VolumeId) {
		t.Fatalf("made %v, %v", v, err)
	}
	in.ClientToken = aws.String("changed by the caller")
	if again, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: in.AvailabilityZone, ClientToken: aws.String("once")}); err != nil || *again.VolumeId != *v.VolumeId {
		t.Errorf("the same token made %v, %v", again, err)
	}
	// What a caller does to an answer isn't done to the view.
	ids := &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}}
	out, err := c.DescribeVolumes(ctx, ids)
	if err != nil || len(out.Volumes) != 1 || out.Volumes[0].State != types.VolumeStateAvailable {
		t.Fatalf("found %+v, %v", out, err)
	}
	*out.Volumes[0].Tags[0].Value = "spoilt"
	if out, err = c.DescribeVolumes(ctx, ids); err != nil || *out.Volumes[0].Tags[0].Value != "b" {
		t.Errorf("found %+v, %v", out, err)
	}
	if _, err := c.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: v.VolumeId, Size: aws.Int32(1)}); codeOf(err) != "InvalidParameterValue" {
		t.Errorf("made smaller: %v", err)
	}
	if _, err := c.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: v.VolumeId}); err != nil {
		t.Error(err)
	}
	if _, err := c.DescribeVolumes(ctx, ids); codeOf(err) != "InvalidVolume.NotFound" {
		t.Errorf("found once it is deleted: %v", err)
	}
	steps := plan.Steps()
	if len(steps) != 3 || steps[0].Operation != "CreateVolume" || *steps[0].Input.(*ec2.CreateVolumeInput).ClientToken != "once" || steps[2].Operation != "DeleteVolume" {
		t.Errorf("planned %+v", steps)
	}
}

// TestUnforeseen wants no guesses: neither of a call nor of a filter.
func TestUnforeseen(t *testing.T) {
	c, plan := newClient(t)
	ctx := context.Background()
	if _, err := c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")}); err == nil || !strings.Contains(err.Error(), "can't foresee what CreateVpc") {
		t.Errorf("an unknown call: %v", err)
	}
	if _, err := c.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{"vpc-1"}, Tags: []types.Tag{{Key: aws.String("a")}}}); err == nil {
		t.Error("tags on something unknown are foreseen")
	}
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(3)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}, Filters: []types.Filter{{Name: aws.String("moon-phase"), Values: []string{"full"}}}})
	if err == nil || !strings.Contains(err.Error(), "moon-phase") {
		t.Errorf("an unknown filter: %v", err)
	}
	if steps := plan.Steps(); len(steps) != 1 {
		t.Errorf("planned %+v", steps)
	}
}

func TestFilters(t *testing.T) {
	c, _ := newClient(t)
	ctx := context.Background()
	v, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(3),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{{Key: aws.String("stead:server"), Value: aws.String("web")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		name, value string
		found       bool
	}{
		{"tag:stead:server", "web", true},
		{"tag:stead:server", "w*", true},
		{"tag:stead:server", "w?b", true},
		{"tag:stead:server", "db", false},
		{"tag-key", "stead:server", true},
		{"tag-key", "other", false},
		{"status", "available", true},
		{"size", "3", true},
		{"attachment.instance-id", "i-1", false},
	} {
		out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{
			VolumeIds: []string{*v.VolumeId}, Filters: []types.Filter{{Name: &one.name, Values: []string{one.value}}},
		})
		if err != nil || (len(out.Volumes) == 1) != one.found {
			t.Errorf("%s=%s: %v, %v; want found %v", one.name, one.value, out, err, one.found)
		}
	}
}
