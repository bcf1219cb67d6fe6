package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// blockNode is what QEMU tells of a block node.
type blockNode struct {
	Name     string `json:"node-name"`
	Filename string `json:"file"`
	ReadOnly bool   `json:"ro"`
	Image    struct {
		VirtualSize int64 `json:"virtual-size"`
	} `json:"image"`
	Bitmaps []blockBitmap `json:"dirty-bitmaps"`
}

// nodes returns QEMU's block nodes by name.
func (m *Machine) nodes(ctx context.Context) (map[string]blockNode, error) {
	var list []blockNode
	if err := m.execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &list); err != nil {
		return nil, err
	}
	byName := make(map[string]blockNode, len(list))
	for _, n := range list {
		byName[n.Name] = n
	}
	return byName, nil
}

// peripherals returns the IDs of the devices that were given one.
func (m *Machine) peripherals(ctx context.Context) ([]string, error) {
	var list []struct {
		Name string `json:"name"`
	}
	if err := m.execute(ctx, "qom-list", map[string]any{"path": "/machine/peripheral"}, &list); err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	return names, nil
}

// Disks returns the IDs of the volumes that QEMU has open now, sorted: those
// attached, and those half attached or detached.
func (m *Machine) Disks(ctx context.Context) ([]string, error) {
	nodes, err := m.nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the disks of machine %s: %w", m.spec.ID, err)
	}
	var volumes []string
	for name := range nodes {
		if id, ok := strings.CutPrefix(name, nodeFile("")); ok {
			volumes = append(volumes, id)
		}
	}
	slices.Sort(volumes)
	return volumes, nil
}

// Attach plugs a disk in. One that is attached already is left alone, and what
// an interrupted Attach or Detach left is completed. ErrNoSlot when the machine
// is full. When it fails otherwise, the disk isn't attached.
func (m *Machine) Attach(ctx context.Context, d Disk) error {
	err := d.validate()
	if err == nil {
		err = m.attach(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("attach volume %s to machine %s: %w", d.VolumeID, m.spec.ID, err)
	}
	return nil
}

func (m *Machine) attach(ctx context.Context, d Disk) error {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	if n, ok := nodes[nodeFile(d.VolumeID)]; ok && n.Filename != d.Path {
		return fmt.Errorf("attached already from %s", n.Filename)
	}
	port, attached, err := m.freePort(ctx, d)
	if _, seized := nodes[nodeNothing(d.VolumeID)]; err == nil && attached && seized {
		return errors.Join(ErrGuestHolds, m.askBack(ctx, d.VolumeID))
	}
	if err != nil || attached {
		return err
	}
	if err := m.clearSeized(ctx, d.VolumeID, nodes); err != nil {
		return err
	}
	if err := m.plug(ctx, d, port, nodes); err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		return errors.Join(err, m.unplugNodes(cctx, d.VolumeID))
	}
	return nil
}

// plug makes what is missing of a disk's nodes and device.
func (m *Machine) plug(ctx context.Context, d Disk, port string, nodes map[string]blockNode) error {
	if _, ok := nodes[nodeFile(d.VolumeID)]; !ok {
		if err := m.execute(ctx, "blockdev-add", fileNode(d), nil); err != nil {
			return err
		}
		m.beginRecords(ctx, []Disk{d})
	}
	if _, ok := nodes[nodeOverlay(d.VolumeID)]; !ok {
		if err := m.execute(ctx, "blockdev-add", overlayNode(d, nodeFile(d.VolumeID)), nil); err != nil {
			return err
		}
	}
	return m.execute(ctx, "device_add", diskDevice(d, port), nil)
}

// Detach asks the guest to let go of a disk and closes its file when it has.
// ErrGuestHolds when the guest hasn't by timeout, ErrBusy while a snapshot of the
// volume is being read; it can be called again after either. A disk that isn't
// there is fine.
func (m *Machine) Detach(ctx context.Context, volumeID string, timeout time.Duration) error {
	if err := m.unplugDevice(ctx, volumeID, timeout); err != nil {
		return fmt.Errorf("detach volume %s from machine %s: %w", volumeID, m.spec.ID, err)
	}
	unlock, err := m.lockGraph(ctx)
	if err == nil {
		defer unlock()
		err = m.closeVolume(ctx, volumeID)
	}
	if err != nil {
		return fmt.Errorf("detach volume %s from machine %s: %w", volumeID, m.spec.ID, err)
	}
	return nil
}

// askAgain is how often the guest is asked anew to let go of a disk. QEMU refuses
// to ask while an earlier request stands, and forgets one across a reset.
const askAgain = time.Second

// unplugDevice returns when the device is gone. The guest isn't waited for with
// the graph locked, so that a snapshot of other disks isn't held up.
func (m *Machine) unplugDevice(ctx context.Context, volumeID string, timeout time.Duration) error {
	if m.beingRead(volumeID) {
		return ErrBusy
	}
	id := deviceID(volumeID)
	gone, stop := m.expect(func(e qmp.Event) bool { return e.Name == "DEVICE_DELETED" && deviceOf(e.Data) == id })
	defer stop()
	patience := time.NewTimer(timeout)
	defer patience.Stop()
	for {
		names, err := m.peripherals(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(names, id) {
			return nil
		}
		err = m.execute(ctx, "device_del", map[string]any{"id": id}, nil)
		if refused := (*qmp.Error)(nil); err != nil && !errors.As(err, &refused) {
			return err
		}
		// A refusal says that a request stands, or that the device went
		// meanwhile: either way the wait below and the list above tell.
		select {
		case <-gone:
		case <-time.After(askAgain):
		case <-patience.C:
			return ErrGuestHolds
		case <-m.proc.done:
			return ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func deviceOf(data json.RawMessage) string {
	var d struct {
		Device string `json:"device"`
	}
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	return d.Device
}

// closeVolume closes a volume that no device uses any more, and keeps what is
// known of it. With the graph locked.
func (m *Machine) closeVolume(ctx context.Context, volumeID string) error {
	if m.beingRead(volumeID) {
		return ErrBusy
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	last := m.lastRecords(ctx, nodes, []string{volumeID})
	if err := m.unplugNodes(ctx, volumeID); err != nil {
		return err
	}
	m.leave(last)
	return nil
}

// unplugNodes closes a volume that no device uses any more. With the graph
// locked.
func (m *Machine) unplugNodes(ctx context.Context, volumeID string) error {
	if m.beingRead(volumeID) {
		return ErrBusy
	}
	return m.deleteNodes(ctx, nodeOverlay(volumeID), nodeNothing(volumeID), nodeFile(volumeID))
}

// deleteNodes removes block nodes, those that are there, in order. QEMU lets go
// of a node some time after what used it has gone, so a node in use is tried
// again for a while.
func (m *Machine) deleteNodes(ctx context.Context, names ...string) error {
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := nodes[name]; !ok {
			continue
		}
		if err := m.deleteNode(ctx, name); err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	return nil
}

func (m *Machine) deleteNode(ctx context.Context, name string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := m.execute(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
		if refused := (*qmp.Error)(nil); err == nil || !errors.As(err, &refused) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
