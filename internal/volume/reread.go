package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reread sees to it that whoever reads a volume from now on reads what its disk
// has, and not what the host's memory still holds of it. It is for a volume of
// which the host has failed to write something: Linux then takes for written what
// isn't, and a later sync succeeds without it
// (https://wiki.postgresql.org/wiki/Fsync_Errors). What is known of the volume's
// changes is dropped, as parts of it may again be what they were. An error says
// that the disk fails still; ErrInUse that somebody has the volume.
func (d *Dir) Reread(ctx context.Context, id string) (err error) {
	defer func() { err = wrap("read anew", id, err) }()
	if err := ctx.Err(); err != nil {
		return err
	}
	release, err := d.Lock(id)
	if err != nil {
		return err
	}
	defer release()
	if err := errors.Join(d.dropChanges(id), syncDir(d.path)); err != nil {
		return err
	}
	f, err := d.open(id, os.O_RDWR)
	if err != nil {
		return err
	}
	// Only what is on the disk can be forgotten.
	err = f.Sync()
	if err == nil {
		if err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			err = fmt.Errorf("forget what the memory holds of it: %w", err)
		}
	}
	return errors.Join(err, f.Close())
}
