package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/image"
	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/state"
)

// TinyParameter is the public parameter that names the newest tiny image, in
// the manner of the distributions' own.
const TinyParameter = "/aws/service/stead/tiny/latest/x86_64"

// noVolume stands for the source of a snapshot that comes from no volume, as
// in EC2's own answers.
const noVolume = "vol-ffffffff"

// debianParameter is the public parameter under which Debian publishes the
// newest image of a release.
// https://wiki.debian.org/Cloud/AmazonEC2Image
func debianParameter(release string) string {
	return "/aws/service/debian/release/" + release + "/latest/amd64"
}

// BuildImage builds an image by name and registers it, with the parameter that
// aliases it. There are tiny, and debian, which takes a suite after a colon:
// debian:bookworm.
func (c *Cloud) BuildImage(ctx context.Context, s state.Scope, name string, progress func(step string, done, total int64)) (string, error) {
	kind, suite, _ := strings.Cut(name, ":")
	build, known := map[string]func(context.Context, state.Scope, string, func(image.Progress)) (string, error){
		"tiny": c.buildTiny,
		"debian": func(ctx context.Context, s state.Scope, dir string, progress func(image.Progress)) (string, error) {
			return c.buildDebian(ctx, s, dir, suite, progress)
		},
	}[kind]
	if !known || kind == "tiny" && suite != "" {
		return "", fmt.Errorf("no image is called %q; there are tiny and debian", name)
	}
	if err := c.ensureRegion(s); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(c.dir.Scratch(), kind+"-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the next start empties scratch
	// A build takes much memory once; the daemon is to be small after it.
	defer debug.FreeOSMemory()
	id, err := build(ctx, s, dir, func(p image.Progress) { progress(p.Step, p.Done, p.Total) })
	if err != nil {
		return "", err
	}
	return id, nil
}

func (c *Cloud) buildTiny(ctx context.Context, s state.Scope, dir string, progress func(image.Progress)) (string, error) {
	built, err := image.BuildTiny(ctx, image.TinyOptions{Dir: dir, Cache: c.dir.Cache(), Log: c.log, Progress: progress})
	if err != nil {
		return "", err
	}
	progress(image.Progress{Step: "register the image"})
	return c.registerTiny(ctx, s, built)
}

func (c *Cloud) buildDebian(ctx context.Context, s state.Scope, dir, suite string, progress func(image.Progress)) (string, error) {
	built, err := image.BuildDebian(ctx, image.DebianOptions{Dir: dir, Suite: suite, Cache: c.dir.Cache(), Log: c.log, Progress: progress})
	if err != nil {
		return "", err
	}
	progress(image.Progress{Step: "register the image"})
	return c.registerDisk(ctx, s, built.Disk, debianParameter(built.Release), &state.Image{
		Name:        "debian-" + built.Release + "-amd64-" + c.now().UTC().Format("20060102-150405"),
		Description: "Debian " + built.Version + " (" + built.Suite + "), Linux " + built.Kernel, Architecture: built.Architecture,
		Virtualization: "hvm", BootMode: "uefi-preferred", RootDevice: "/dev/xvda", ENA: true, IMDS: "v2.0",
	})
}

// registerDisk registers an image of a disk with a boot loader, whose facts are
// given. It becomes what the parameter says, if that isn't empty. Nothing of it
// is left where that fails.
func (c *Cloud) registerDisk(ctx context.Context, s state.Scope, path, parameter string, ami *state.Image) (id string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	snap := &state.Snapshot{Meta: c.meta(s, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: int32((st.Size() + gib - 1) / gib), Description: ami.Name}
	tags := ami.Tags
	ami.Meta = c.meta(s, "ami")
	ami.Tags, snap.Tags = tags, maps.Clone(tags)
	ami.State, ami.Owner, ami.Type = state.ImageAvailable, s.Account, "machine"
	ami.BlockDevices = []state.BlockDevice{{Device: ami.RootDevice, SnapshotID: snap.ID, Size: snap.VolumeSize, Type: "gp3", DeleteOnTermination: true}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dropBuild(context.WithoutCancel(ctx), snap, ""))
		}
	}()
	err = c.db.Update(func(tx *state.Tx) error {
		return errors.Join(checkImageName(tx, s, &ami.Name), state.Put(tx, snap))
	})
	if err != nil {
		return "", err
	}
	info, err := c.snapshotFile(ctx, snap.ID, path)
	if err != nil {
		return "", err
	}
	err = c.db.Update(func(tx *state.Tx) error {
		if err := c.completeBuild(tx, snap, info); err != nil {
			return err
		}
		if err := checkImageName(tx, s, &ami.Name); err != nil { // it may have been taken meanwhile
			return err
		}
		if parameter != "" {
			if err := c.setParameter(tx, s, parameter, ami.ID); err != nil {
				return err
			}
		}
		return state.Put(tx, ami)
	})
	return ami.ID, err
}

// completeBuild marks a built image's snapshot as completed, unless it was
// deleted meanwhile.
func (c *Cloud) completeBuild(tx *state.Tx, snap *state.Snapshot, info snapshot.Info) error {
	now, err := state.Get[state.Snapshot](tx, snap.Scope(), snap.ID) // it may have been tagged
	if err != nil || now.Deleted {
		return errors.Join(fmt.Errorf("snapshot %s was deleted while the image was built", snap.ID), err)
	}
	now.State, now.Progress, now.Completed, now.DataBytes = state.SnapshotCompleted, 100, c.now().UTC(), info.DataBytes
	return state.Put(tx, now)
}

// registerTiny stores what was built. Nothing of it is left where that fails.
func (c *Cloud) registerTiny(ctx context.Context, s state.Scope, built *image.Tiny) (id string, err error) {
	snap := &state.Snapshot{Meta: c.meta(s, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: int32((built.Size + gib - 1) / gib), Description: "tiny"}
	kernel := c.newKernel(s, built)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dropBuild(context.WithoutCancel(ctx), snap, kernel.ID))
		}
	}()
	if err := c.installKernel(kernel.ID, built); err != nil {
		return "", fmt.Errorf("install kernel: %w", err)
	}
	if err := c.db.Update(func(tx *state.Tx) error { return state.Put(tx, snap) }); err != nil {
		return "", err
	}
	info, err := c.snapshotFile(ctx, snap.ID, built.Root)
	if err != nil {
		return "", err
	}
	ami := c.newTiny(s, kernel, snap)
	err = c.db.Update(func(tx *state.Tx) error {
		if err := c.completeBuild(tx, snap, info); err != nil {
			return err
		}
		return errors.Join(state.Put(tx, kernel), state.Put(tx, ami), c.setParameter(tx, s, TinyParameter, ami.ID))
	})
	return ami.ID, err
}

func (c *Cloud) newKernel(s state.Scope, built *image.Tiny) *state.Image {
	return &state.Image{
		Meta: c.meta(s, "aki"), State: state.ImageAvailable, Name: "stead-kernel-" + built.KernelVersion, Owner: amazonOwner, OwnerAlias: "amazon",
		Type: "kernel", Architecture: built.Architecture, Public: true, Cmdline: built.Cmdline,
		Description: "Linux " + built.KernelVersion + " with an initial file system for virtio disks",
	}
}

func (c *Cloud) newTiny(s state.Scope, kernel *state.Image, snap *state.Snapshot) *state.Image {
	ami := &state.Image{
		Meta: c.meta(s, "ami"), State: state.ImageAvailable, Name: "tiny-" + kernel.ID[len("aki-"):], Owner: s.Account, Type: "machine",
		Description: "A Linux of a few MiB that boots in seconds, with ssh", Architecture: kernel.Architecture, Virtualization: "hvm",
		BootMode: "legacy-bios", KernelID: kernel.ID, RootDevice: "/dev/sda1", ENA: true, IMDS: "v2.0",
		BlockDevices: []state.BlockDevice{{Device: "/dev/sda1", SnapshotID: snap.ID, Size: snap.VolumeSize, Type: "gp3", DeleteOnTermination: true}},
	}
	ami.Tags = map[string]string{"Name": "tiny"}
	return ami
}

// dropBuild removes what a build left that came to no image. The snapshot's
// blocks go with the next collection.
func (c *Cloud) dropBuild(ctx context.Context, snap *state.Snapshot, kernelID string) error {
	var failed error
	if err := c.snapshots.Delete(ctx, snap.ID); err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		failed = fmt.Errorf("remove snapshot %s of a failed build: %w", snap.ID, err)
	}
	if kernelID != "" {
		failed = errors.Join(failed, os.RemoveAll(filepath.Dir(c.dir.Kernel(kernelID))))
	}
	if failed != nil {
		return failed
	}
	return c.db.Update(func(tx *state.Tx) error { return state.Delete(tx, snap) })
}

// clearBuilds removes what builds left that their daemon did not survive:
// snapshots that are read from nowhere any more, and kernels without a record.
func (c *Cloud) clearBuilds(ctx context.Context) error {
	var left []*state.Snapshot
	known := map[string]bool{}
	err := c.db.View(func(tx *state.Tx) error {
		snaps, err := state.All[state.Snapshot](tx)
		if err != nil {
			return err
		}
		for _, s := range snaps {
			if s.State == state.SnapshotPending && s.VolumeID == noVolume && s.CopyOf == nil && s.Upload == nil {
				left = append(left, s)
			}
		}
		images, err := state.All[state.Image](tx)
		for _, i := range images {
			known[i.ID] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range left {
		if err := c.dropBuild(ctx, s, ""); err != nil {
			return err
		}
	}
	folders, err := os.ReadDir(c.dir.Kernels())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range folders {
		if known[f.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.dir.Kernels(), f.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) setParameter(tx *state.Tx, s state.Scope, name, value string) error {
	id := strings.ReplaceAll(name, "/", ":")
	p, err := state.Get[state.Parameter](tx, s, id)
	if errors.Is(err, state.ErrNotFound) {
		p = &state.Parameter{Meta: state.Meta{Account: s.Account, Region: s.Region, ID: id}, Name: name}
	} else if err != nil {
		return err
	}
	p.Created, p.Value, p.Count = c.now().UTC(), value, p.Count+1
	return state.Put(tx, p)
}

// installKernel moves a built kernel into the folder that its ID names, whole
// or not at all.
func (c *Cloud) installKernel(id string, built *image.Tiny) error {
	dir := filepath.Join(filepath.Dir(built.Kernel), "install")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	final := filepath.Dir(c.dir.Kernel(id))
	for _, f := range []struct{ from, to string }{{built.Kernel, c.dir.Kernel(id)}, {built.Initrd, c.dir.Initrd(id)}} {
		tmp := filepath.Join(dir, filepath.Base(f.to))
		if err := os.Rename(f.from, tmp); err != nil {
			return err
		}
		if err := syncFolder(tmp); err != nil {
			return err
		}
	}
	if err := syncFolder(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, final); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(final))
}

func (c *Cloud) snapshotFile(ctx context.Context, id, path string) (snapshot.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return snapshot.Info{}, err
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return snapshot.Info{}, err
	}
	start := time.Now()
	info, err := c.snapshots.Create(ctx, id, sparseFile{f, st.Size()}, nil, nil)
	c.log.Debug("image stored", "snapshot", id, "took", time.Since(start), "err", err)
	return info, err
}

// sparseFile is a snapshot.Source that skips a file's holes. Reads may be
// concurrent, the search for data not.
type sparseFile struct {
	*os.File
	size int64
}

func (s sparseFile) Size() int64 { return s.size }

func (s sparseFile) NextData(off int64) (start, end int64, err error) {
	if off >= s.size {
		return 0, 0, io.EOF
	}
	start, err = s.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, unix.EINVAL): // a file system that doesn't know its holes
		return off, s.size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = s.Seek(start, unix.SEEK_HOLE)
	return start, end, err
}
