package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Grown is a disk that was enlarged, and what became of the file system on it.
type Grown struct {
	Disk
	OldGiB     int    `json:"old_gib"`
	FileSystem string `json:"file_system,omitempty"` // its type, where it was grown or fills the disk already
	Mount      string `json:"mount,omitempty"`
	// FileSystemMiB is its size now, 0 where it isn't mounted.
	FileSystemMiB int `json:"file_system_mib,omitempty"`
	// Note says why the file system wasn't grown.
	Note string `json:"note,omitempty"`
}

// diskPlan is a disk and the size that it shall have.
type diskPlan struct {
	Disk *types.Volume
	GiB  int
}

// planGrowth finds the disks that options speak of and checks their sizes.
func (w *world) planGrowth(o ResizeOptions) ([]diskPlan, error) {
	var plan []diskPlan
	if o.DiskGiB > 0 {
		plan = append(plan, diskPlan{w.root(), o.DiskGiB})
	}
	for _, d := range o.Data {
		v, err := w.dataDisk(d.Disk)
		if err != nil {
			return nil, err
		}
		plan = append(plan, diskPlan{v, d.GiB})
	}
	for _, p := range plan {
		if err := mayGrow(p.Disk, p.GiB); err != nil {
			return nil, err
		}
	}
	if o.Type == "" && len(plan) == 0 {
		return nil, &Error{Code: KindUsage, Reason: "nothing to resize", Remedy: "--type T, --disk SIZE or --data [DISK=]SIZE"}
	}
	return w.withMirrors(plan), nil
}

// dataDisk finds a data disk by device name or volume ID; "" is the only one.
func (w *world) dataDisk(ref string) (*types.Volume, error) {
	data := w.data()
	if ref == "" && len(data) == 1 {
		return data[0], nil
	}
	var names []string
	for _, v := range data {
		if ref != "" && (aws.ToString(v.VolumeId) == ref || slot(deviceOf(v)) != 0 && slot(deviceOf(v)) == slot("/dev/"+strings.TrimPrefix(ref, "/dev/"))) {
			return v, nil
		}
		names = append(names, deviceOf(v))
	}
	if len(data) == 0 {
		return nil, &Error{Code: KindNotFound, Reason: "it has no data disk", Remedy: "stead volume create " + w.name + " SIZE"}
	}
	if ref == "" {
		return nil, &Error{Code: KindUsage, Reason: "it has several data disks: " + strings.Join(names, " "), Remedy: "--data DEVICE=SIZE"}
	}
	return nil, &Error{Code: KindNotFound, Reason: "it has no data disk " + ref + "; there are " + strings.Join(names, " "), Remedy: "stead volume ls " + w.name}
}

// mayGrow tells what forbids a disk to have a size.
func mayGrow(v *types.Volume, gib int) error {
	id, has := aws.ToString(v.VolumeId), int(aws.ToInt32(v.Size))
	if gib < has {
		return &Error{
			Op: "resize", Resource: "volume " + id, Code: KindUsage,
			Reason: fmt.Sprintf("it has %d GiB, and a disk can't be made smaller: what is at its end would be lost", has),
			Remedy: "make a smaller disk beside it and copy the files",
		}
	}
	if level, _, _ := strings.Cut(tagOf(v.Tags, tagRaid), " "); level != "" && level != "1" {
		return &Error{
			Op: "resize", Resource: "volume " + id, Code: KindUnsupported,
			Reason: "it is a disk of a set of RAID " + level + ", which can't use more room in place",
			Remedy: "make a larger server with the same --raid and copy the files: stead create, stead cp -r",
		}
	}
	return nil
}

// withMirrors adds the other disks of a mirror: it is as large as its smallest.
// The last disk's script then finds them all enlarged.
func (w *world) withMirrors(plan []diskPlan) []diskPlan {
	has := map[*types.Volume]bool{}
	for _, p := range plan {
		has[p.Disk] = true
	}
	for _, p := range plan {
		mount := tagOf(p.Disk.Tags, tagMount)
		if tagOf(p.Disk.Tags, tagRaid) == "" {
			continue
		}
		for _, v := range w.data() {
			if !has[v] && tagOf(v.Tags, tagRaid) != "" && tagOf(v.Tags, tagMount) == mount && int(aws.ToInt32(v.Size)) < p.GiB {
				has[v] = true
				plan = append(plan, diskPlan{v, p.GiB})
			}
		}
	}
	return plan
}

// VolumeGrow enlarges one disk, and the file system on it where a running
// server has it.
func (m *Manager) VolumeGrow(ctx context.Context, volumeID string, gib int) (*Grown, error) {
	g, err := m.volumeGrow(ctx, volumeID, gib)
	return g, wrap("grow", "volume "+volumeID, err)
}

func (m *Manager) volumeGrow(ctx context.Context, volumeID string, gib int) (*Grown, error) {
	v, err := m.volumeNamed(ctx, volumeID)
	if err != nil {
		return nil, err
	}
	if err := mayGrow(v, gib); err != nil {
		return nil, err
	}
	name := tagOf(v.Tags, tagServer)
	if name == "" || hasTag(v.Tags, tagSupersededBy) {
		return m.growDisk(ctx, "", v, gib)
	}
	w, err := m.world(ctx, "find", name)
	if err != nil {
		return nil, err
	}
	if err := w.atRest(); err != nil {
		return nil, err
	}
	return m.growDisk(ctx, name, v, gib)
}

// volumeNamed describes a volume that must exist.
func (m *Manager) volumeNamed(ctx context.Context, id string) (*types.Volume, error) {
	if err := checkVolumeID(id); err != nil {
		return nil, err
	}
	v, err := m.volumeByID(ctx, id)
	if err == nil && v == nil {
		err = &Error{Code: KindNotFound, Reason: "there is no such volume", Remedy: "stead volume ls"}
	}
	return v, err
}

// growDisk enlarges a disk of a server, or of none with name "", and then what
// is on it. A disk that has the size already is only looked at inside.
func (m *Manager) growDisk(ctx context.Context, name string, v *types.Volume, gib int) (*Grown, error) {
	id, old := aws.ToString(v.VolumeId), int(aws.ToInt32(v.Size))
	if err := m.step("enlarge disk", fmt.Sprintf("%s to %d GiB", id, gib), func() error {
		if old < gib {
			if err := m.modifySize(ctx, v, gib); err != nil {
				return err
			}
		}
		return m.waitEnlarged(ctx, id, gib)
	}); err != nil {
		return nil, err
	}
	d, err := m.disk(ctx, id)
	if err != nil {
		return nil, err
	}
	g := &Grown{Disk: *d, OldGiB: old}
	return g, m.growInside(ctx, name, g)
}

// modifySize asks for a larger disk.
func (m *Manager) modifySize(ctx context.Context, v *types.Volume, gib int) error {
	id := aws.ToString(v.VolumeId)
	_, err := m.ec2.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: &id, Size: aws.Int32(int32(gib))})
	e := &Error{Op: "enlarge", Resource: "volume " + id, Err: err}
	switch code := apiCode(err); {
	case err == nil:
		return nil
	case unsupported(err):
		e.Code = KindUnsupported
		e.Reason = "the endpoint can't enlarge a disk in place"
		e.Remedy = "take a snapshot and make a larger disk of it: stead snapshot, then aws ec2 create-volume --snapshot-id ID --size " + strconv.Itoa(gib)
		return e
	case code == "VolumeModificationRateExceeded" || code == "IncorrectModificationState" || code == "VolumeModificationSizeLimitExceeded":
		return m.explainRate(ctx, e)
	}
	return wrap("enlarge", "volume "+id, err)
}

// modificationWindow is how long EC2 counts changes of a volume: four are
// allowed in it, and one at a time.
const modificationWindow = 24 * time.Hour

// explainRate says until when a disk can't be changed again.
func (m *Manager) explainRate(ctx context.Context, e *Error) error {
	last, err := m.lastModification(ctx, strings.TrimPrefix(e.Resource, "volume "))
	if err != nil {
		return err
	}
	switch {
	case apiCode(e.Err) == "VolumeModificationSizeLimitExceeded":
		e.Code = KindCapacity
		e.Remedy = "ask the cloud for a higher quota, or choose a smaller size"
	case last != nil && (last.ModificationState == types.VolumeModificationStateModifying || last.ModificationState == types.VolumeModificationStateOptimizing):
		e.Code = KindExists
		e.Reason = fmt.Sprintf("an earlier change is still being carried out, %d%% done", aws.ToInt64(last.Progress))
		e.Remedy = "run the same command again when it is done: aws ec2 describe-volumes-modifications"
	default:
		e.Code = KindCapacity
		e.Reason = "it was changed four times in 24 hours, which is all that EC2 allows"
		e.Remedy = "run the same command again later"
		if last != nil && last.StartTime != nil {
			e.Remedy = "run the same command again, at the latest at " + last.StartTime.Add(modificationWindow).UTC().Format(time.RFC3339)
		}
	}
	return e
}

// lastModification is the newest change of a volume, nil when there was none
// or the endpoint doesn't tell.
func (m *Manager) lastModification(ctx context.Context, id string) (*types.VolumeModification, error) {
	out, err := m.ec2.DescribeVolumesModifications(ctx, &ec2.DescribeVolumesModificationsInput{VolumeIds: []string{id}})
	if KindOf(err) == KindNotFound || unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("describe", "the changes of volume "+id, err)
	}
	var last *types.VolumeModification
	for k := range out.VolumesModifications {
		if c := &out.VolumesModifications[k]; last == nil || aws.ToTime(c.StartTime).After(aws.ToTime(last.StartTime)) {
			last = c
		}
	}
	return last, nil
}

// waitEnlarged waits until a disk can be used at its new size. EC2 goes on to
// optimize it after that, which needs no waiting for.
func (m *Manager) waitEnlarged(ctx context.Context, id string, gib int) error {
	return m.poll(ctx, m.stateTimeout, fmt.Sprintf("to have %d GiB", gib), "volume "+id, func(ctx context.Context) (bool, error) {
		last, err := m.lastModification(ctx, id)
		if err != nil {
			return false, err
		}
		if last != nil && int(aws.ToInt32(last.TargetSize)) == gib {
			switch last.ModificationState {
			case types.VolumeModificationStateModifying:
				return false, nil
			case types.VolumeModificationStateFailed:
				return false, &Error{Op: "enlarge", Resource: "volume " + id, Reason: "the cloud couldn't: " + aws.ToString(last.StatusMessage)}
			case types.VolumeModificationStateOptimizing, types.VolumeModificationStateCompleted:
			}
		}
		v, err := m.volumeByID(ctx, id)
		return err == nil && v != nil && int(aws.ToInt32(v.Size)) >= gib, err
	})
}

// growInside lets what is on the disk take all of it, where the server that
// has it runs.
func (m *Manager) growInside(ctx context.Context, name string, g *Grown) error {
	g.Note = "what is on it grows when it is plugged into a server that runs, and this is repeated"
	if name == "" || g.InstanceID == "" {
		return nil
	}
	s, err := m.Get(ctx, name)
	if err != nil {
		return err
	}
	if s.State != StateRunning || s.InstanceID != g.InstanceID || m.guest == nil {
		if s.State == StateRunning {
			return nil
		}
		g.Note = "what is on it grows when the server runs and this is repeated, or by itself as it boots where its image does that"
		return nil
	}
	return m.step("grow what is on", g.VolumeID, func() error {
		out, reached, err := m.inGuest(ctx, s, map[string]string{"volume": g.VolumeID, "device": g.Device, "size": strconv.Itoa(g.SizeGiB)}, growScript)
		if err != nil {
			e := &Error{Op: "grow what is on", Resource: "volume " + g.VolumeID, Code: KindPartial, Reason: fmt.Sprintf("the disk has its %d GiB", g.SizeGiB), Err: err}
			if kind := KindOf(err); kind == KindInterrupted || kind == KindTimeout {
				e.Code = kind
			}
			e.Remedy = "run the same command again: it goes on from there"
			return e
		}
		if reached {
			g.read(out)
		}
		return nil
	})
}

// read takes what growScript said.
func (g *Grown) read(out string) {
	said := guestLines(out)
	g.FileSystem, g.Mount, g.Note = firstOf(said["fs"]), firstOf(said["mount"]), firstOf(said["note"])
	if kib, err := strconv.Atoi(firstOf(said["kib"])); err == nil {
		g.FileSystemMiB = kib / 1024
	}
}
