package cloud

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// wantCode fails the test unless err is the EC2 error with the code.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Fatalf("error is %v, want %s", err, code)
	}
}

func makeVolume(t *testing.T, client *ec2.Client, in *ec2.CreateVolumeInput) string {
	t.Helper()
	ctx := context.Background()
	out, err := client.CreateVolume(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if out.State != types.VolumeStateCreating {
		t.Errorf("a new volume is %s", out.State)
	}
	w := ec2.NewVolumeAvailableWaiter(client, func(o *ec2.VolumeAvailableWaiterOptions) {
		o.MinDelay, o.MaxDelay = time.Millisecond, 10*time.Millisecond
	})
	if err := w.Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*out.VolumeId}}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return *out.VolumeId
}

func TestVolumeIsAFileOfItsSize(t *testing.T) {
	c, client := newTestCloud(t)
	id := makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1b"), Size: aws.Int32(3), VolumeType: types.VolumeTypeGp3})
	st, err := os.Stat(c.volumes.Path(id))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() != 3*gib {
		t.Errorf("the file has %d bytes", st.Size())
	}
	if _, err := client.DeleteVolume(context.Background(), &ec2.DeleteVolumeInput{VolumeId: &id}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err = client.DescribeVolumes(context.Background(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		if err != nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	wantCode(t, err, "InvalidVolume.NotFound")
	if _, err := os.Stat(c.volumes.Path(id)); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestDescribeNamedVolumes(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	create := func() string { // each time anew: the SDK notes a token in its input
		return makeVolume(t, client, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	}
	a, b, other := create(), create(), create()
	if a > b {
		a, b = b, a
	}
	// In whatever order and however often they are named, each comes once.
	out, err := client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{b, a, b}})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Volumes) != 2 || *out.Volumes[0].VolumeId != a || *out.Volumes[1].VolumeId != b {
		t.Errorf("asked for %s and %s beside %s, got %d: %v", a, b, other, len(out.Volumes), out.Volumes)
	}
	_, err = client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{a, "vol-0123456789abcdef0"}})
	wantCode(t, err, "InvalidVolume.NotFound")
	_, err = client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{a, "vol-"}})
	wantCode(t, err, "InvalidParameterValue")
}
