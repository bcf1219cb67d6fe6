// Package machine runs instances: one QEMU process each, which outlives the
// program that started it.
//
// # Life of a machine
//
// A machine is described by a [Spec] and lives in a folder that belongs to the
// caller. [Runner.Start] writes the Spec there and starts QEMU in a session of
// its own; [Runner.Open] finds it again after the daemon was restarted or
// killed. Whether a machine runs is never a matter of memory: QEMU holds a lock
// on its pid file for as long as it lives, and the kernel drops that lock with
// the process. A process number is therefore never mistaken for one that was
// reused.
//
// QEMU is told what to do over QMP (package qmp). The guest's own power-off
// leaves QEMU paused (-action shutdown=pause), so that the owner decides what
// follows and a snapshot being read isn't cut off.
//
// # Disks
//
// Each volume is a raw file opened by two block nodes and one virtio-blk device,
// all named after the volume, so that every half-done step can be recognised and
// completed by whoever comes next:
//
//	b-vol-…   the file                driver=file
//	v-vol-…   what the device reads   driver=raw, file=b-vol-…
//	n-vol-…   nothing, in the file's place, when the volume was taken by force
//	d-vol-…   the device              virtio-blk-pci, serial=vol…
//
// The cache is the host's page cache (cache.direct=off) and a guest's flush
// becomes fdatasync on the file before it is answered. An error of the host's
// disk stops the machine rather than reaching the guest (werror=stop,
// rerror=stop); it goes on after [Machine.Continue].
//
// # Snapshots
//
// [Machine.Snapshot] freezes an instant of several disks by slipping a
// copy-before-write filter between v and b:
//
//	c-snap-…  copy-before-write, file=b-vol-…, target=f-snap-…
//	f-snap-…  the fleece: a sparse file that takes what the guest overwrites
//	a-snap-…  snapshot-access on c-snap-…, exported over NBD on a unix socket
//
// They are named after the snapshot, so that whoever finds them knows which one
// is broken. The instant is then pulled through [Source]. Whatever becomes of the
// reader, the fleece or the daemon, the snapshot fails and the guest doesn't
// notice. A fleece that takes more room than the host's disk has left ends the
// snapshot, lest the guest be stopped for want of room.
//
// # What has changed
//
// What a guest changes is recorded by dirty bitmaps on b-vol-…, a bit for each
// 512 KiB, in QEMU's memory:
//
//	s-snap-…          all changes since that snapshot's instant
//	s-snap-…+CARRIED  those since the machine got the volume; CARRIED names those
//	                  between the instant and then, which the volume's owner keeps
//	t-snap-…          a copy of one, while it is read
//
// There is one record to a volume, or none, and while an instant is read the one
// that ended at it, which records no more, and the one that began. In this order:
//
//  1. The filters are added.
//  2. s-snap-NEW is added for all disks.
//  3. The instant: one reopen puts all filters in place.
//  4. s-snap-OLD is disabled for all disks. What was written since 2 is in both.
//  5. s-snap-OLD is read, what it doesn't hold is given up, what it holds is read.
//  6. The snapshot is whole in the store; or isn't.
//  7. The filters go.
//  8. s-snap-OLD is removed; or takes in s-snap-NEW and goes on.
//
// A daemon that dies leaves one of these states, of which the next makes one
// record (SettleRecords), knowing which snapshots are whole in the store:
//
//   - After 1, and after 7 and 8 of a snapshot that ended: there is one record.
//   - After 2 and 3: both record. NEW's snapshot can't be whole, OLD has gone on:
//     NEW is removed. If neither is whole, OLD having been deleted, both are.
//   - After 4 and 5: OLD doesn't record, NEW's snapshot isn't whole: merged back.
//     Between 2 and the merge NEW has missed nothing, nor has OLD up to 4.
//   - After 6 and 7: NEW's snapshot is whole: OLD is removed.
//   - Within 8: a removal or a merge is one transaction of QEMU's.
//
// A QEMU that dies takes its records with it. Between a machine's start and its
// first record (-S: the guest is let go after it) nobody writes. A daemon that
// dies there leaves a guest that was never let go; the next lets it go, with the
// records that it has, or with none. KVM that failed a guest may have let it
// write: the next try under TCG has no record.
//
// When a machine ends in order its guest is stopped first, which waits for its
// writes; then the records are read, then QEMU ends, and only then they are given
// out ([Machine.Left]), unless the guest was let go on meanwhile. Likewise when a
// disk is detached or seized: nobody writes to it any more when its record is
// read. In any other end nothing is given out. After a write or a flush that the
// host failed, the volume's record is given up for good: a part of the file may go
// back to what it was.
package machine
