package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// Seize takes a disk's file away from a guest that doesn't let go of the disk,
// as after a Detach with ErrGuestHolds. From then on the guest reads zeros and
// what it writes is lost; that it hasn't flushed is lost, too. The device stays
// until the guest releases it; till then Attach of the volume asks it to, and is
// ErrGuestHolds. ErrBusy while a snapshot of the volume is being read. A disk that isn't
// there is fine.
func (m *Machine) Seize(ctx context.Context, volumeID string) error {
	if err := m.seize(ctx, volumeID); err != nil {
		return fmt.Errorf("take volume %s from machine %s: %w", volumeID, m.spec.ID, err)
	}
	return nil
}

func (m *Machine) seize(ctx context.Context, volumeID string) error {
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
	if !ok {
		return nil
	}
	if _, ok := nodes[nodeNothing(volumeID)]; !ok {
		nothing := map[string]any{"driver": "null-co", "node-name": nodeNothing(volumeID), "size": file.Image.VirtualSize, "read-zeroes": true}
		if err := m.execute(ctx, "blockdev-add", nothing, nil); err != nil {
			return err
		}
	}
	if _, ok := nodes[nodeOverlay(volumeID)]; ok {
		if err := m.reopen(ctx, map[string]string{volumeID: nodeNothing(volumeID)}); err != nil {
			return err
		}
	}
	last := m.lastRecords(ctx, nodes, []string{volumeID})
	if err := m.deleteNodes(ctx, nodeFile(volumeID)); err != nil {
		return err
	}
	m.leave(last)
	return nil
}

// askBack asks the guest once more to release a disk. A refusal says that it
// has been asked.
func (m *Machine) askBack(ctx context.Context, volumeID string) error {
	err := m.execute(ctx, "device_del", map[string]any{"id": deviceID(volumeID)}, nil)
	if refused := (*qmp.Error)(nil); errors.As(err, &refused) {
		return nil
	}
	return err
}

// clearSeized removes what is left of a disk that was taken from the guest, once
// the guest has released it.
func (m *Machine) clearSeized(ctx context.Context, volumeID string, nodes map[string]blockNode) error {
	if _, ok := nodes[nodeNothing(volumeID)]; !ok {
		return nil
	}
	delete(nodes, nodeOverlay(volumeID))
	delete(nodes, nodeNothing(volumeID))
	return m.deleteNodes(ctx, nodeOverlay(volumeID), nodeNothing(volumeID))
}
