package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
)

// Console connects to the guest's serial port: what is read the guest writes
// from now on, what is written it reads. QEMU serves one connection at a time
// and lets others wait; whoever has it must read promptly, for a guest that
// writes waits for its reader. The connection ends with the process. ErrNoConsole
// for a machine that was started by a version without this.
func (m *Machine) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.spec.Dir, fileSerial))
	if err == nil {
		return conn, nil
	}
	select {
	case <-m.proc.done:
		err = ErrNotRunning
	default:
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			err = ErrNoConsole
		}
	}
	return nil, fmt.Errorf("console of machine %s: %w", m.spec.ID, err)
}
