package cloud

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

const gib = int64(1) << 30

func (c *Cloud) registerVolumes() {
	c.ec2Actions["CreateVolume"] = handle(c.CreateVolume)
	c.ec2Actions["DescribeVolumes"] = handle(c.DescribeVolumes)
	c.ec2Actions["DescribeVolumeStatus"] = handle(c.DescribeVolumeStatus)
	c.ec2Actions["AttachVolume"] = handle(c.AttachVolume)
	c.ec2Actions["DetachVolume"] = handle(c.DetachVolume)
	c.ec2Actions["DeleteVolume"] = handle(c.DeleteVolume)
	c.ec2Actions["CopyVolumes"] = handle(c.CopyVolumes)
	c.ec2Actions["ModifyVolume"] = handle(c.ModifyVolume)
	c.ec2Actions["DescribeVolumesModifications"] = handle(c.DescribeVolumesModifications)
	c.ec2Actions["DescribeVolumeAttribute"] = handle(c.DescribeVolumeAttribute)
	c.ec2Actions["ModifyVolumeAttribute"] = handle(c.ModifyVolumeAttribute)
}

// volumeType is what a type of volume can be asked for.
// https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
type volumeType struct {
	minSize, maxSize int32 // GiB
	minIOPS, maxIOPS int32 // 0: cannot be chosen
	iops             func(size int32) int32
	throughput       int32 // MiB/s by default; 0: none is shown
}

func fixed(n int32) func(int32) int32 { return func(int32) int32 { return n } }

var volumeTypes = map[string]volumeType{
	"gp3":      {1, 65536, 3000, 80000, fixed(3000), 125},
	"gp2":      {1, 16384, 0, 0, func(size int32) int32 { return min(max(100, 3*size), 16000) }, 0},
	"io1":      {4, 16384, 100, 64000, fixed(100), 0},
	"io2":      {4, 65536, 100, 256000, fixed(100), 0},
	"st1":      {125, 16384, 0, 0, fixed(0), 0},
	"sc1":      {125, 16384, 0, 0, fixed(0), 0},
	"standard": {1, 1024, 0, 0, fixed(0), 0},
}

// diskSpec is a volume that a request asks for, from CreateVolume or from a
// block device mapping.
type diskSpec struct {
	size, iops, throughput *int32
	kind                   string
	snapshotID             string
	encrypted              bool
	device                 string // for messages; empty in CreateVolume
}

func (d diskSpec) refuse(format string, args ...any) *apiError {
	msg := fmt.Sprintf(format, args...)
	if d.device != "" {
		return fail("InvalidBlockDeviceMapping", "%s (device %s)", msg, d.device)
	}
	return fail("InvalidParameterValue", "%s", msg)
}

// newVolume makes the record of the volume that spec describes; its worker
// makes the file.
func (c *Cloud) newVolume(tx *state.Tx, s state.Scope, zone string, spec diskSpec) (*state.Volume, error) {
	if spec.kind == "" {
		spec.kind = "gp2"
	}
	if spec.encrypted {
		return nil, unsupported("An encrypted volume", "Leave Encrypted out, and encrypt the disk that the data folder is on.")
	}
	t, ok := volumeTypes[spec.kind]
	if !ok {
		return nil, spec.refuse("Volume type '%s' is unknown. There are %v.", spec.kind, sortedKeys(volumeTypes))
	}
	vol := &state.Volume{Meta: c.meta(s, "vol"), State: state.VolumeCreating, Zone: zone, Type: spec.kind, Encrypted: spec.encrypted}
	size, err := c.sizeOf(tx, s, spec, vol)
	if err != nil {
		return nil, err
	}
	if size < t.minSize || size > t.maxSize {
		return nil, spec.refuse("Volume of %d GiB is invalid for type %s: it takes from %d to %d GiB.", size, spec.kind, t.minSize, t.maxSize)
	}
	vol.Size, vol.IOPS, vol.Throughput = size, t.iops(size), t.throughput
	if spec.iops != nil {
		if t.maxIOPS == 0 || *spec.iops < t.minIOPS || *spec.iops > t.maxIOPS {
			return nil, spec.refuse("Iops %d is invalid for type %s.", *spec.iops, spec.kind)
		}
		vol.IOPS = *spec.iops
	}
	if spec.throughput != nil {
		if t.throughput == 0 || *spec.throughput < 125 || *spec.throughput > 2000 {
			return nil, spec.refuse("Throughput %d is invalid for type %s.", *spec.throughput, spec.kind)
		}
		vol.Throughput = *spec.throughput
	}
	return vol, nil
}

// sizeOf settles a new volume's size from the request and its snapshot.
func (c *Cloud) sizeOf(tx *state.Tx, s state.Scope, spec diskSpec, vol *state.Volume) (int32, error) {
	if spec.snapshotID == "" {
		if spec.size == nil {
			return 0, spec.refuse("The request must contain the parameter size or snapshotId")
		}
		return *spec.size, nil
	}
	snap, err := findSnapshot(tx, s, spec.snapshotID)
	if err != nil {
		return 0, err
	}
	if snap.State != state.SnapshotCompleted {
		return 0, fail("IncorrectState", "The snapshot '%s' is %s, not completed.", snap.ID, snap.State)
	}
	vol.SnapshotID, vol.Lineage = snap.ID, snapshotLineage(snap)
	if spec.size == nil {
		return snap.VolumeSize, nil
	}
	if *spec.size < snap.VolumeSize {
		return 0, spec.refuse("Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", *spec.size, snap.ID, snap.VolumeSize)
	}
	return *spec.size, nil
}

// CreateVolume makes a blank volume or one from a snapshot.
func (c *Cloud) CreateVolume(ctx context.Context, in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
	s := from(ctx).Scope
	if in.AvailabilityZone == nil {
		if in.AvailabilityZoneId == nil {
			return nil, missing("availabilityZone")
		}
		zone, err := zoneByID(s.Region, *in.AvailabilityZoneId)
		if err != nil {
			return nil, err
		}
		in.AvailabilityZone = aws.String(zone)
	}
	if err := checkZone(s.Region, *in.AvailabilityZone); err != nil {
		return nil, err
	}
	if in.KmsKeyId != nil {
		return nil, unsupported("An encrypted volume", "Leave KmsKeyId out, and encrypt the disk that the data folder is on.")
	}
	if aws.ToBool(in.MultiAttachEnabled) {
		return nil, unsupported("Multi-attach", "Attach the volume to one instance at a time.")
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeVolume)
	if err != nil {
		return nil, err
	}
	var vol *state.Volume
	err = c.db.Update(func(tx *state.Tx) error {
		ids, err := c.once(tx, s, "CreateVolume", in.ClientToken, withoutToken(*in), func() ([]string, error) {
			v, err := c.newVolume(tx, s, *in.AvailabilityZone, diskSpec{
				size: in.Size, iops: in.Iops, throughput: in.Throughput, kind: string(in.VolumeType),
				snapshotID: aws.ToString(in.SnapshotId), encrypted: aws.ToBool(in.Encrypted),
			})
			if err != nil {
				return nil, err
			}
			v.Tags = tags
			return []string{v.ID}, state.Put(tx, v)
		})
		if err != nil {
			return err
		}
		vol, err = find[state.Volume](tx, s, volumeIDs, ids[0])
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobOf(vol))
	v := apiVolume(vol)
	return &ec2.CreateVolumeOutput{
		AvailabilityZone: v.AvailabilityZone, AvailabilityZoneId: v.AvailabilityZoneId, CreateTime: v.CreateTime, Encrypted: v.Encrypted,
		Iops: v.Iops, MultiAttachEnabled: v.MultiAttachEnabled, Size: v.Size, SnapshotId: v.SnapshotId, State: v.State, Tags: v.Tags,
		Throughput: v.Throughput, VolumeId: v.VolumeId, VolumeType: v.VolumeType,
	}, nil
}

func withoutToken(in ec2.CreateVolumeInput) ec2.CreateVolumeInput {
	in.ClientToken = nil
	return in
}

func zoneByID(region, id string) (string, error) {
	for _, z := range zonesOf(region) {
		if zoneID(z) == id {
			return z, nil
		}
	}
	return "", fail("InvalidZone.NotFound", "The zone ID '%s' does not exist in region %s.", id, region)
}

var volumeFilters = fields[*state.Volume]{
	"volume-id":            func(v *state.Volume) []string { return []string{v.ID} },
	"status":               func(v *state.Volume) []string { return []string{v.State} },
	"availability-zone":    func(v *state.Volume) []string { return []string{v.Zone} },
	"availability-zone-id": func(v *state.Volume) []string { return []string{zoneID(v.Zone)} },
	"create-time":          func(v *state.Volume) []string { return []string{timestamp(v.Created)} },
	"encrypted":            func(v *state.Volume) []string { return []string{strconv.FormatBool(v.Encrypted)} },
	"multi-attach-enabled": func(*state.Volume) []string { return []string{"false"} },
	"fast-restored":        func(*state.Volume) []string { return []string{"false"} },
	"size":                 func(v *state.Volume) []string { return []string{strconv.Itoa(int(v.Size))} },
	"snapshot-id":          func(v *state.Volume) []string { return []string{v.SnapshotID} },
	"volume-type":          func(v *state.Volume) []string { return []string{v.Type} },
	"attachment.instance-id": ofAttachment(func(a *state.Attachment) string {
		return a.InstanceID
	}),
	"attachment.device":      ofAttachment(func(a *state.Attachment) string { return a.Device }),
	"attachment.status":      ofAttachment(func(a *state.Attachment) string { return a.State }),
	"attachment.attach-time": ofAttachment(func(a *state.Attachment) string { return timestamp(a.Time) }),
	"attachment.delete-on-termination": ofAttachment(func(a *state.Attachment) string {
		return strconv.FormatBool(a.DeleteOnTermination)
	}),
}

func ofAttachment(f func(*state.Attachment) string) func(*state.Volume) []string {
	return func(v *state.Volume) []string {
		if v.Attachment == nil {
			return nil
		}
		return []string{f(v.Attachment)}
	}
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// DescribeVolumes lists volumes.
func (c *Cloud) DescribeVolumes(ctx context.Context, in *ec2.DescribeVolumesInput) (*ec2.DescribeVolumesOutput, error) {
	page, next, err := c.listVolumes(ctx, in.VolumeIds, in.Filters, volumeFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumesOutput{NextToken: next}
	for _, v := range page {
		out.Volumes = append(out.Volumes, apiVolume(v))
	}
	return out, nil
}

func (c *Cloud) listVolumes(ctx context.Context, ids []string, filters []types.Filter, known fields[*state.Volume], limit *int32, token *string) ([]*state.Volume, *string, error) {
	if err := notPaged(ids, limit, "volumesSet"); err != nil {
		return nil, nil, err
	}
	var vols []*state.Volume
	var next *string
	err := c.db.View(func(tx *state.Tx) (err error) {
		if len(ids) == 0 {
			vols, next, err = readPage(tx, from(ctx).Scope, limit, token, filters, func(some []*state.Volume) ([]*state.Volume, error) {
				return filter(some, filters, known)
			})
			return err
		}
		vols, err = listNamed[state.Volume](tx, from(ctx).Scope, volumeIDs, ids)
		return err
	})
	if err != nil || len(ids) == 0 {
		return vols, next, err
	}
	vols, err = filter(vols, filters, known)
	return vols, nil, err
}

func apiVolume(v *state.Volume) types.Volume {
	out := types.Volume{
		VolumeId: aws.String(v.ID), AvailabilityZone: aws.String(v.Zone), AvailabilityZoneId: aws.String(zoneID(v.Zone)),
		CreateTime: aws.Time(v.Created), Encrypted: aws.Bool(v.Encrypted), MultiAttachEnabled: aws.Bool(false),
		Size: aws.Int32(v.Size), SnapshotId: aws.String(v.SnapshotID), State: types.VolumeState(v.State), VolumeType: types.VolumeType(v.Type),
		Attachments: []types.VolumeAttachment{},
	}
	out.SourceVolumeId = optional(v.CopyOf)
	if v.IOPS > 0 {
		out.Iops = aws.Int32(v.IOPS)
	}
	if v.Throughput > 0 {
		out.Throughput = aws.Int32(v.Throughput)
	}
	if len(v.Tags) > 0 {
		out.Tags = tagList(v.Tags)
	}
	if a := v.Attachment; a != nil {
		out.Attachments = append(out.Attachments, types.VolumeAttachment{
			AttachTime: aws.Time(a.Time), DeleteOnTermination: aws.Bool(a.DeleteOnTermination), Device: aws.String(a.Device),
			InstanceId: aws.String(a.InstanceID), State: types.VolumeAttachmentState(a.State), VolumeId: aws.String(v.ID),
		})
	}
	return out
}

// DeleteVolume removes a volume that nothing uses. Its snapshots stay.
func (c *Cloud) DeleteVolume(ctx context.Context, in *ec2.DeleteVolumeInput) (*ec2.DeleteVolumeOutput, error) {
	if in.VolumeId == nil {
		return nil, missing("volumeId")
	}
	var next job
	err := c.db.Update(func(tx *state.Tx) error {
		vol, err := find[state.Volume](tx, from(ctx).Scope, volumeIDs, *in.VolumeId)
		if err != nil {
			return err
		}
		if a := vol.Attachment; a != nil {
			return fail("VolumeInUse", "Volume %s is currently attached to %s", vol.ID, a.InstanceID)
		}
		if err := refuseReserved(vol); err != nil {
			return err
		}
		next, err = c.deleteVolume(tx, vol)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(next)
	return &ec2.DeleteVolumeOutput{}, nil
}
