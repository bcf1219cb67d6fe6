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
package volume
