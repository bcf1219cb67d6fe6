package cloud

import "path/filepath"

// Dir is the local cloud's data folder. Every name in it is declared here and
// described in docs/state-dir.md.
type Dir string

func (d Dir) join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// LockFile is held by the daemon for as long as it lives.
func (d Dir) LockFile() string { return d.join("lock") }

// StateFile holds every record.
func (d Dir) StateFile() string { return d.join("state.db") }

// KeysFile holds the access key that signs requests, readable by its owner.
func (d Dir) KeysFile() string { return d.join("credentials.json") }

// ControlSocket is where the daemon takes orders that are not EC2's.
func (d Dir) ControlSocket() string { return d.join("control.sock") }

// LogFile is the daemon's log.
func (d Dir) LogFile() string { return d.join("daemon.log") }

// Volumes holds one raw file a volume.
func (d Dir) Volumes() string { return d.join("volumes") }

// Snapshots is the snapshot store.
func (d Dir) Snapshots() string { return d.join("snapshots") }

// Uploads holds the blocks of snapshots that clients put one by one.
func (d Dir) Uploads() string { return d.join("uploads") }

// TokenKeyFile holds the key that block tokens and page tokens are signed with.
func (d Dir) TokenKeyFile() string { return d.join("tokens.key") }

// Machine is the folder of one instance's process.
func (d Dir) Machine(instanceID string) string { return d.join("machines", instanceID) }

// Machines holds the machines' folders.
func (d Dir) Machines() string { return d.join("machines") }

// Kernel is the file of a kernel image.
func (d Dir) Kernel(imageID string) string { return d.join("kernels", imageID, "vmlinuz") }

// Initrd is the initial file system of a kernel image.
func (d Dir) Initrd(imageID string) string { return d.join("kernels", imageID, "initrd") }

// Kernels holds the kernel images' folders.
func (d Dir) Kernels() string { return d.join("kernels") }

// Cache holds what can be fetched or made again.
func (d Dir) Cache() string { return d.join("cache") }

// Scratch holds half-made things; it is emptied at every start.
func (d Dir) Scratch() string { return d.join("scratch") }
