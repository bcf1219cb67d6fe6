package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// teardownTimeout bounds the removal of a snapshot's nodes when its caller can't
// wait any more: they must not stay, for each write of the guest costs twice
// while they do.
const teardownTimeout = 30 * time.Second

// cbwTimeout is how many seconds a guest's write waits at most for the fleece.
// Then the snapshot breaks, not the guest.
const cbwTimeout = 10

// Instant is a point in time of some of a machine's disks. It costs the guest an
// additional read and write for each cluster that it overwrites, so it should be
// read promptly and closed.
type Instant struct {
	m       *Machine
	name    string
	sources map[string]*Source
}

// Snapshot freezes the volumes at one instant, which lies between the call and
// its return: what the guest wrote before is in it, and what it writes after is
// not, in the same order on all volumes. The guest goes on and is never given an
// error for the snapshot's sake. name is for messages. ErrBusy when one of the
// volumes has an instant already.
func (m *Machine) Snapshot(ctx context.Context, name string, volumeIDs []string) (*Instant, error) {
	i, err := m.snapshot(ctx, name, volumeIDs)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s of machine %s: %w", name, m.spec.ID, err)
	}
	return i, nil
}

func (m *Machine) snapshot(ctx context.Context, name string, volumeIDs []string) (*Instant, error) {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i := &Instant{m: m, name: name, sources: map[string]*Source{}}
	if err := i.prepare(ctx, volumeIDs); err != nil {
		return nil, errors.Join(err, i.closeSources())
	}
	m.register(i)
	if err := i.build(ctx, volumeIDs); err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		return nil, errors.Join(err, i.demolish(cctx))
	}
	return i, nil
}

// prepare checks the volumes and opens their files, without touching QEMU.
func (i *Instant) prepare(ctx context.Context, volumeIDs []string) error {
	if len(volumeIDs) == 0 {
		return errors.New("no volumes given")
	}
	nodes, err := i.m.nodes(ctx)
	if err != nil {
		return err
	}
	for _, id := range volumeIDs {
		file, ok := nodes[nodeFile(id)]
		overlay, ok2 := nodes[nodeOverlay(id)]
		switch {
		case !ok || !ok2:
			return fmt.Errorf("volume %s: %w", id, ErrNotAttached)
		case overlay.ReadOnly:
			return fmt.Errorf("volume %s: attached read-only, so its file can be read as it is", id)
		case i.m.beingRead(id):
			return fmt.Errorf("volume %s: %w", id, ErrBusy)
		case i.sources[id] != nil:
			return fmt.Errorf("volume %s: given twice", id)
		}
		src, err := newSource(i.m.spec.Dir, id, file)
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		i.sources[id] = src
	}
	return nil
}

// build makes the nodes. All that can take long or fail is before the instant,
// which is the single reopen that slips every filter in.
func (i *Instant) build(ctx context.Context, volumeIDs []string) error {
	m := i.m
	if err := m.serveNBD(ctx); err != nil {
		return err
	}
	for _, id := range volumeIDs {
		if err := i.addFilter(ctx, id); err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
	}
	if err := m.reopen(ctx, volumeIDs, nodeFilter); err != nil {
		return err
	}
	for _, id := range volumeIDs {
		if err := i.export(ctx, id); err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
	}
	return nil
}

// addFilter adds the fleece and the filter that fills it.
func (i *Instant) addFilter(ctx context.Context, id string) error {
	path := fleeceFile(i.m.spec.Dir, id)
	err := i.m.execute(ctx, "blockdev-add", struct {
		blockFilter
		File blockFile `json:"file"`
	}{
		blockFilter{Driver: "raw", NodeName: nodeFleece(id), Discard: "unmap"},
		blockFile{Driver: "file", Filename: path, Discard: "unmap", AIO: diskAIO},
	}, nil)
	// QEMU has it open and so have we: without a name it can't be left behind.
	if rerr := removeFile(path); err != nil || rerr != nil {
		return errors.Join(err, rerr)
	}
	return i.m.execute(ctx, "blockdev-add", struct {
		blockFilter
		Target  string `json:"target"`
		OnError string `json:"on-cbw-error"`
		Timeout int    `json:"cbw-timeout"`
	}{
		blockFilter{Driver: "copy-before-write", NodeName: nodeFilter(id), File: nodeFile(id), Discard: "unmap"},
		nodeFleece(id), "break-snapshot", cbwTimeout,
	}, nil)
}

// export makes the instant readable over NBD; writable, so that a range can be
// released by trimming it.
func (i *Instant) export(ctx context.Context, id string) error {
	access := blockFilter{Driver: "snapshot-access", NodeName: nodeAccess(id), File: nodeFilter(id), Discard: "unmap"}
	if err := i.m.execute(ctx, "blockdev-add", access, nil); err != nil {
		return err
	}
	return i.m.execute(ctx, "block-export-add", map[string]any{
		"type": "nbd", "id": nodeAccess(id), "node-name": nodeAccess(id), "name": nodeAccess(id), "writable": true,
	}, nil)
}

// reopen puts the overlays of the volumes onto the nodes that below names, all
// at once: no request of the guest falls between two of them.
func (m *Machine) reopen(ctx context.Context, volumeIDs []string, below func(string) string) error {
	options := make([]blockFilter, len(volumeIDs))
	for i, id := range volumeIDs {
		options[i] = overlayNode(Disk{VolumeID: id}, below(id))
	}
	return m.execute(ctx, "blockdev-reopen", map[string]any{"options": options}, nil)
}

// serveNBD starts QEMU's NBD server unless it serves already.
func (m *Machine) serveNBD(ctx context.Context) error {
	if m.countInstants() > 1 {
		return nil // this one is registered already
	}
	err := m.execute(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{
		"type": "unix", "data": map[string]any{"path": filepath.Join(m.spec.Dir, fileNBD)},
	}}, nil)
	if err != nil {
		return fmt.Errorf("serve the instant: %w", err)
	}
	return nil
}

// Source returns the reader of one of the instant's volumes.
func (i *Instant) Source(volumeID string) (*Source, error) {
	s := i.sources[volumeID]
	if s == nil {
		return nil, fmt.Errorf("snapshot %s of machine %s: volume %s is not part of it", i.name, i.m.spec.ID, volumeID)
	}
	return s, nil
}

// Close gives up the instant and removes from QEMU all that it took; reads under
// way fail. It can be called again when it failed.
func (i *Instant) Close(ctx context.Context) error {
	if err := i.close(ctx); err != nil {
		return fmt.Errorf("close snapshot %s of machine %s: %w", i.name, i.m.spec.ID, err)
	}
	return nil
}

func (i *Instant) close(ctx context.Context) error {
	// A read that QEMU doesn't answer must not keep the export busy.
	serr := i.closeSources()
	unlock, err := i.m.lockGraph(ctx)
	if errors.Is(err, ErrNotRunning) {
		i.m.unregister(i)
		return serr
	}
	if err != nil {
		return errors.Join(serr, err)
	}
	defer unlock()
	return errors.Join(serr, i.demolish(ctx))
}

func (i *Instant) closeSources() error {
	var errs []error
	for _, s := range i.sources {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// demolish removes the nodes, with the graph locked. An instant that couldn't be
// removed stays registered: its volumes are not free.
func (i *Instant) demolish(ctx context.Context) error {
	err := i.closeSources()
	var ids []string
	for id := range i.sources {
		ids = append(ids, id)
	}
	terr := i.m.teardown(ctx, ids)
	if terr != nil && !errors.Is(terr, ErrNotRunning) {
		return errors.Join(err, terr)
	}
	if i.m.unregister(i) == 0 && terr == nil {
		err = errors.Join(err, i.m.execute(ctx, "nbd-server-stop", nil, nil))
	}
	return err
}

// clearSnapshots removes what an earlier daemon's snapshots left in QEMU.
func (m *Machine) clearSnapshots(ctx context.Context) error {
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for name := range nodes {
		for _, prefix := range []string{nodeFilter(""), nodeFleece(""), nodeAccess("")} {
			if id, ok := strings.CutPrefix(name, prefix); ok && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) > 0 {
		m.log.Warn("removing what an interrupted snapshot left", "volumes", ids)
		if err := m.teardown(ctx, ids); err != nil {
			return err
		}
	}
	// A refusal says that it doesn't serve, which is what is wanted.
	err = m.execute(ctx, "nbd-server-stop", nil, nil)
	if refused := (*qmp.Error)(nil); errors.As(err, &refused) {
		return nil
	}
	return err
}

// teardown takes the volumes' snapshot nodes out of QEMU, however many of them
// there are.
func (m *Machine) teardown(ctx context.Context, ids []string) error {
	if err := m.unexport(ctx, ids); err != nil {
		return err
	}
	for _, id := range ids {
		if err := m.deleteNodes(ctx, nodeAccess(id)); err != nil {
			return err
		}
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	var filtered []string
	for _, id := range ids {
		_, filter := nodes[nodeFilter(id)]
		_, overlay := nodes[nodeOverlay(id)]
		if filter && overlay {
			filtered = append(filtered, id)
		}
	}
	if len(filtered) > 0 {
		if err := m.reopen(ctx, filtered, nodeFile); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := m.deleteNodes(ctx, nodeFilter(id), nodeFleece(id)); err != nil {
			return err
		}
		if err := removeFile(fleeceFile(m.spec.Dir, id)); err != nil {
			return err
		}
	}
	return nil
}

// unexport ends the exports of the volumes' instants and waits until QEMU has
// let go of them.
func (m *Machine) unexport(ctx context.Context, ids []string) error {
	gone, stop := m.expect(func(e qmp.Event) bool { return e.Name == "BLOCK_EXPORT_DELETED" })
	defer stop()
	for {
		var list []struct {
			ID           string `json:"id"`
			ShuttingDown bool   `json:"shutting-down"`
		}
		if err := m.execute(ctx, "query-block-exports", nil, &list); err != nil {
			return err
		}
		left := 0
		for _, e := range list {
			id, ok := strings.CutPrefix(e.ID, nodeAccess(""))
			if !ok || !slices.Contains(ids, id) {
				continue
			}
			left++
			if e.ShuttingDown {
				continue
			}
			if err := m.execute(ctx, "block-export-del", map[string]any{"id": e.ID, "mode": "hard"}, nil); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-gone:
		case <-time.After(20 * time.Millisecond): // gone before we listened
		case <-m.proc.done:
			return ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Machine) register(i *Instant) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.instants) == 0 {
		m.quiet = make(chan struct{})
	}
	for id := range i.sources {
		m.instants[id] = i
	}
}

// unregister returns how many volumes are still being read.
func (m *Machine) unregister(i *Instant) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range i.sources {
		if m.instants[id] == i {
			delete(m.instants, id)
		}
	}
	if len(m.instants) == 0 && m.quiet != nil {
		close(m.quiet)
		m.quiet = nil
	}
	return len(m.instants)
}

func (m *Machine) beingRead(volumeID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instants[volumeID] != nil
}

// countInstants counts instants, not their volumes.
func (m *Machine) countInstants() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[*Instant]bool{}
	for _, i := range m.instants {
		seen[i] = true
	}
	return len(seen)
}

// newFleece makes the sparse file that takes what the guest overwrites.
func newFleece(path string, size int64) (*os.File, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close(), removeFile(path))
	}
	return f, nil
}
