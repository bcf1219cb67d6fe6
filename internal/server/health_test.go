package server_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// ailing is an endpoint whose instances all stand still, or one that knows no
// status checks.
type ailing struct {
	server.EC2
	lacks bool
}

func (a ailing) DescribeInstanceStatus(_ context.Context, in *ec2.DescribeInstanceStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceStatusOutput, error) {
	if a.lacks {
		return nil, &smithy.GenericAPIError{Code: "InvalidAction", Message: "no such action"}
	}
	out := &ec2.DescribeInstanceStatusOutput{}
	for _, id := range in.InstanceIds {
		out.InstanceStatuses = append(out.InstanceStatuses, types.InstanceStatus{
			InstanceId: &id, InstanceStatus: &types.InstanceStatusSummary{Status: types.SummaryStatusImpaired},
		})
	}
	return out, nil
}

func (a ailing) DescribeVolumeStatus(_ context.Context, in *ec2.DescribeVolumeStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumeStatusOutput, error) {
	return &ec2.DescribeVolumeStatusOutput{VolumeStatuses: []types.VolumeStatusItem{{
		VolumeId: &in.VolumeIds[0], VolumeStatus: &types.VolumeStatusInfo{Status: types.VolumeStatusInfoStatusImpaired},
		Events: []types.VolumeStatusEvent{{Description: aws.String("the disk of the host is full")}},
	}}}, nil
}

// A machine that stands still shows why, and an endpoint without status checks
// costs nothing.
func TestImpairedServerWarns(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	_, err := b.manager(b.client).Create(t.Context(), b.faultOptions())
	b.check(err)
	for _, lacks := range []bool{false, true} {
		m := b.manager(ailing{b.client, lacks})
		list, err := m.List(t.Context())
		b.check(err)
		one, err := m.Get(t.Context(), "web")
		b.check(err)
		for _, s := range append(list, *one) {
			if told := strings.Contains(strings.Join(s.Warnings, " "), "disk of the host is full"); told == lacks {
				t.Errorf("lacking status checks %v: warnings are %q", lacks, s.Warnings)
			}
		}
	}
}
