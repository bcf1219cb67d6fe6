package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

const aboutBoot = "Wall time until the guest's ssh sends its banner. By hand: `qemu-system-x86_64` started directly " +
	"on a copy of the same image (the copy isn't timed), with the same accelerator, processor, memory, kernel and initrd, " +
	"and QEMU's own user network. Without metadata it has no key to fetch and nothing to set up, so that it is the least " +
	"that a boot takes here. `stead create` makes the volume from the image's snapshot, the instance, its network and " +
	"its address, and waits for ssh; a rescue swaps the same root disk into a new instance. " +
	"“Boot again” starts the same guest by hand a second time, on the disk that it ran on before."

// times are what one round measured, in seconds.
type times struct {
	create, terminate, rescue, first, off, again series
	daemonMiB                                    series
}

// boot compares create and rescue with boots by hand.
func boot(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("auto")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	hand, err := s.prepareByHand(ctx, b)
	if err != nil {
		return nil, err
	}
	var t times
	for n := range b.repeats(7) {
		if err := s.lifeOfServer(ctx, fmt.Sprintf("web%d", n), &t); err != nil {
			return nil, err
		}
		if err := hand.life(ctx, &t); err != nil {
			return nil, err
		}
		b.say("round %d: create %.2f s, by hand %.2f s; terminate %.2f s and rescue %.2f s, by hand %.2f s and %.2f s", n+1,
			t.create[n], t.first[n], t.terminate[n], t.rescue[n], t.off[n], t.again[n])
	}
	whole := make(series, len(t.rescue))
	handWhole := make(series, len(t.rescue))
	for i := range whole {
		whole[i], handWhole[i] = t.terminate[i]+t.rescue[i], t.off[i]+t.again[i]
	}
	return []row{
		{what: "`stead create` to ssh", unit: seconds, ours: t.create, against: "first boot", theirs: t.first, target: ratioAtMost(1.15)},
		{what: "`stead rescue --by swap` to ssh, the instance being terminated", unit: seconds, ours: t.rescue, against: "boot again", theirs: t.again, target: ratioAtMost(1.3)},
		{what: "`stead terminate` and `stead rescue` to ssh", unit: seconds, ours: whole, against: "power off and boot again", theirs: handWhole, target: ratioAtMost(1.3)},
		{what: "`stead terminate`, the clean shutdown included", unit: seconds, ours: t.terminate, against: "power off", theirs: t.off},
		{what: "memory of the daemon with one machine", unit: mebibytes, ours: t.daemonMiB},
	}, nil
}

// lifeOfServer creates, terminates and rescues a server.
func (s *scratch) lifeOfServer(ctx context.Context, name string, t *times) error {
	steps := []struct {
		into *series
		args []string
	}{
		{&t.create, []string{"create", name, "-q"}},
		{&t.terminate, []string{"terminate", name, "--yes", "-q"}},
		{&t.rescue, []string{"rescue", name, "--by", "swap", "-q"}},
	}
	for _, step := range steps {
		_, took, err := s.run(ctx, step.args...)
		if err != nil {
			return err
		}
		*step.into = append(*step.into, took.Seconds())
	}
	_, info, err := s.client(ctx)
	if err != nil {
		return err
	}
	mib, err := residentMiB(info.PID)
	if err != nil {
		return err
	}
	t.daemonMiB = append(t.daemonMiB, mib)
	_, _, err = s.run(ctx, "terminate", name, "--yes", "-q")
	return err
}

// handBoots boots copies of stead's image by hand.
type handBoots struct {
	args        qemuArgs
	dir         string
	image, root string
}

// prepareByHand builds the image, by making a server that is thrown away, and
// finds what a boot by hand needs: the image's disk and QEMU's arguments.
func (s *scratch) prepareByHand(ctx context.Context, b *bench) (*handBoots, error) {
	if _, _, err := s.run(ctx, "create", "pattern", "-q"); err != nil {
		return nil, err
	}
	args, err := s.argsOf(ctx, "pattern")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "hand")
	if err != nil {
		return nil, err
	}
	h := &handBoots{args: args, dir: dir, image: filepath.Join(dir, "image.raw"), root: filepath.Join(dir, "root.raw")}
	for from, to := range map[*string]string{&h.args.kernel: "kernel", &h.args.initrd: "initrd"} {
		to = filepath.Join(dir, to)
		if err := copyFile(ctx, *from, to); err != nil {
			return nil, err
		}
		*from = to
	}
	if err := s.copyImage(ctx, h.image); err != nil {
		return nil, err
	}
	_, _, err = s.run(ctx, "terminate", "pattern", "--yes", "-q")
	return h, err
}

// argsOf reads the QEMU arguments of a server that runs.
func (s *scratch) argsOf(ctx context.Context, name string) (qemuArgs, error) {
	out, _, err := s.run(ctx, "show", name, "-o", "json")
	if err != nil {
		return qemuArgs{}, err
	}
	var shown struct {
		InstanceID string `json:"instance_id"`
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		return qemuArgs{}, fmt.Errorf("stead show %s: %w", name, err)
	}
	if shown.InstanceID == "" {
		return qemuArgs{}, fmt.Errorf("stead show %s: no instance: %s", name, out)
	}
	return likeMachine(filepath.Join(s.data().Machine(shown.InstanceID), "qemu.pid"))
}

// copyImage makes a volume of the tiny image's snapshot and copies its file.
func (s *scratch) copyImage(ctx context.Context, to string) error {
	client, _, err := s.client(ctx)
	if err != nil {
		return err
	}
	images, err := client.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self", "amazon"}})
	if err != nil {
		return err
	}
	var snapshot *string
	for _, i := range images.Images {
		if len(i.BlockDeviceMappings) > 0 && i.BlockDeviceMappings[0].Ebs != nil {
			snapshot = i.BlockDeviceMappings[0].Ebs.SnapshotId
		}
	}
	if snapshot == nil {
		return errors.New("the local cloud has no image with a disk")
	}
	volume, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(zone), SnapshotId: snapshot})
	if err != nil {
		return err
	}
	if err := waitVolume(ctx, client, *volume.VolumeId); err != nil {
		return err
	}
	if err := copyFile(ctx, s.volumeFile(*volume.VolumeId), to); err != nil {
		return err
	}
	_, err = client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: volume.VolumeId})
	return err
}

func (s *scratch) volumeFile(id string) string { return filepath.Join(s.data().Volumes(), id+".raw") }

func waitVolume(ctx context.Context, client *ec2.Client, id string) error {
	quick := func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay = 10 * time.Millisecond }
	return ec2.NewVolumeAvailableWaiter(client, quick).Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}}, apiLimit)
}

// copyFile copies a file with its holes.
func copyFile(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// life boots a fresh copy, powers it off, and boots it again.
func (h *handBoots) life(ctx context.Context, t *times) error {
	if err := copyFile(ctx, h.image, h.root); err != nil {
		return err
	}
	for _, into := range []*series{&t.first, &t.again} {
		guest, err := h.args.start(ctx, h.dir, h.root)
		if err != nil {
			return err
		}
		took, err := guest.waitSSH(ctx)
		if err != nil {
			return errors.Join(err, guest.kill())
		}
		*into = append(*into, took.Seconds())
		if into == &t.again {
			return guest.kill()
		}
		if took, err = guest.powerOff(ctx); err != nil {
			return err
		}
		t.off = append(t.off, took.Seconds())
	}
	return nil
}
