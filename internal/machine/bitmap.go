package machine

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/steadcloud/stead/internal/machine/nbd"
	"github.com/steadcloud/stead/internal/machine/qmp"
)

// Granularity is what one bit of Recorded.Blocks stands for, in bytes.
const Granularity = 512 << 10

// Since says where a record of a guest's changes to a volume begins.
type Since struct {
	// Snapshot is the one whose instant it is.
	Snapshot string
	// Carried names what was changed between that instant and the moment when
	// this machine got the volume, which is not in the record; empty where the
	// record holds everything.
	Carried string
}

// Recorded is what a guest may have changed of a volume.
type Recorded struct {
	Since
	// Blocks has a bit for each Granularity of the volume, the lowest of the
	// first byte first.
	Blocks []byte
}

// The names of dirty bitmaps on a volume's file node.
const (
	recordPrefix = "s-" // a record, by where it begins
	copyPrefix   = "t-" // a copy of one, while it is read
	carriedMark  = "+"
)

// bitmap is the name that the record has in QEMU.
func (s Since) bitmap() string {
	if s.Carried == "" {
		return recordPrefix + s.Snapshot
	}
	return recordPrefix + s.Snapshot + carriedMark + s.Carried
}

// parseSince reads the name of a record.
func parseSince(bitmap string) (s Since, ok bool) {
	name, ok := strings.CutPrefix(bitmap, recordPrefix)
	s.Snapshot, s.Carried, _ = strings.Cut(name, carriedMark)
	return s, ok
}

// blockBitmap is what QEMU tells of a dirty bitmap.
type blockBitmap struct {
	Name         string `json:"name"`
	Recording    bool   `json:"recording"`
	Busy         bool   `json:"busy"`
	Inconsistent bool   `json:"inconsistent"`
	Granularity  int64  `json:"granularity"`
}

// records are the bitmaps of a volume's file node that are records of ours.
func (n blockNode) records() []blockBitmap {
	return slices.DeleteFunc(slices.Clone(n.Bitmaps), func(b blockBitmap) bool { return !strings.HasPrefix(b.Name, recordPrefix) })
}

// record is the volume's one record. There may be none: then it isn't known what
// has changed, nor is it when there is more than one, or one with a gap.
func (m *Machine) record(volumeID string, node blockNode) (Since, bool) {
	all := node.records()
	if len(all) != 1 || m.doubts(volumeID) {
		return Since{}, false
	}
	b := all[0]
	if !b.Recording || b.Busy || b.Inconsistent || b.Granularity != Granularity {
		return Since{}, false
	}
	return parseSince(b.Name)
}

// action is a part of a transaction of QEMU's, which does all of them or none.
type action struct {
	Type string       `json:"type"`
	Data bitmapAction `json:"data"`
}

type bitmapAction struct {
	Node        string   `json:"node"`
	Name        string   `json:"name,omitempty"`
	Target      string   `json:"target,omitempty"`
	Bitmaps     []string `json:"bitmaps,omitempty"`
	Granularity int64    `json:"granularity,omitempty"`
	Disabled    bool     `json:"disabled,omitempty"`
}

func addBitmap(volumeID, name string, disabled bool) action {
	return action{"block-dirty-bitmap-add", bitmapAction{Node: nodeFile(volumeID), Name: name, Granularity: Granularity, Disabled: disabled}}
}

func removeBitmap(volumeID, name string) action {
	return action{"block-dirty-bitmap-remove", bitmapAction{Node: nodeFile(volumeID), Name: name}}
}

func enableBitmap(volumeID, name string) action {
	return action{"block-dirty-bitmap-enable", bitmapAction{Node: nodeFile(volumeID), Name: name}}
}

func disableBitmap(volumeID, name string) action {
	return action{"block-dirty-bitmap-disable", bitmapAction{Node: nodeFile(volumeID), Name: name}}
}

func mergeBitmap(volumeID, from, to string) action {
	return action{"block-dirty-bitmap-merge", bitmapAction{Node: nodeFile(volumeID), Target: to, Bitmaps: []string{from}}}
}

func (m *Machine) transact(ctx context.Context, actions []action) error {
	if len(actions) == 0 {
		return nil
	}
	return m.execute(ctx, "transaction", map[string]any{"actions": actions}, nil)
}

// beginRecords adds the records of disks whose guest doesn't run, or hasn't got
// them yet. Without a record the volume is read whole next time, so a failure
// is no reason to let the guest wait.
func (m *Machine) beginRecords(ctx context.Context, disks []Disk) {
	var actions []action
	for _, d := range disks {
		if d.Since != nil && !d.ReadOnly {
			actions = append(actions, addBitmap(d.VolumeID, d.Since.bitmap(), false))
		}
	}
	if err := m.transact(ctx, actions); err != nil {
		m.log.Warn("what the guest changes is not recorded, so that its disks will be read whole", "error", err)
	}
}

// readRecord reads what a record holds. It goes on recording. With the graph
// locked.
func (m *Machine) readRecord(ctx context.Context, volumeID string, since Since) (rec Recorded, err error) {
	name, export := copyPrefix+since.Snapshot, "r-"+volumeID
	// A bitmap that records can't be exported; a copy can.
	err = m.transact(ctx, []action{addBitmap(volumeID, name, true), mergeBitmap(volumeID, since.bitmap(), name)})
	if err != nil {
		return Recorded{}, err
	}
	defer func() {
		uerr := m.unexport(ctx, func(id string) bool { return id == export })
		if uerr == nil {
			uerr = m.transact(ctx, []action{removeBitmap(volumeID, name)})
		}
		if uerr != nil && err == nil {
			err = uerr
		}
	}()
	if err := m.exportBitmap(ctx, nodeFile(volumeID), export, nodeFile(volumeID), name, false); err != nil {
		return Recorded{}, err
	}
	rec.Since = since
	rec.Blocks, err = m.readBitmap(ctx, export, name)
	return rec, err
}

// exportBitmap serves a node, and with it a bitmap of another unless that is
// empty.
func (m *Machine) exportBitmap(ctx context.Context, node, export, file, bitmap string, writable bool) error {
	args := map[string]any{"type": "nbd", "id": export, "node-name": node, "name": export, "writable": writable}
	if bitmap != "" {
		args["bitmaps"] = []any{map[string]any{"node": file, "name": bitmap}}
	}
	return m.execute(ctx, "block-export-add", args, nil)
}

// readBitmap reads a bitmap that is exported.
func (m *Machine) readBitmap(ctx context.Context, export, bitmap string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var blocks []byte
	size, err := nbd.BlockStatus(ctx, filepath.Join(m.spec.Dir, fileNBD), export, "qemu:dirty-bitmap:"+bitmap, func(e nbd.Extent) {
		if e.Flags&nbd.StatusDirty != 0 {
			blocks = setBits(blocks, e.Offset/Granularity, (e.Offset+e.Length+Granularity-1)/Granularity)
		}
	})
	if err != nil {
		return nil, err
	}
	return padBits(blocks, size), nil
}

// setBits sets the bits from first up to end, making room for them.
func setBits(bits []byte, first, end int64) []byte {
	bits = growBits(bits, end)
	for i := first; i < end; i++ {
		bits[i/8] |= 1 << (i % 8)
	}
	return bits
}

// padBits makes room for the bits of a volume of size bytes.
func padBits(bits []byte, size int64) []byte {
	return growBits(bits, (size+Granularity-1)/Granularity)
}

func growBits(bits []byte, count int64) []byte {
	if n := int((count + 7) / 8); n > len(bits) {
		bits = append(bits, make([]byte, n-len(bits))...)
	}
	return bits
}

// hasBit says that a bit is set, or isn't there.
func hasBit(bits []byte, i int64) bool {
	return i/8 >= int64(len(bits)) || bits[i/8]&(1<<(i%8)) != 0
}

// withNBD runs do while QEMU's NBD server runs. With the graph locked.
func (m *Machine) withNBD(ctx context.Context, do func()) error {
	if m.countInstants() > 0 {
		do()
		return nil
	}
	if err := m.startNBD(ctx); err != nil {
		return err
	}
	do()
	return m.execute(ctx, "nbd-server-stop", nil, nil)
}

// lastRecords reads the records of volumes that nobody writes to any more. What
// can't be read is left out: the volume is then read whole next time.
func (m *Machine) lastRecords(ctx context.Context, nodes map[string]blockNode, volumeIDs []string) map[string]Recorded {
	known := map[string]Since{}
	for _, id := range volumeIDs {
		if since, ok := m.record(id, nodes[nodeFile(id)]); ok {
			known[id] = since
		}
	}
	found := map[string]Recorded{}
	if len(known) == 0 {
		return found
	}
	err := m.withNBD(ctx, func() {
		for id, since := range known {
			rec, err := m.readRecord(ctx, id, since)
			if err != nil {
				m.log.Warn("what the guest has changed can't be read, so that the volume will be read whole", "volume", id, "error", err)
				continue
			}
			found[id] = rec
		}
	})
	if err != nil {
		m.log.Warn("what the guest has changed can't be read, so that its disks will be read whole", "error", err)
	}
	return found
}

// leave keeps what is known of volumes that QEMU has closed.
func (m *Machine) leave(records map[string]Recorded) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, rec := range records {
		if !m.doubtful[id] && !m.doubtful[""] {
			m.left[id] = rec
		}
	}
}

// Left returns, once, what the guest changed of the volumes that were taken from
// the machine in order: after Shutdown, Detach or Seize returned nil. Of others
// it isn't known.
func (m *Machine) Left() map[string]Recorded {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := m.left
	m.left = map[string]Recorded{}
	return left
}

// SettleRecords finds what an earlier daemon's snapshots left of the records.
// completed says whether a snapshot is whole in the store: then the record that
// begins at it takes the place of the one before; else it goes back into that.
func (m *Machine) SettleRecords(ctx context.Context, completed func(ctx context.Context, snapshot string) (bool, error)) error {
	err := m.settleRecords(ctx, completed)
	if err != nil {
		return fmt.Errorf("settle what is recorded of the disks of machine %s: %w", m.spec.ID, err)
	}
	return nil
}

func (m *Machine) settleRecords(ctx context.Context, completed func(context.Context, string) (bool, error)) error {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	for name, node := range nodes {
		id, ok := strings.CutPrefix(name, nodeFile(""))
		if !ok || m.beingRead(id) {
			continue
		}
		actions, err := m.settling(ctx, id, node, completed)
		if err == nil {
			err = m.transact(ctx, actions)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
	}
	return nil
}

// settling is what brings a volume's records down to one that can be relied
// upon, or none.
func (m *Machine) settling(ctx context.Context, id string, node blockNode, completed func(context.Context, string) (bool, error)) (actions []action, err error) {
	for _, b := range node.Bitmaps {
		if strings.HasPrefix(b.Name, copyPrefix) {
			actions = append(actions, removeBitmap(id, b.Name))
		}
	}
	all := node.records()
	if since, ok := m.record(id, node); ok {
		done, err := completed(ctx, since.Snapshot)
		if done || err != nil {
			return actions, err
		}
	}
	if len(all) == 2 && !m.doubts(id) {
		done := [2]bool{}
		for i, b := range all {
			since, _ := parseSince(b.Name)
			if done[i], err = completed(ctx, since.Snapshot); err != nil {
				return nil, err
			}
		}
		for i, b := range all {
			other := all[1-i]
			switch {
			case !b.Recording && other.Recording && done[1-i]:
				return append(actions, removeBitmap(id, b.Name)), nil
			case !b.Recording && other.Recording:
				return append(actions, mergeBack(id, other.Name, b.Name)...), nil
			case b.Recording && other.Recording && done[i] && !done[1-i]:
				// The snapshot was interrupted before its instant was known to
				// be there; the older record has gone on.
				return append(actions, removeBitmap(id, other.Name)), nil
			}
		}
	}
	return append(actions, removeAll(id, all)...), nil
}

// mergeBack gives up the record of a snapshot that failed. The older one takes
// all that it holds and goes on.
func mergeBack(volumeID, failed, older string) []action {
	return []action{enableBitmap(volumeID, older), mergeBitmap(volumeID, failed, older), removeBitmap(volumeID, failed)}
}

func removeAll(volumeID string, all []blockBitmap) (actions []action) {
	for _, b := range all {
		actions = append(actions, removeBitmap(volumeID, b.Name))
	}
	return actions
}

// distrust gives up what is recorded of a volume, empty for all, of which the
// host failed to write something: a part of it may go back to what it was, though
// the guest hasn't written there since. Called with mu locked.
func (m *Machine) distrust(volumeID string) {
	if m.doubtful[volumeID] {
		return
	}
	m.doubtful[volumeID] = true
	// A daemon that comes after us must not rely upon it, either.
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
		defer cancel()
		if err := m.forgetRecords(ctx, volumeID); err != nil {
			m.log.Warn("what is recorded of a disk whose writes failed was not removed", "volume", volumeID, "error", err)
		}
	}()
}

func (m *Machine) doubts(volumeID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.doubtful[volumeID] || m.doubtful[""]
}

// cont lets a guest go on that stands still. What can't be relied upon any more
// is given up before, so that it isn't by whoever comes after this process.
func (m *Machine) cont(ctx context.Context) error {
	m.mu.Lock()
	doubtful := slices.Collect(maps.Keys(m.doubtful))
	m.mu.Unlock()
	for _, id := range doubtful {
		if err := m.forgetRecords(ctx, id); err != nil {
			return err
		}
	}
	return m.execute(ctx, "cont", nil, nil)
}

func (m *Machine) forgetRecords(ctx context.Context, volumeID string) error {
	unlock, err := m.lockGraph(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	var actions []action
	for name, node := range nodes {
		id, ok := strings.CutPrefix(name, nodeFile(""))
		if !ok || volumeID != "" && id != volumeID {
			continue
		}
		// One that a snapshot reads has ended, and goes with the snapshot.
		idle := slices.DeleteFunc(node.records(), func(b blockBitmap) bool { return b.Busy })
		actions = append(actions, removeAll(id, idle)...)
	}
	return m.transact(ctx, actions)
}

// resumed tells, from now until stop, whether the guest was let go on.
func (m *Machine) resumed() (was func() bool, stop func()) {
	seen, stop := m.expect(func(e qmp.Event) bool { return e.Name == "RESUME" })
	return func() bool { return len(seen) > 0 }, stop
}
