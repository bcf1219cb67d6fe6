package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mib       = 1 << 20
	blockSize = 512 << 10 // of a snapshot
	pageSize  = 4 << 10   // that a filesystem writes
)

// diskImage is a raw ext4 disk of files such as a server has.
type diskImage struct {
	path   string
	blocks []int64 // those that aren't zero
	stamp  uint64  // makes each change another
}

// makeImage builds a disk at path of about so many bytes of the host's own files
// in /usr, the same ones on each run, and an eighth more of noise, for what is
// compressed or encrypted already.
func makeImage(ctx context.Context, dir, path string, size int64) (*diskImage, error) {
	tree := filepath.Join(dir, "tree")
	defer func() { _ = os.RemoveAll(tree) }() // scratch
	got, err := copySome("/usr", tree, size)
	if err != nil {
		return nil, err
	}
	if err := noiseFiles(filepath.Join(tree, "noise"), got/8); err != nil {
		return nil, err
	}
	// Everything that mke2fs would draw lots for is given.
	const id = "7f1c0c2e-5d1b-4b6a-9d0a-3d6c6f0e5b11"
	mkfs := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-U", id, "-E", "hash_seed="+id+",root_owner=0:0",
		"-d", tree, path, fmt.Sprintf("%dM", got*5/4/mib+256))
	mkfs.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "E2FSPROGS_FAKE_TIME=1700000000")
	if out, err := mkfs.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a disk: %w: %s", err, bytes.TrimSpace(out))
	}
	image := &diskImage{path: path}
	if err := image.survey(); err != nil {
		return nil, err
	}
	return image, nil
}

// copySome copies regular files of a folder, in an order that depends on nothing
// but their names, until there are so many bytes of them.
func copySome(from, to string, want int64) (got int64, err error) {
	type file struct {
		path  string
		order [32]byte
	}
	var files []file
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, file{path, sha256.Sum256([]byte(path))})
		}
		return nil // what can't be read is left out
	})
	if err != nil {
		return 0, err
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(bytes.Compare(a.order[:], b.order[:]), strings.Compare(a.path, b.path))
	})
	for _, f := range files {
		if got >= want {
			break
		}
		n, err := copyOne(f.path, filepath.Join(to, strings.TrimPrefix(f.path, from)))
		if err != nil {
			return got, err
		}
		got += n
	}
	return got, nil
}

// copyOne copies a file, unless it can't be read.
func copyOne(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, nil // another user's
	}
	defer func() { _ = in.Close() }() // only read
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	// As the file's own, or each run's disk would differ.
	if at := time.Unix(1700000000, 0); err == nil {
		err = os.Chtimes(to, at, at)
	}
	return n, err
}

// noiseFiles writes files of 8 MiB that nothing can compress.
func noiseFiles(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	rng := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 8*mib)
	for n := int64(0); n*int64(len(buf)) < size; n++ {
		_, _ = rng.Read(buf) // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d", n)), buf, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// survey finds the blocks that aren't zero.
func (d *diskImage) survey() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	buf, zero := make([]byte, blockSize), make([]byte, blockSize)
	for i := int64(0); ; i++ {
		n, err := io.ReadFull(f, buf)
		if n == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("a disk that isn't of whole blocks: %w", err)
		}
		if !bytes.Equal(buf, zero) {
			d.blocks = append(d.blocks, i)
		}
	}
}

// changeBlocks changes every page of 1 % of the blocks that aren't zero, and
// returns their indices.
func (d *diskImage) changeBlocks(rng *rand.Rand) ([]int64, error) {
	chosen := slices.Clone(d.blocks)
	rng.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	chosen = chosen[:max(1, len(chosen)/100)]
	var pages []int64
	for _, b := range chosen {
		for off := b * blockSize; off < (b+1)*blockSize; off += pageSize {
			pages = append(pages, off)
		}
	}
	return d.change(pages)
}

// changePages changes as many pages as are in 1 % of the blocks, anywhere in
// blocks that aren't zero, and returns the indices of the blocks that they are in.
func (d *diskImage) changePages(rng *rand.Rand) ([]int64, error) {
	const perBlock = blockSize / pageSize
	pages := make([]int64, max(1, len(d.blocks)*perBlock/100))
	for n := range pages {
		pages[n] = d.blocks[rng.IntN(len(d.blocks))]*blockSize + rng.Int64N(perBlock)*pageSize
	}
	return d.change(pages)
}

// change writes a stamp that was never there into pages, which else stay as they
// are and thus as compressible. It returns the blocks that changed.
func (d *diskImage) change(pages []int64) (changed []int64, err error) {
	f, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nobody relies on it after a crash
	for _, off := range pages {
		d.stamp++
		stamp := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, d.stamp))
		if _, err := f.WriteAt(stamp[:], off+pageSize/2); err != nil {
			return nil, err
		}
		changed = append(changed, off/blockSize)
	}
	slices.Sort(changed)
	return slices.Compact(changed), nil
}

// syncAll writes to the disk whatever waits for it, so that nobody's turn begins
// with another's writes.
func syncAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return unix.Syncfs(int(f.Fd()))
}

// folderSize is the length of all files in a folder, or of the file.
func folderSize(path string) (size int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
