package machine

import (
	"fmt"
	"path/filepath"
)

// The names of the files in a machine's folder. Nothing else is put there.
const (
	// fileRecord is the Spec that the machine was started with and how.
	fileRecord = "machine.json"
	// filePID is written and locked by QEMU; the lock says that it lives.
	filePID = "qemu.pid"
	// fileQMP is the socket QEMU listens on for its control protocol.
	fileQMP = "qmp.sock"
	// fileNet is the socket QEMU listens on for the network.
	fileNet = "net.sock"
	// fileNBD is the socket QEMU serves the instants of snapshots on.
	fileNBD = "nbd.sock"
	// fileSerial is the socket QEMU listens on for the serial port: what is
	// written there the guest reads.
	fileSerial = "tty.sock"
	// fileConsole is what the guest wrote to its serial port; appended to.
	fileConsole = "serial.log"
	// fileLog is QEMU's own stdout and stderr of the latest start.
	fileLog = "qemu.log"
	// fileUEFIVars holds the UEFI variables of this machine.
	fileUEFIVars = "uefi-vars.fd"
	// fleecePrefix and fleeceSuffix enclose the snapshot's ID in the name of the
	// file that takes what a guest overwrites while a snapshot is read.
	fleecePrefix = "fleece-"
	fleeceSuffix = ".raw"
)

// maxSocketPath is what sun_path holds on Linux, less the closing zero.
const maxSocketPath = 107

func fleeceFile(dir, snapshot string) string {
	return filepath.Join(dir, fleecePrefix+snapshot+fleeceSuffix)
}

// checkSocketPaths fails when a socket of the folder couldn't be bound.
func checkSocketPaths(dir string) error {
	for _, name := range []string{fileQMP, fileNet, fileNBD, fileSerial} {
		if path := filepath.Join(dir, name); len(path) > maxSocketPath {
			return fmt.Errorf("socket path %s is %d bytes long, the limit is %d: use a shorter data folder", path, len(path), maxSocketPath)
		}
	}
	return nil
}
