// Package volume keeps EBS volumes as raw sparse files in one folder.
//
// QEMU opens the files directly, so nothing stands between a guest and its
// disk, and `mount -o loop` recovers the data without this program. A volume
// is either complete or absent: it is made under a temporary name, synced, and
// only then given its own, so that a crash leaves at most a temporary that the
// next Open removes.
//
// Locks are those of QEMU's own protocol (file.locking, see lock.go): a volume
// that a machine writes to can't be deleted, grown or read here, and a machine
// can't start on a volume while a snapshot of it is being read.
//
// # What has changed
//
// Beside a volume lies what of it has changed since a snapshot (changes.go), so
// that the next snapshot reads no more than that. To take a changed block for an
// unchanged one would be to lose data, and to know nothing costs but time: so
// what is noted holds for the file with this inode, size, mtime and ctime alone,
// and it is forgotten before a machine can write.
//
// It also holds for this run of the host alone. What something else writes into a
// file, somebody who has mounted it say, may reach the disk before the file's
// times do, even when it was synced (fdatasync); after a power cut it would look
// unchanged. So the first snapshot of a volume after the host was started reads it
// whole.
//
// A record is saved when nobody can write to the volume: its machine is gone or
// has given it back, or a snapshot of it was read while it lay still. The volume
// is synced, then identified, then the record is written under another name,
// synced, renamed and the folder synced. Where a kill or a power cut may fall:
//
//   - Before the machine's end: there is no record; it was taken at its start.
//   - Between its end and the rename: likewise.
//   - After the rename, before the folder is synced: the record is there or not,
//     and right, for the volume was durable before.
//
// It is taken (CarryChanges) before a machine starts, by a rename that is synced:
//
//   - Before the rename: nobody has written; the record holds.
//   - After it, before the machine runs: the record names no machine's bitmap,
//     for each is named after the one record that it goes on from; so nothing is
//     known.
//   - While the machine runs: the record and the machine's bitmap, which begins
//     before the guest does, hold together. Without either nothing is known.
//   - A power cut before the rename was synced can't be: the machine's start
//     comes after it. The record can't come back to life beside a volume that
//     was written to.
//
// A snapshot's own end is no matter: a record names its base, and one whose base
// is not, or no longer, in the store is of no use there.
//
// # Golden files
//
// Where the filesystem lets two files share their blocks (reflinks, as XFS and
// btrfs have them), the first volume that is made of a snapshot is kept a second
// time, as a golden file that nobody writes to (golden.go), and each further one
// is a clone of it: as quick for a terabyte as for a gibibyte, and without a read
// of the store. The golden file costs nothing until the volume is written to.
//
// It is made of the first volume, whose every block was verified as it was
// written, before that volume has its name: cloned, synced, renamed, the folder
// synced; then a record of it is written, likewise. Only a golden file with a
// record is one. The record binds it to the snapshot's contents and, as what has
// changed of a volume is bound, to inode, size, mtime and ctime: one that was
// altered, or came here by a copy, is dropped. What a disk does to a file at rest
// shows in neither; so one that wasn't read through for a day is compared with the
// snapshot's digests before it is used.
//
// Golden files take no room from anything else. Together they are as large as what
// is free at most, those unused for longest going first, and all go before a
// volume fails for want of space.
package volume
