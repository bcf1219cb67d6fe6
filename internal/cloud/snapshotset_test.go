package cloud

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestCreateSnapshotsTakesWhatIsNotLeftOut(t *testing.T) {
	c, client := newTestCloud(t)
	snap := makeSnapshot(t, c, client, "root")
	image := makeImage(t, client, "img", ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap}),
		ebs("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(1)}), ebs("/dev/sdg", types.EbsBlockDevice{VolumeSize: aws.Int32(2)}))
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image, TagSpecifications: []types.TagSpecification{{
		ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{{Key: aws.String("of"), Value: aws.String("web")}},
	}}})
	disks := describe(t, client, id).BlockDeviceMappings
	last := *disks[2].Ebs.VolumeId
	out, err := client.CreateSnapshots(t.Context(), &ec2.CreateSnapshotsInput{
		InstanceSpecification: &types.InstanceSpecification{InstanceId: &id, ExcludeDataVolumeIds: []string{last}},
		CopyTagsFromSource:    types.CopyTagsFromSourceVolume,
		TagSpecifications:     []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String("set"), Value: aws.String("1")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Snapshots) != 2 || *out.Snapshots[0].VolumeId != *disks[0].Ebs.VolumeId || *out.Snapshots[1].VolumeId != *disks[1].Ebs.VolumeId {
		t.Fatalf("snapshots of %v, want of the first two of %v", out.Snapshots, disks)
	}
	for _, s := range out.Snapshots {
		if len(s.Tags) != 2 {
			t.Errorf("%s has tags %v", *s.SnapshotId, s.Tags)
		}
		eventually(t, "completed", func() bool {
			d, err := client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*s.SnapshotId}})
			return err == nil && d.Snapshots[0].State == types.SnapshotStateCompleted
		})
	}
	_, err = client.CreateSnapshots(t.Context(), &ec2.CreateSnapshotsInput{InstanceSpecification: &types.InstanceSpecification{InstanceId: &id, ExcludeDataVolumeIds: []string{*disks[0].Ebs.VolumeId}}})
	wantCode(t, err, "InvalidParameterValue")
}
