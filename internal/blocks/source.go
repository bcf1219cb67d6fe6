package blocks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// source is a disk that is imported.
type source interface {
	// ReadAt reads the disk; beyond its end, and where nothing is, are zeros.
	ReadAt(p []byte, offset int64) error
	size() int64
	// data returns the next range at offset or after it that may hold
	// something. At the end, begin is the disk's size.
	data(offset int64) (begin, end int64, err error)
}

// openSource opens a disk in a file.
func openSource(f *os.File, format Format) (source, Format, error) {
	if format == Auto {
		var head [4]byte
		if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, "", err
		}
		format = Raw
		if bytes.Equal(head[:], []byte("QFI\xfb")) {
			format = QCOW2
		}
	}
	if _, err := FormatOf(format, ""); err != nil {
		return nil, "", err
	}
	if format == QCOW2 {
		s, err := openQCOW2(f)
		return s, format, err
	}
	s, err := openRaw(f)
	return s, format, err
}

// rawSource is a disk as it is.
type rawSource struct {
	f     *os.File
	bytes int64
	holes bool // the file system tells where they are
}

func openRaw(f *os.File) (*rawSource, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &rawSource{f: f, bytes: st.Size(), holes: st.Mode().IsRegular()}
	switch {
	case st.Mode().IsRegular():
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		if s.bytes, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, err
		}
	default:
		return nil, &Error{Op: "import", Resource: f.Name(), Reason: "it is neither a file nor a block device", Remedy: "name the file of a disk, or - for a stream", Err: ErrUsage}
	}
	if s.bytes == 0 {
		return nil, &Error{Op: "import", Resource: f.Name(), Reason: "it is empty", Err: ErrFormat}
	}
	return s, nil
}

func (s *rawSource) size() int64 { return s.bytes }

func (s *rawSource) ReadAt(p []byte, offset int64) error {
	n, err := s.f.ReadAt(p, offset)
	if errors.Is(err, io.EOF) {
		err = nil
		if offset+int64(n) < s.bytes {
			err = fmt.Errorf("%w: %s became shorter", ErrChanged, s.f.Name())
		}
	}
	clear(p[n:])
	return err
}

func (s *rawSource) data(offset int64) (begin, end int64, err error) {
	if offset >= s.bytes {
		return s.bytes, s.bytes, nil
	}
	if !s.holes {
		return offset, s.bytes, nil
	}
	begin, err = unix.Seek(int(s.f.Fd()), offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return s.bytes, s.bytes, nil
	case errors.Is(err, unix.EINVAL):
		s.holes = false // it all has to be read
		return offset, s.bytes, nil
	case err != nil:
		return 0, 0, fmt.Errorf("look for data in %s: %w", s.f.Name(), err)
	}
	end, err = unix.Seek(int(s.f.Fd()), begin, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("look for holes in %s: %w", s.f.Name(), err)
	}
	return begin, min(end, s.bytes), nil
}

// identity tells a file from others, and from itself with other contents. Of a
// device only itself is told.
func identity(f *os.File) (string, error) {
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s has no identity", f.Name())
	}
	if !st.Mode().IsRegular() {
		return fmt.Sprintf("device %d", sys.Rdev), nil
	}
	return fmt.Sprintf("file %d %d, %d bytes, changed at %d.%09d", sys.Dev, sys.Ino, st.Size(), sys.Mtim.Sec, sys.Mtim.Nsec), nil
}

// unnamed takes a file's name away, also in what is said of it.
func unnamed(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	err = errors.Join(err, os.Remove(f.Name()), f.Close())
	if fd < 0 {
		return nil, err
	}
	same := os.NewFile(uintptr(fd), "the stream")
	if err != nil {
		return nil, errors.Join(err, same.Close())
	}
	return same, nil
}

// spool writes a stream to a file without a name, with holes where it has
// zeros.
func spool(r io.Reader, dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "stead-import-")
	if err != nil {
		return nil, err
	}
	if f, err = unnamed(f); err != nil {
		return nil, err
	}
	buf := make([]byte, Size)
	at := int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 && !isZero(buf[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				_ = f.Close()
				return nil, fmt.Errorf("keep the stream in %s: %w", dir, err)
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("read the stream: %w", err)
		}
	}
	if err := f.Truncate(at); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
