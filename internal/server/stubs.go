package server

import (
	"context"
	"errors"
)

// Snapshot takes a set of all the server's disks.
func (m *Manager) Snapshot(ctx context.Context, name string, o SnapshotOptions) (*SnapshotSet, error) {
	return nil, errors.ErrUnsupported
}

// Snapshots lists the server's sets, newest first; all servers' with name "".
func (m *Manager) Snapshots(ctx context.Context, name string) ([]SnapshotSet, error) {
	return nil, errors.ErrUnsupported
}

// VolumeCreate makes a blank data disk of a server, and attaches it when the
// server has an instance.
func (m *Manager) VolumeCreate(ctx context.Context, o VolumeOptions) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeAttach makes an available volume a data disk of the server and plugs
// it in. device "" means the recorded one, else the next free.
func (m *Manager) VolumeAttach(ctx context.Context, volumeID, server, device string) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeDetach unplugs a data disk and takes it out of its server; it keeps
// its data.
func (m *Manager) VolumeDetach(ctx context.Context, volumeID string) (*Disk, error) {
	return nil, errors.ErrUnsupported
}

// VolumeList returns the disks of the server, or with server "" every volume
// in the region, superseded and unowned ones too.
func (m *Manager) VolumeList(ctx context.Context, server string) ([]Disk, error) {
	return nil, errors.ErrUnsupported
}

// ImageDurable makes an image from which whatever launches it keeps its disks.
func (m *Manager) ImageDurable(ctx context.Context, o DurableOptions) (*Image, error) {
	return nil, errors.ErrUnsupported
}

func (m *Manager) rescueBySnapshot(ctx context.Context, w *world, o RescueOptions) (*RescueResult, error) {
	return nil, errors.ErrUnsupported
}
