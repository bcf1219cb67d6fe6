package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// inventory is what the API says that there is, by ID.
type inventory struct {
	instances []string // that are not terminated
	running   []string
	volumes   []string
	snapshots []string
	images    []string // of machines
	kernels   []string
	addresses []string
	groups    []string // but the default one
	unsettled []string // resources on their way from one state to another
}

// counts is how many of each there should be.
type counts struct{ instances, volumes, snapshots, images, addresses, groups int }

func (i inventory) counts() counts {
	return counts{len(i.instances), len(i.volumes), len(i.snapshots), len(i.images), len(i.addresses), len(i.groups)}
}

// take asks the API for everything.
func take(ctx context.Context, c *ec2.Client) (inventory, error) {
	var inv inventory
	return inv, errors.Join(inv.takeInstances(ctx, c), inv.takeDisks(ctx, c), inv.takeImages(ctx, c), inv.takeAccess(ctx, c))
}

func (i *inventory) takeInstances(ctx context.Context, c *ec2.Client) error {
	out, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		return err
	}
	for _, res := range out.Reservations {
		for _, inst := range res.Instances {
			id := aws.ToString(inst.InstanceId)
			switch inst.State.Name {
			case types.InstanceStateNameTerminated:
				continue
			case types.InstanceStateNameRunning:
				i.running = append(i.running, id)
			case types.InstanceStateNameStopped:
			default:
				i.unsettled = append(i.unsettled, id+" "+string(inst.State.Name))
			}
			i.instances = append(i.instances, id)
		}
	}
	return nil
}

func (i *inventory) takeDisks(ctx context.Context, c *ec2.Client) error {
	volumes, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
	if err != nil {
		return err
	}
	for _, v := range volumes.Volumes {
		i.volumes = append(i.volumes, aws.ToString(v.VolumeId))
		if v.State != types.VolumeStateAvailable && v.State != types.VolumeStateInUse {
			i.unsettled = append(i.unsettled, aws.ToString(v.VolumeId)+" "+string(v.State))
		}
		for _, a := range v.Attachments {
			if a.State != types.VolumeAttachmentStateAttached {
				i.unsettled = append(i.unsettled, aws.ToString(v.VolumeId)+" "+string(a.State))
			}
		}
	}
	snapshots, err := c.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{})
	if err != nil {
		return err
	}
	for _, s := range snapshots.Snapshots {
		i.snapshots = append(i.snapshots, aws.ToString(s.SnapshotId))
		if s.State != types.SnapshotStateCompleted {
			i.unsettled = append(i.unsettled, aws.ToString(s.SnapshotId)+" "+string(s.State))
		}
	}
	return nil
}

func (i *inventory) takeImages(ctx context.Context, c *ec2.Client) error {
	out, err := c.DescribeImages(ctx, &ec2.DescribeImagesInput{})
	if err != nil {
		return err
	}
	for _, img := range out.Images {
		if img.ImageType == types.ImageTypeValuesKernel {
			i.kernels = append(i.kernels, aws.ToString(img.ImageId))
			continue
		}
		i.images = append(i.images, aws.ToString(img.ImageId))
		if img.State != types.ImageStateAvailable {
			i.unsettled = append(i.unsettled, aws.ToString(img.ImageId)+" "+string(img.State))
		}
	}
	return nil
}

func (i *inventory) takeAccess(ctx context.Context, c *ec2.Client) error {
	addresses, err := c.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
	if err != nil {
		return err
	}
	for _, a := range addresses.Addresses {
		i.addresses = append(i.addresses, aws.ToString(a.AllocationId))
	}
	groups, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	if err != nil {
		return err
	}
	for _, g := range groups.SecurityGroups {
		if aws.ToString(g.GroupName) != "default" {
			i.groups = append(i.groups, aws.ToString(g.GroupId))
		}
	}
	return nil
}

// check waits until the cloud has come to rest with exactly these resources,
// and until processes, sockets and files are those that the resources need.
func (r *rig) check(want counts) inventory {
	r.t.Helper()
	client := r.client()
	var inv inventory
	var wrong string
	settled := r.waits(func() bool {
		var err error
		if inv, err = take(context.Background(), client); err != nil {
			r.t.Fatal(err)
		}
		wrong = r.compare(inv, want)
		return wrong == ""
	})
	if !settled {
		r.t.Fatalf("the cloud does not come to rest as it should: %s\n%+v", wrong, inv)
	}
	return inv
}

// compare names what is lost or left over.
func (r *rig) compare(inv inventory, want counts) string {
	switch is := inv.counts(); {
	case len(inv.unsettled) > 0:
		return "unsettled: " + strings.Join(inv.unsettled, ", ")
	case is != want:
		return fmt.Sprintf("resources are %+v, want %+v", is, want)
	}
	for _, f := range []struct {
		folder, suffix string
		want           []string
	}{
		{"volumes", ".raw", inv.volumes},
		{"snapshots/snapshots", "", inv.snapshots},
		{"snapshots/tmp", "", nil},
		{"machines", "", inv.instances},
		{"kernels", "", inv.kernels},
		{"scratch", "", nil},
	} {
		names := slices.DeleteFunc(r.names(f.folder), func(n string) bool { return isRecord(n, inv.volumes) })
		if wrong := differ(names, f.suffix, f.want); wrong != "" {
			return f.folder + ": " + wrong
		}
	}
	if wrong := r.compareProcesses(inv); wrong != "" {
		return wrong
	}
	return r.compareSockets(inv)
}

// isRecord says whether a file is what is known of a volume that is there.
func isRecord(name string, volumes []string) bool {
	id, suffix, _ := strings.Cut(name, ".")
	return (suffix == "changed" || suffix == "carried") && slices.Contains(volumes, id)
}

// differ tells how a folder differs from what should be there.
func differ(names []string, suffix string, ids []string) string {
	want := make([]string, len(ids))
	for k, id := range ids {
		want[k] = id + suffix
	}
	slices.Sort(want)
	slices.Sort(names)
	if slices.Equal(names, want) {
		return ""
	}
	return fmt.Sprintf("holds %v, want %v", names, want)
}

func (r *rig) compareProcesses(inv inventory) string {
	if n := len(r.processes("cloud")); n != 1 {
		return fmt.Sprintf("%d daemons run", n)
	}
	machines := r.processes("qemu")
	if r.machines == "none" {
		inv.running = nil
	}
	if len(machines) != len(inv.running) {
		return fmt.Sprintf("%d machines run: %v, want %v", len(machines), machines, inv.running)
	}
	for _, id := range inv.running {
		if !slices.ContainsFunc(machines, func(p process) bool { return strings.Contains(p.args, "guest="+id+" ") }) {
			return "no machine runs for " + id
		}
	}
	return ""
}

// compareSockets wants the daemon's own socket, those of running machines,
// and no file that was only half written.
func (r *rig) compareSockets(inv inventory) string {
	var wrong []string
	err := filepath.WalkDir(r.data, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(r.data, path)
		if d.IsDir() && name == "cache" {
			return filepath.SkipDir
		}
		owner := filepath.Base(filepath.Dir(path))
		stray := d.Type()&os.ModeSocket != 0 && name != "control.sock" && !slices.Contains(inv.running, owner)
		half := strings.HasSuffix(name, ".tmp") || strings.HasPrefix(filepath.Base(name), ".")
		if name != "." && (stray || half) {
			wrong = append(wrong, name)
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(wrong) == 0 {
		return ""
	}
	return "left over: " + strings.Join(wrong, ", ")
}
