package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

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

// BuildImage builds an image by name and registers it: its kernel, its
// snapshot, the image, and the parameter that aliases it. Only tiny is known.
func (c *Cloud) BuildImage(ctx context.Context, s state.Scope, name string, progress func(step string, done, total int64)) (string, error) {
	if name != "tiny" {
		return "", fmt.Errorf("no image is called %q; there is tiny", name)
	}
	if err := c.ensureRegion(s); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(c.dir.Scratch(), "tiny-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the next start empties scratch
	built, err := image.BuildTiny(ctx, image.TinyOptions{
		Dir: dir, Cache: c.dir.Cache(), Log: c.log,
		Progress: func(p image.Progress) { progress(p.Step, p.Done, p.Total) },
	})
	if err != nil {
		return "", err
	}
	progress("register the image", 0, 0)
	return c.registerTiny(ctx, s, built)
}

func (c *Cloud) registerTiny(ctx context.Context, s state.Scope, built *image.Tiny) (string, error) {
	kernel := &state.Image{
		Meta: c.meta(s, "aki"), State: state.ImageAvailable, Name: "stead-kernel-" + built.KernelVersion, Owner: amazonOwner, OwnerAlias: "amazon",
		Type: "kernel", Architecture: built.Architecture, Public: true, Cmdline: built.Cmdline,
		Description: "Linux " + built.KernelVersion + " with an initial file system for virtio disks",
	}
	if err := c.installKernel(kernel.ID, built); err != nil {
		return "", fmt.Errorf("install kernel: %w", err)
	}
	snap := &state.Snapshot{Meta: c.meta(s, "snap"), State: state.SnapshotPending, VolumeID: noVolume, VolumeSize: int32((built.Size + gib - 1) / gib), Description: "tiny"}
	if err := c.db.Update(func(tx *state.Tx) error { return errors.Join(state.Put(tx, kernel), state.Put(tx, snap)) }); err != nil {
		return "", err
	}
	info, err := c.snapshotFile(ctx, snap.ID, built.Root)
	if err != nil {
		return "", err
	}
	snap.State, snap.Progress, snap.Completed, snap.DataBytes = state.SnapshotCompleted, 100, c.now().UTC(), info.DataBytes
	ami := &state.Image{
		Meta: c.meta(s, "ami"), State: state.ImageAvailable, Name: "tiny-" + kernel.ID[len("aki-"):], Owner: s.Account, Type: "machine",
		Description: "A Linux of a few MiB that boots in seconds, with ssh", Architecture: built.Architecture, Virtualization: "hvm",
		BootMode: "legacy-bios", KernelID: kernel.ID, RootDevice: "/dev/sda1", ENA: true, IMDS: "v2.0",
		BlockDevices: []state.BlockDevice{{Device: "/dev/sda1", SnapshotID: snap.ID, Size: snap.VolumeSize, Type: "gp3", DeleteOnTermination: true}},
	}
	ami.Tags = map[string]string{"Name": "tiny"}
	return ami.ID, c.db.Update(func(tx *state.Tx) error {
		return errors.Join(state.Put(tx, snap), state.Put(tx, ami), c.setParameter(tx, s, TinyParameter, ami.ID))
	})
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
	info, err := c.snapshots.Create(ctx, id, wholeFile{f, st.Size()}, nil)
	c.log.Debug("image stored", "snapshot", id, "took", time.Since(start), "err", err)
	return info, err
}

// wholeFile is a snapshot.Source that takes all of a file for data.
type wholeFile struct {
	io.ReaderAt
	size int64
}

func (w wholeFile) Size() int64 { return w.size }

func (w wholeFile) NextData(off int64) (start, end int64, err error) {
	if off >= w.size {
		return 0, 0, io.EOF
	}
	return off, w.size, nil
}
