package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Grow makes an attached disk size bytes long and tells the guest. The file
// comes first and is on the host's disk before the guest can use its new part,
// so that no crash leaves a guest with a disk longer than its file. A disk that
// is as long already is only told of. ErrBusy while a snapshot of the volume is
// being read, whose instant has the old length.
func (m *Machine) Grow(ctx context.Context, volumeID string, size int64) error {
	if err := m.grow(ctx, volumeID, size); err != nil {
		return fmt.Errorf("grow volume %s of machine %s: %w", volumeID, m.spec.ID, err)
	}
	return nil
}

func (m *Machine) grow(ctx context.Context, volumeID string, size int64) error {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if m.beingRead(volumeID) {
		return ErrBusy
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	file, ok := nodes[nodeFile(volumeID)]
	overlay, attached := nodes[nodeOverlay(volumeID)]
	switch {
	case !ok || !attached:
		return ErrNotAttached
	case overlay.Image.VirtualSize > size:
		return fmt.Errorf("it has %d bytes and can't shrink to %d", overlay.Image.VirtualSize, size)
	}
	if err := extend(file.Filename, size); err != nil {
		return err
	}
	if overlay.Image.VirtualSize == size {
		return nil // an earlier try got this far
	}
	return m.execute(ctx, "block_resize", map[string]any{"node-name": nodeOverlay(volumeID), "size": size}, nil)
}

// extend makes a file at least size bytes long, durably.
func extend(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
