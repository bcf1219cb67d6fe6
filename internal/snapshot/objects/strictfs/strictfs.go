// Package strictfs is a filesystem in memory that forgets, in a power cut, all
// that it may forget: what wasn't synced is there, in part or not at all, in
// every combination that a filesystem is permitted to leave.
package strictfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// FS is an objects.FS below a root folder. Its methods may be called
// concurrently.
type FS struct {
	root string
	// Before, where set, is asked before anything changes, with the operation
	// and what it is done to. Its error is the operation's. Calls don't overlap.
	Before func(op, path string) error

	asking sync.Mutex // held while Before runs

	mu    sync.Mutex
	dirs  map[string]*dir // by path
	group int
}

// node is a file or, with dir set, a folder.
type node struct {
	isDir  bool
	data   []byte
	synced int // how many bytes of data a power cut spares; -1: not even the length
}

// dir holds names as they are, as they are on the disk, and what is between.
type dir struct {
	now, disk map[string]*node
	pending   []entry
}

// entry is a change of a folder that isn't durable. Those of one group are a
// rename: the first may become durable without the second, never the other way
// round.
type entry struct {
	name  string
	node  *node // nil removes
	group int
}

// New returns an empty filesystem. All paths are below root.
func New(root string) *FS {
	return &FS{root: root, dirs: map[string]*dir{root: newDir()}}
}

func newDir() *dir { return &dir{now: make(map[string]*node), disk: make(map[string]*node)} }

func (f *FS) ask(op, path string) error {
	if f.Before == nil {
		return nil
	}
	rel, err := filepath.Rel(f.root, path)
	if err != nil {
		return err
	}
	f.asking.Lock()
	defer f.asking.Unlock()
	if err := f.Before(op, rel); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// find returns a path's folder, name and node, if it is there. mu is held.
func (f *FS) find(path string) (d *dir, name string, n *node) {
	d, name = f.dirs[filepath.Dir(path)], filepath.Base(path)
	if d == nil {
		return nil, name, nil
	}
	return d, name, d.now[name]
}

func failed(op, path string, err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }

// change makes a change of a folder that isn't durable yet. mu is held.
func (d *dir) change(name string, n *node, group int) {
	if n == nil {
		delete(d.now, name)
	} else {
		d.now[name] = n
	}
	d.pending = append(d.pending, entry{name: name, node: n, group: group})
}

func (f *FS) nextGroup() int { f.group++; return f.group }

// Create implements objects.FS.
func (f *FS) Create(path string) (objects.File, error) {
	if err := f.ask("create", path); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, name, n := f.find(path)
	switch {
	case d == nil:
		return nil, failed("create", path, fs.ErrNotExist)
	case n != nil:
		return nil, failed("create", path, fs.ErrExist)
	}
	n = &node{synced: -1}
	d.change(name, n, f.nextGroup())
	return &file{fs: f, node: n, path: path}, nil
}

// Open implements objects.FS.
func (f *FS) Open(path string) (objects.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _, n := f.find(path)
	if n == nil {
		return nil, failed("open", path, fs.ErrNotExist)
	}
	return &file{fs: f, node: n, path: path}, nil
}

// Publish implements objects.FS.
func (f *FS) Publish(from, to string) error {
	if err := f.ask("publish", to); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, fname, n := f.find(from)
	td, tname, taken := f.find(to)
	switch {
	case n == nil || td == nil:
		return failed("publish", from, fs.ErrNotExist)
	case taken != nil:
		return failed("publish", to, fs.ErrExist)
	}
	group := f.nextGroup()
	td.change(tname, n, group)
	fd.change(fname, nil, group)
	return nil
}

// Remove implements objects.FS.
func (f *FS) Remove(path string) error {
	if err := f.ask("remove", path); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, name, n := f.find(path)
	if n == nil {
		return failed("remove", path, fs.ErrNotExist)
	}
	d.change(name, nil, f.nextGroup())
	return nil
}

// Mkdir implements objects.FS.
func (f *FS) Mkdir(path string) error {
	if err := f.ask("mkdir", path); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, name, n := f.find(path)
	switch {
	case d == nil:
		return failed("mkdir", path, fs.ErrNotExist)
	case n != nil:
		return failed("mkdir", path, fs.ErrExist)
	}
	d.change(name, &node{isDir: true}, f.nextGroup())
	f.dirs[path] = newDir()
	return nil
}

// SyncDir implements objects.FS.
func (f *FS) SyncDir(path string) error {
	if err := f.ask("syncdir", path); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirs[path]
	if d == nil {
		return failed("syncdir", path, fs.ErrNotExist)
	}
	// A removal by rename must not be durable before the new name is: where a
	// filesystem can't know, it writes both.
	for _, e := range d.pending {
		f.settle(e.group)
	}
	d.disk, d.pending = maps.Clone(d.now), nil
	return nil
}

// settle makes the new name of a rename durable.
func (f *FS) settle(group int) {
	for _, d := range f.dirs {
		d.pending = slices.DeleteFunc(d.pending, func(e entry) bool {
			if e.group != group || e.node == nil {
				return false
			}
			d.disk[e.name] = e.node
			return true
		})
	}
}

// ReadDir implements objects.FS.
func (f *FS) ReadDir(path string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.dirs[path]
	if d == nil {
		return nil, failed("readdir", path, fs.ErrNotExist)
	}
	var list []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(d.now)) {
		list = append(list, fs.FileInfoToDirEntry(info{name, d.now[name]}))
	}
	return list, nil
}

// Stat implements objects.FS.
func (f *FS) Stat(path string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, name, n := f.find(path)
	if n == nil {
		return nil, failed("stat", path, fs.ErrNotExist)
	}
	return info{name, n}, nil
}

// Flip changes one bit of a file, as a disk that goes bad would.
func (f *FS) Flip(path string, bit int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _, n := f.find(path)
	if n == nil || bit/8 >= int64(len(n.data)) {
		return failed("flip", path, fs.ErrNotExist)
	}
	n.data = slices.Clone(n.data)
	n.data[bit/8] ^= 1 << (bit % 8)
	return nil
}

type file struct {
	fs   *FS
	node *node
	path string
}

func (f *file) Write(p []byte) (int, error) {
	if err := f.fs.ask("write", f.path); err != nil {
		f.fs.mu.Lock()
		defer f.fs.mu.Unlock()
		f.node.data = append(f.node.data, p[:len(p)/2]...) // as a full disk would leave it
		return len(p) / 2, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.data = append(f.node.data, p...)
	return len(p), nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Sync() error {
	if err := f.fs.ask("sync", f.path); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.synced = len(f.node.data)
	return nil
}

func (f *file) Close() error { return nil }

type info struct {
	name string
	node *node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(len(i.node.data)) }
func (i info) IsDir() bool        { return i.node.isDir }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.node.isDir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

// String lists the files, for a test's messages.
func (f *FS) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := ""
	for _, path := range slices.Sorted(maps.Keys(f.dirs)) {
		for _, name := range slices.Sorted(maps.Keys(f.dirs[path].now)) {
			s += fmt.Sprintf("%s %d\n", filepath.Join(path, name), len(f.dirs[path].now[name].data))
		}
	}
	return s
}
