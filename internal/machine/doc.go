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
//	c-vol-…   copy-before-write, file=b-vol-…, target=f-vol-…
//	f-vol-…   the fleece: a sparse file that takes what the guest overwrites
//	a-vol-…   snapshot-access on c-vol-…, exported over NBD on a unix socket
//
// The instant is then pulled through [Source]. Whatever becomes of the reader,
// the fleece or the daemon, the snapshot fails and the guest doesn't notice.
package machine
