package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// teardownTimeout bounds the removal of a snapshot's nodes when its caller can't
// wait any more: they must not stay, for each write of the guest costs twice
// while they do.
const teardownTimeout = 30 * time.Second

// cbwTimeout is how many seconds a guest's write waits at most for the fleece.
// Then the snapshot breaks, not the guest.
const cbwTimeout = 10

// Freeze is a disk of which an instant is wanted.
type Freeze struct {
	VolumeID string
	// Snapshot is what the instant is for: the ID of a snapshot, or of whatever
	// else is made of it. It names the nodes and the file that the instant
	// takes, so it must be used once.
	Snapshot string
	// Record begins a record of what the guest changes from the instant on, for
	// the next snapshot, and reads the one before.
	Record bool
}

// Instant is a point in time of some of a machine's disks. It costs the guest an
// additional read and write for each cluster that it overwrites, so it should be
// read promptly and closed.
type Instant struct {
	m       *Machine
	name    string
	sources map[string]*Source
	closed  chan struct{} // closed when it is gone from QEMU
	gone    bool          // likewise; read or write under graph
}

// Snapshot freezes the volumes at one instant, which lies between the call and
// its return: what the guest wrote before is in it, and what it writes after is
// not, in the same order on all volumes. The guest goes on and is never given an
// error for the snapshot's sake. name is for messages. ErrBusy when one of the
// volumes has an instant already.
func (m *Machine) Snapshot(ctx context.Context, name string, disks []Freeze) (*Instant, error) {
	i, err := m.snapshot(ctx, name, disks)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s of machine %s: %w", name, m.spec.ID, err)
	}
	return i, nil
}

func (m *Machine) snapshot(ctx context.Context, name string, disks []Freeze) (*Instant, error) {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i := &Instant{m: m, name: name, sources: map[string]*Source{}, closed: make(chan struct{})}
	if err := i.prepare(ctx, disks); err != nil {
		return nil, errors.Join(err, i.closeSources())
	}
	m.register(i)
	if err := i.build(ctx, disks); err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		return nil, errors.Join(err, i.demolish(cctx))
	}
	go i.watchRoom() //nolint:gosec // as long as the instant, not the call that made it
	return i, nil
}

// prepare checks the volumes and opens their files, without touching QEMU.
func (i *Instant) prepare(ctx context.Context, disks []Freeze) error {
	if len(disks) == 0 {
		return errors.New("no volumes given")
	}
	nodes, err := i.m.nodes(ctx)
	if err != nil {
		return err
	}
	for _, d := range disks {
		file, ok := nodes[nodeFile(d.VolumeID)]
		overlay, ok2 := nodes[nodeOverlay(d.VolumeID)]
		switch {
		case !validID.MatchString(d.Snapshot) || len(nodeFilter(d.Snapshot)) > maxNodeName:
			return fmt.Errorf("volume %s: %q can't name a node", d.VolumeID, d.Snapshot)
		case !ok || !ok2:
			return fmt.Errorf("volume %s: %w", d.VolumeID, ErrNotAttached)
		case overlay.ReadOnly:
			return fmt.Errorf("volume %s: attached read-only, so its file can be read as it is", d.VolumeID)
		case i.m.beingRead(d.VolumeID):
			return fmt.Errorf("volume %s: %w", d.VolumeID, ErrBusy)
		case i.sources[d.VolumeID] != nil:
			return fmt.Errorf("volume %s: given twice", d.VolumeID)
		}
		src, err := newSource(i.m.spec.Dir, d, file)
		if err != nil {
			return fmt.Errorf("volume %s: %w", d.VolumeID, err)
		}
		if since, ok := i.m.record(d.VolumeID, file); ok && d.Record {
			src.since = &since
		} else if d.Record {
			src.stale = file.records()
		}
		i.sources[d.VolumeID] = src
	}
	return nil
}

// build makes the nodes. All that can take long or fail is before the instant,
// which is the single reopen that slips every filter in. The records that begin
// here do so before the instant, and the ones that end here end after it: what
// is written between is in both.
func (i *Instant) build(ctx context.Context, disks []Freeze) error {
	m := i.m
	if m.countInstants() == 1 { // this one is registered already
		if err := m.startNBD(ctx); err != nil {
			return err
		}
	}
	below := map[string]string{}
	var begin, end []action
	for _, d := range disks {
		if err := i.addFilter(ctx, d); err != nil {
			return fmt.Errorf("volume %s: %w", d.VolumeID, err)
		}
		below[d.VolumeID] = nodeFilter(d.Snapshot)
		src := i.sources[d.VolumeID]
		if d.Record {
			begin = append(begin, removeAll(d.VolumeID, src.stale)...)
			begin = append(begin, addBitmap(d.VolumeID, Since{Snapshot: d.Snapshot}.bitmap(), false))
		}
		if src.since != nil {
			end = append(end, disableBitmap(d.VolumeID, src.since.bitmap()))
		}
	}
	if err := m.transact(ctx, begin); err != nil {
		return fmt.Errorf("begin to record changes: %w", err)
	}
	if err := m.reopen(ctx, below); err != nil {
		return err
	}
	if err := m.transact(ctx, end); err != nil {
		return fmt.Errorf("end recording changes: %w", err)
	}
	for _, d := range disks {
		if err := i.export(ctx, d); err != nil {
			return fmt.Errorf("volume %s: %w", d.VolumeID, err)
		}
	}
	return nil
}

// addFilter adds the fleece and the filter that fills it.
func (i *Instant) addFilter(ctx context.Context, d Freeze) error {
	path := fleeceFile(i.m.spec.Dir, d.Snapshot)
	err := i.m.execute(ctx, "blockdev-add", struct {
		blockFilter
		File blockFile `json:"file"`
	}{
		blockFilter{Driver: "raw", NodeName: nodeFleece(d.Snapshot), Discard: "unmap"},
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
		blockFilter{Driver: "copy-before-write", NodeName: nodeFilter(d.Snapshot), File: nodeFile(d.VolumeID), Discard: "unmap"},
		nodeFleece(d.Snapshot), "break-snapshot", cbwTimeout,
	}, nil)
}

// export makes the instant readable over NBD; writable, so that a range can be
// released by trimming it. The record that ended at it is read.
func (i *Instant) export(ctx context.Context, d Freeze) error {
	access := blockFilter{Driver: "snapshot-access", NodeName: nodeAccess(d.Snapshot), File: nodeFilter(d.Snapshot), Discard: "unmap"}
	if err := i.m.execute(ctx, "blockdev-add", access, nil); err != nil {
		return err
	}
	src, bitmap := i.sources[d.VolumeID], ""
	if src.since != nil {
		bitmap = src.since.bitmap()
	}
	err := i.m.exportBitmap(ctx, nodeAccess(d.Snapshot), nodeAccess(d.Snapshot), nodeFile(d.VolumeID), bitmap, true)
	if err != nil || bitmap == "" {
		return err
	}
	blocks, err := i.m.readBitmap(ctx, nodeAccess(d.Snapshot), bitmap)
	if err != nil {
		i.m.log.Warn("what the guest has changed can't be read, so that the volume will be read whole", "volume", d.VolumeID, "error", err)
		return nil
	}
	src.recorded = &Recorded{Since: *src.since, Blocks: blocks}
	return nil
}

// reopen puts the overlays of volumes onto the nodes given for them, all at
// once: no request of the guest falls between two of them.
func (m *Machine) reopen(ctx context.Context, below map[string]string) error {
	var options []blockFilter
	for id, node := range below {
		options = append(options, overlayNode(Disk{VolumeID: id}, node))
	}
	return m.execute(ctx, "blockdev-reopen", map[string]any{"options": options}, nil)
}

// startNBD starts QEMU's NBD server, which doesn't serve yet.
func (m *Machine) startNBD(ctx context.Context) error {
	err := m.execute(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{
		"type": "unix", "data": map[string]any{"path": filepath.Join(m.spec.Dir, fileNBD)},
	}}, nil)
	if err != nil {
		return fmt.Errorf("serve the disks' contents: %w", err)
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

// Completed says that the snapshot of a volume is whole and durable: the record
// that began at the instant takes the place of the one before when the instant
// is closed. Without it the older record goes on, with all that was changed
// meanwhile.
func (i *Instant) Completed(volumeID string) { i.conclude(volumeID, completed) }

// Forget says that what is recorded of a volume is of no use: at the end of the
// instant there is no record any more.
func (i *Instant) Forget(volumeID string) { i.conclude(volumeID, forgotten) }

func (i *Instant) conclude(volumeID string, how conclusion) {
	if s := i.sources[volumeID]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outcome = how
	}
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
	if i.gone {
		return err
	}
	var names, volumes []string
	for id, s := range i.sources {
		names, volumes = append(names, s.snapshot), append(volumes, id)
	}
	terr := i.m.teardown(ctx, names, volumes)
	if terr == nil {
		terr = i.settle(ctx)
	}
	if terr != nil && !errors.Is(terr, ErrNotRunning) {
		return errors.Join(err, terr)
	}
	i.gone = true
	close(i.closed)
	if i.m.unregister(i) == 0 && terr == nil {
		err = errors.Join(err, i.m.execute(ctx, "nbd-server-stop", nil, nil))
	}
	return err
}

// settle brings the records of each volume down to one. With the graph locked.
func (i *Instant) settle(ctx context.Context) error {
	nodes, err := i.m.nodes(ctx)
	if err != nil {
		return err
	}
	var actions []action
	for id, s := range i.sources {
		if s.record {
			actions = append(actions, s.settling(id, nodes[nodeFile(id)].records(), i.m.doubts(id))...)
		}
	}
	return i.m.transact(ctx, actions)
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
