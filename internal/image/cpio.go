package image

import (
	"fmt"
	"io"
	"path"
)

// cpioWriter writes the archive format that Linux takes as an initramfs
// ("newc"). All files belong to root and carry no time, so that the same
// content gives the same bytes.
type cpioWriter struct {
	w    io.Writer
	dirs map[string]bool
	ino  int
	err  error
}

// File types in the mode field, as in stat(2).
const (
	cpioDir     = 0o040000
	cpioFile    = 0o100000
	cpioLink    = 0o120000
	cpioCharDev = 0o020000
)

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{".": true}}
}

// Dir adds a folder and those above it, once.
func (c *cpioWriter) Dir(name string) {
	if c.dirs[name] {
		return
	}
	c.dirs[name] = true
	c.Dir(path.Dir(name))
	c.entry(name, cpioDir|0o755, 0, nil)
}

// File adds a regular file with the permissions perm.
func (c *cpioWriter) File(name string, perm uint32, data []byte) {
	c.Dir(path.Dir(name))
	c.entry(name, cpioFile|perm, 0, data)
}

// Symlink adds a symbolic link.
func (c *cpioWriter) Symlink(target, name string) {
	c.Dir(path.Dir(name))
	c.entry(name, cpioLink|0o777, 0, []byte(target))
}

// CharDev adds a character device.
func (c *cpioWriter) CharDev(name string, major, minor uint32) {
	c.Dir(path.Dir(name))
	c.entry(name, cpioCharDev|0o600, major<<8|minor, nil)
}

// Close ends the archive and returns the first error of all that was written.
func (c *cpioWriter) Close() error {
	c.ino = -1
	c.entry("TRAILER!!!", 0, 0, nil)
	return c.err
}

// entry writes one member: a header of hexadecimal fields, the name and the
// content, each padded to four bytes.
func (c *cpioWriter) entry(name string, mode, rdev uint32, data []byte) {
	if c.err != nil {
		return
	}
	c.ino++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, rdev>>8, rdev&0xff, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(header), data} {
		if _, c.err = c.w.Write(part); c.err != nil {
			return
		}
		if _, c.err = c.w.Write(make([]byte, align4(int64(len(part)))-int64(len(part)))); c.err != nil {
			return
		}
	}
}
