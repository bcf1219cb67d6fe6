package cloud

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// eventIOPaused is the event of a volume whose machine stands still for it.
const eventIOPaused = "io-paused"

// DescribeVolumeStatus says ok of every volume whose file is complete.
func (c *Cloud) DescribeVolumeStatus(ctx context.Context, in *ec2.DescribeVolumeStatusInput) (*ec2.DescribeVolumeStatusOutput, error) {
	page, next, err := c.listVolumes(ctx, in.VolumeIds, in.Filters, c.volumeStatusFilters(), in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumeStatusOutput{NextToken: next}
	for _, v := range page {
		item := types.VolumeStatusItem{
			VolumeId: aws.String(v.ID), AvailabilityZone: aws.String(v.Zone), VolumeStatus: &types.VolumeStatusInfo{Status: c.volumeStatus(v)},
		}
		if e := c.faultOf(v); e != nil {
			item.Events = []types.VolumeStatusEvent{{
				EventType: aws.String(eventIOPaused), EventId: aws.String("evol-" + v.ID[len("vol-"):]), InstanceId: aws.String(v.Attachment.InstanceID),
				Description: aws.String("The machine stands still: " + e.String()),
			}}
		}
		out.VolumeStatuses = append(out.VolumeStatuses, item)
	}
	return out, nil
}

func (c *Cloud) volumeStatus(v *state.Volume) types.VolumeStatusInfoStatus {
	switch {
	case c.faultOf(v) != nil, v.State == state.VolumeError:
		return types.VolumeStatusInfoStatusImpaired
	case !v.Ready:
		return types.VolumeStatusInfoStatusInsufficientData
	}
	return types.VolumeStatusInfoStatusOk
}

// volumeStatusFilters are those of DescribeVolumeStatus, which needs to know
// what the machines do.
func (c *Cloud) volumeStatusFilters() fields[*state.Volume] {
	return fields[*state.Volume]{
		"availability-zone":    volumeFilters["availability-zone"],
		"availability-zone-id": volumeFilters["availability-zone-id"],
		"volume-status.status": one(func(v *state.Volume) string { return string(c.volumeStatus(v)) }),
		"event.event-type": func(v *state.Volume) []string {
			if c.faultOf(v) == nil {
				return nil
			}
			return []string{eventIOPaused}
		},
	}
}

// faultOf is the error on a volume that its machine stands still for.
func (c *Cloud) faultOf(v *state.Volume) *fault {
	if v.Attachment == nil {
		return nil
	}
	if e := c.running.fault(v.Attachment.InstanceID); e != nil && e.VolumeID == v.ID {
		return e
	}
	return nil
}
