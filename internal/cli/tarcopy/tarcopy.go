// Package tarcopy moves files and folders as tar streams, since not every
// server has scp or sftp, and all have tar. Both ends do the same: what comes
// is laid down beside its place first, and is put there by renaming when it is
// whole. So a copy that was cut off leaves what was there as it was.
package tarcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Stats counts what was copied.
type Stats struct {
	Files int   `json:"files"` // regular files and links
	Bytes int64 `json:"bytes"`
	// Skipped are devices, sockets and the like, which are no data.
	Skipped []string `json:"skipped,omitempty"`
}

// ErrFolder says that a source is a folder, and folders weren't asked for.
var ErrFolder = errors.New("it is a folder")

// The parts of an archive that Receive's script takes: the sources below one
// folder, and in the end a mark that nothing was cut off. An archive without
// its end is none that every tar notices.
const (
	packFolder = "d/"
	packEnd    = "ok"
)

// Pack writes local sources to w as an archive for ReceiveScript. Names in it
// are the sources' last elements. Links are followed where they are named as a
// source and kept below one. progress gets the number of bytes so far.
func Pack(w io.Writer, sources []string, recursive bool, progress func(bytes int64)) (Stats, error) {
	p := packer{tar: tar.NewWriter(w), progress: progress}
	for _, source := range sources {
		if err := p.add(source, recursive); err != nil {
			return p.stats, err
		}
	}
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: packEnd, Mode: 0o600}); err != nil {
		return p.stats, err
	}
	return p.stats, p.tar.Close()
}

// Size adds up the bytes below sources, for a progress that knows its end.
func Size(sources []string) int64 {
	var sum int64
	for _, source := range sources {
		_ = filepath.WalkDir(source, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					sum += info.Size()
				}
			}
			return nil // what can't be read fails when it is copied
		})
	}
	return sum
}

type packer struct {
	tar      *tar.Writer
	stats    Stats
	progress func(int64)
}

func (p *packer) add(source string, recursive bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(source) // "." has a name too
	if err != nil {
		return err
	}
	name := packFolder + filepath.Base(absolute)
	if !info.IsDir() {
		return p.entry(source, name, info)
	}
	if !recursive {
		return fmt.Errorf("%s: %w", source, ErrFolder)
	}
	return p.folder(source, name)
}

func (p *packer) folder(source, name string) error {
	// The slash has a link to a folder followed here, and only here.
	return filepath.WalkDir(strings.TrimRight(source, "/")+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while the folder was read
		}
		if err != nil {
			return err
		}
		if rel == "." {
			return p.entry(path, name, info)
		}
		return p.entry(path, name+"/"+filepath.ToSlash(rel), info)
	})
}

func (p *packer) entry(path, name string, info fs.FileInfo) error {
	h := &tar.Header{
		// The only form of long names that every tar knows.
		Format: tar.FormatGNU, Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime().Truncate(time.Second),
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.tar.WriteHeader(h)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		p.stats.Files++
		return p.tar.WriteHeader(h)
	case !mode.IsRegular():
		p.stats.Skipped = append(p.stats.Skipped, path)
		return nil
	}
	return p.file(path, h)
}

// file writes a file at the size that it had when it was opened. One that
// grows meanwhile is cut there; one that shrinks is an error.
func (p *packer) file(path string, h *tar.Header) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(p.tar, &counter{r: io.LimitReader(f, h.Size), stats: &p.stats, progress: p.progress}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.stats.Files++
	if err := p.tar.Flush(); err != nil {
		return fmt.Errorf("%s became shorter while it was copied: %w", path, err)
	}
	return nil
}

// counter counts what is read through it.
type counter struct {
	r        io.Reader
	stats    *Stats
	progress func(int64)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.stats.Bytes += int64(n)
	if c.progress != nil {
		c.progress(c.stats.Bytes)
	}
	return n, err
}
