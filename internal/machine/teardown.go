package machine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// roomEvery is how often it is looked how much of the host's disk an instant
// takes.
const roomEvery = 250 * time.Millisecond

// watchRoom ends the instant when what the guest overwrites takes up more of the
// host's disk than is left free, for else the guest itself would soon stand still
// for want of room.
func (i *Instant) watchRoom() {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-i.closed:
			return
		case <-i.m.proc.done:
			return
		}
		if i.hasRoom() {
			continue
		}
		i.m.log.Warn("a snapshot is given up, for what the guest overwrites fills the host's disk", "snapshot", i.name)
		for _, s := range i.sources {
			_ = s.fail(ErrNoRoom)
		}
		ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
		err := i.close(ctx)
		cancel()
		if err == nil {
			return
		}
		i.m.log.Error("a snapshot that was given up is still there", "snapshot", i.name, "error", err)
	}
}

// hasRoom says whether there is more room left than the instant takes. So it
// gets half of what there was, and so does whatever comes second.
func (i *Instant) hasRoom() bool {
	var used int64
	for _, s := range i.sources {
		used += s.overwritten()
	}
	var fs unix.Statfs_t
	if used == 0 || unix.Statfs(i.m.spec.Dir, &fs) != nil {
		return true
	}
	return uint64(used) <= fs.Bavail*uint64(fs.Bsize)
}

// overwritten is how many bytes of the host's disk the fleece takes; none once
// the source is closed.
func (s *Source) overwritten() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	if s.closed || unix.Fstat(int(s.fleece.Fd()), &st) != nil {
		return 0
	}
	const statBlock = 512 // st_blocks counts these, whatever the filesystem's own
	return st.Blocks * statBlock
}

// clearSnapshots removes what an earlier daemon's snapshots left in QEMU, but
// for the records, of which SettleRecords takes care.
func (m *Machine) clearSnapshots(ctx context.Context) error {
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	var names, volumes []string
	for name, node := range nodes {
		for _, prefix := range []string{nodeFilter(""), nodeFleece(""), nodeAccess("")} {
			if snapshot, ok := strings.CutPrefix(name, prefix); ok && !slices.Contains(names, snapshot) {
				names = append(names, snapshot)
			}
		}
		if id, ok := strings.CutPrefix(name, nodeOverlay("")); ok && !node.ReadOnly {
			volumes = append(volumes, id)
		}
	}
	if len(names) > 0 {
		m.log.Warn("removing what interrupted snapshots left", "snapshots", names)
		if err := m.teardown(ctx, names, volumes); err != nil {
			return err
		}
	}
	if err := m.unexport(ctx, func(string) bool { return true }); err != nil {
		return err
	}
	// A refusal says that it doesn't serve, which is what is wanted.
	err = m.execute(ctx, "nbd-server-stop", nil, nil)
	if refused := (*qmp.Error)(nil); errors.As(err, &refused) {
		return nil
	}
	return err
}

// teardown takes the nodes of snapshots out of QEMU, however many of them there
// are, and puts the volumes back onto their files.
func (m *Machine) teardown(ctx context.Context, names, volumes []string) error {
	if err := m.unexport(ctx, func(id string) bool {
		name, ok := strings.CutPrefix(id, nodeAccess(""))
		return ok && slices.Contains(names, name)
	}); err != nil {
		return err
	}
	for _, name := range names {
		if err := m.deleteNodes(ctx, nodeAccess(name)); err != nil {
			return err
		}
	}
	if err := m.putBack(ctx, volumes); err != nil {
		return err
	}
	for _, name := range names {
		if err := m.deleteNodes(ctx, nodeFilter(name), nodeFleece(name)); err != nil {
			return err
		}
		if err := removeFile(fleeceFile(m.spec.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// putBack puts overlays onto their files; one that is there already stays. A
// file that was taken from the guest is not given back.
func (m *Machine) putBack(ctx context.Context, volumes []string) error {
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	below := map[string]string{}
	for _, id := range volumes {
		_, file := nodes[nodeFile(id)]
		_, overlay := nodes[nodeOverlay(id)]
		if _, seized := nodes[nodeNothing(id)]; file && overlay && !seized {
			below[id] = nodeFile(id)
		}
	}
	if len(below) == 0 {
		return nil
	}
	return m.reopen(ctx, below)
}

// unexport ends exports and waits until QEMU has let go of them.
func (m *Machine) unexport(ctx context.Context, which func(id string) bool) error {
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
			if !which(e.ID) {
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
