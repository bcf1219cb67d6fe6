package server

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxStatusIDs is how many instances or volumes a question for their status
// takes by ID. Where there are more, all are asked for in pages.
const maxStatusIDs = 100

// checkHealth asks what the endpoint's own checks say of the instances that
// run: one may stand still all the same. What can't be learned is left out, for
// no server is worse off without it.
func (m *Manager) checkHealth(ctx context.Context, worlds ...*world) {
	byID := map[string]*world{}
	for _, w := range worlds {
		if stateOf(w.instance) == types.InstanceStateNameRunning {
			byID[aws.ToString(w.instance.InstanceId)] = w
		}
	}
	if len(byID) == 0 {
		return
	}
	sick, err := m.impairedInstances(ctx, slices.Sorted(maps.Keys(byID)))
	if err != nil {
		m.log.DebugContext(ctx, "no instance status", "err", err)
		return
	}
	var disks []string
	for _, s := range sick {
		if w := byID[aws.ToString(s.InstanceId)]; w != nil {
			disks = append(disks, mappedVolumes(w.instance)...)
		}
	}
	reasons := m.ailingDisks(ctx, disks)
	for _, s := range sick {
		if w := byID[aws.ToString(s.InstanceId)]; w != nil {
			w.ailments = []string{joinReason("instance "+aws.ToString(s.InstanceId)+" is impaired", ailing(w.instance, s.Events, reasons))}
		}
	}
}

// impairedInstances returns the status of those of the instances that fail a
// check.
func (m *Manager) impairedInstances(ctx context.Context, ids []string) ([]types.InstanceStatus, error) {
	in := &ec2.DescribeInstanceStatusInput{InstanceIds: ids}
	if len(ids) > maxStatusIDs {
		in = &ec2.DescribeInstanceStatusInput{MaxResults: aws.Int32(pageSize)}
	}
	var sick []types.InstanceStatus
	pages := ec2.NewDescribeInstanceStatusPaginator(m.ec2, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range page.InstanceStatuses {
			if impaired(s.InstanceStatus) || impaired(s.SystemStatus) {
				sick = append(sick, s)
			}
		}
	}
	return sick, nil
}

func impaired(s *types.InstanceStatusSummary) bool {
	return s != nil && s.Status == types.SummaryStatusImpaired
}

// ailingDisks says of volumes whose I/O is impaired why, as far as the
// endpoint tells.
func (m *Manager) ailingDisks(ctx context.Context, ids []string) map[string]string {
	reasons := map[string]string{}
	if len(ids) == 0 {
		return reasons
	}
	in := &ec2.DescribeVolumeStatusInput{VolumeIds: ids}
	if len(ids) > maxStatusIDs {
		in = &ec2.DescribeVolumeStatusInput{MaxResults: aws.Int32(pageSize), Filters: []types.Filter{filter("volume-status.status", "impaired")}}
	}
	pages := ec2.NewDescribeVolumeStatusPaginator(m.ec2, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			m.log.DebugContext(ctx, "no volume status", "err", err)
			return reasons
		}
		for _, v := range page.VolumeStatuses {
			if v.VolumeStatus == nil || v.VolumeStatus.Status != types.VolumeStatusInfoStatusImpaired {
				continue
			}
			reason := "its I/O is impaired"
			if len(v.Events) > 0 {
				reason = cmp.Or(aws.ToString(v.Events[0].Description), reason)
			}
			reasons[aws.ToString(v.VolumeId)] = reason
		}
	}
	return reasons
}

// ailing says why an instance is impaired, as far as the endpoint tells by an
// event of its own or of its disks.
func ailing(i *types.Instance, events []types.InstanceStatusEvent, disks map[string]string) string {
	var reasons []string
	for _, e := range events {
		reasons = append(reasons, aws.ToString(e.Description))
	}
	for _, id := range mappedVolumes(i) {
		if disks[id] != "" {
			reasons = append(reasons, "disk "+id+": "+disks[id])
		}
	}
	return strings.Join(slices.DeleteFunc(reasons, func(s string) bool { return s == "" }), "; ")
}
