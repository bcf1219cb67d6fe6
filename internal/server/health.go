package server

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxStatusIDs is how many instances DescribeInstanceStatus takes by ID.
const maxStatusIDs = 100

// checkHealth asks what the endpoint's own checks say of the instances that
// run: one may stand still all the same. What can't be learned is left out, for
// no server is worse off without it.
func (m *Manager) checkHealth(ctx context.Context, worlds ...*world) {
	byID := map[string]*world{}
	var ids []string
	for _, w := range worlds {
		if stateOf(w.instance) == types.InstanceStateNameRunning {
			id := aws.ToString(w.instance.InstanceId)
			byID[id], ids = w, append(ids, id)
		}
	}
	slices.Sort(ids)
	for some := range slices.Chunk(ids, maxStatusIDs) {
		out, err := m.ec2.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{InstanceIds: some})
		if err != nil {
			m.log.DebugContext(ctx, "no instance status", "err", err)
			return
		}
		for _, s := range out.InstanceStatuses {
			if w := byID[aws.ToString(s.InstanceId)]; w != nil && (impaired(s.InstanceStatus) || impaired(s.SystemStatus)) {
				w.ailments = []string{joinReason("instance "+aws.ToString(s.InstanceId)+" is impaired", m.ailing(ctx, w, s.Events))}
			}
		}
	}
}

func impaired(s *types.InstanceStatusSummary) bool {
	return s != nil && s.Status == types.SummaryStatusImpaired
}

// ailing says why an instance is impaired, as far as the endpoint tells by an
// event of its own or of its disks.
func (m *Manager) ailing(ctx context.Context, w *world, events []types.InstanceStatusEvent) string {
	var reasons []string
	for _, e := range events {
		reasons = append(reasons, aws.ToString(e.Description))
	}
	out, err := m.ec2.DescribeVolumeStatus(ctx, &ec2.DescribeVolumeStatusInput{VolumeIds: mappedVolumes(w.instance)})
	if err != nil {
		m.log.DebugContext(ctx, "no volume status", "err", err)
		out = &ec2.DescribeVolumeStatusOutput{}
	}
	for _, v := range out.VolumeStatuses {
		if v.VolumeStatus == nil || v.VolumeStatus.Status != types.VolumeStatusInfoStatusImpaired {
			continue
		}
		reason := "its I/O is impaired"
		if len(v.Events) > 0 && aws.ToString(v.Events[0].Description) != "" {
			reason = aws.ToString(v.Events[0].Description)
		}
		reasons = append(reasons, "disk "+aws.ToString(v.VolumeId)+": "+reason)
	}
	reasons = slices.DeleteFunc(reasons, func(s string) bool { return s == "" })
	return strings.Join(reasons, "; ")
}
