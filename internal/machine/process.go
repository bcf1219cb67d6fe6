package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// process is a QEMU that runs, be it our child or one adopted from an earlier
// daemon. It is held by a pidfd, so that a signal can't reach another process
// that was given the same number.
type process struct {
	pid   int
	pidfd *os.File
	child *os.Process   // nil when adopted
	done  chan struct{} // closed when the process is gone and its traces removed

	// released is set when another has taken over the care of the folder.
	released atomic.Bool
}

// lockHolder returns the process that holds the lock on the pid file, 0 when
// none does. QEMU takes that lock before it does anything else and keeps it for
// its life, so the answer is right whatever became of the number in the file.
func lockHolder(dir string) (int, error) {
	f, err := os.Open(filepath.Join(dir, filePID))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("query the lock on %s: %w", f.Name(), err)
	}
	if lock.Type == unix.F_UNLCK || lock.Pid <= 0 {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// adopt takes hold of the QEMU that runs in dir; ErrNotRunning when none does.
func adopt(dir string) (*process, error) {
	pid, err := lockHolder(dir)
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return nil, ErrNotRunning
	}
	p, err := hold(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	// The holder may have ended before the pidfd was opened, and its number may
	// have been reused; but not if it still holds the lock now.
	if again, err := lockHolder(dir); err != nil || again != pid {
		_ = p.pidfd.Close()
		return nil, errors.Join(ErrNotRunning, err)
	}
	return p, nil
}

// hold opens a pidfd of a process, non-blocking so that waiting for its end
// takes no thread.
func hold(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	return &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}, nil
}

// supervise waits for the process to end, reaps it when it is our child, removes
// the traces that a killed QEMU leaves in dir, and closes done.
func (p *process) supervise(dir string) {
	defer close(p.done)
	defer p.pidfd.Close()
	if raw, err := p.pidfd.SyscallConn(); err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
		})
	}
	if p.child != nil {
		_, _ = p.child.Wait()
	}
	if !p.released.Load() {
		_ = sweep(dir)
	}
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill(ctx context.Context) error {
	var sent error
	raw, err := p.pidfd.SyscallConn()
	if err == nil {
		// This fails alone when supervise has closed the pidfd: the process is
		// gone, and done about to be closed.
		_ = raw.Control(func(fd uintptr) {
			sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
		})
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, sent)
	}
	return p.wait(ctx)
}

func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d to end: %w", p.pid, ctx.Err())
	}
}

// sweep removes what a QEMU that was killed left in its folder. It holds QEMU's
// own lock meanwhile, so that it can't hurt one that is just starting.
func sweep(dir string) error {
	path := filepath.Join(dir, filePID)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the folder is gone
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// An open file description lock: unlike QEMU's it isn't lost when another
	// part of this process closes the same file. They exclude each other.
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return ErrRunning
		}
		return err
	}
	var errs []error
	for _, pattern := range []string{
		fileQMP, fileNet, fileNBD, fileSerial, fleecePrefix + "*" + fleeceSuffix,
		temporary(fileRecord), temporary(fileUEFIVars),
	} {
		names, err := fs.Glob(os.DirFS(dir), pattern)
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, removeFile(filepath.Join(dir, name)))
		}
	}
	// The lock's file goes last.
	return errors.Join(append(errs, removeFile(path))...)
}
