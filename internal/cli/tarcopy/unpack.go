package tarcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// tempPattern names the folder beside the place of what comes.
const tempPattern = ".stead-cp-*"

// Incoming is what was received and isn't in its place yet.
type Incoming struct {
	Stats Stats
	temp  string // holds all
	entry string // below temp: the file or folder, or temp itself's "in"
}

// Unpack lays the archive of SendScript down in a new folder below dir. What
// the archive says of names can't lead out of that. Call Place or Discard in
// the end. total gets the size of the file that is coming, as far as it is
// known, progress the bytes so far.
func Unpack(r io.Reader, dir string, progress func(bytes, total int64)) (*Incoming, error) {
	temp, err := os.MkdirTemp(dir, tempPattern)
	if err != nil {
		return nil, err
	}
	in := &Incoming{temp: temp}
	if err := in.unpack(r, progress); err != nil {
		in.Discard()
		return nil, err
	}
	return in, nil
}

func (in *Incoming) unpack(r io.Reader, progress func(bytes, total int64)) error {
	root, err := os.OpenRoot(in.temp)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing is written through it
	u := unpacker{root: root, stats: &in.Stats, progress: progress, folders: map[string]*tar.Header{}}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, archive); err != nil {
			return err
		}
		in.entry = "in"
	}
	if in.entry == "" {
		return errors.New("nothing came")
	}
	return u.finishFolders()
}

type unpacker struct {
	root     *os.Root
	stats    *Stats
	progress func(bytes, total int64)
	folders  map[string]*tar.Header
}

// entry lays one entry down. The archive holds either one file or one folder's
// content below "."; here it is called "in", whatever its name there.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	switch {
	case !filepath.IsLocal(name):
		return fmt.Errorf("the archive names %q, which leads out of the folder", h.Name)
	case h.Typeflag != tar.TypeDir && len(u.folders) == 0:
		name = "in" // a single file
	default:
		name = path.Join("in", name)
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o700); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.folders[name] = h
		return u.root.MkdirAll(name, 0o700)
	case tar.TypeReg:
		return u.file(name, h, r)
	case tar.TypeSymlink:
		u.stats.Files++
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		u.stats.Files++
		return u.root.Link(path.Join("in", path.Clean(h.Linkname)), name)
	}
	u.stats.Skipped = append(u.stats.Skipped, h.Name)
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, r io.Reader) (err error) {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err == nil {
			err = u.root.Chtimes(name, h.ModTime, h.ModTime)
		}
	}()
	progress := func(done int64) {
		if u.progress != nil {
			u.progress(done, h.Size)
		}
	}
	if _, err := io.Copy(f, &counter{r: r, stats: u.stats, progress: progress}); err != nil {
		return err
	}
	u.stats.Files++
	// Never more than rights to read, write and run: a stranger's set-user-ID
	// program has no business here.
	return f.Chmod(fs.FileMode(h.Mode).Perm())
}

// finishFolders gives folders their modes and times, the deepest first: one
// may be closed to its own owner.
func (u *unpacker) finishFolders() error {
	names := slices.Sorted(maps.Keys(u.folders))
	slices.Reverse(names)
	for _, name := range names {
		h := u.folders[name]
		if err := u.root.Chmod(name, fs.FileMode(h.Mode).Perm()); err != nil {
			return err
		}
		if err := u.root.Chtimes(name, h.ModTime, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// Place puts what came where it belongs: it becomes target, or where target is
// a folder as it is, its content goes into that. Each file appears whole or
// not at all.
func (in *Incoming) Place(target string) error {
	defer in.Discard()
	return place(filepath.Join(in.temp, in.entry), target)
}

// Discard removes what came, as far as it isn't placed.
func (in *Incoming) Discard() {
	// A folder may have come without the right to write to it.
	if root, err := os.OpenRoot(in.temp); err == nil {
		_ = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = root.Chmod(path, 0o700)
			}
			return nil
		})
		_ = root.Close() // nothing was written through it
	}
	_ = os.RemoveAll(in.temp)
}

// place renames from to to, and merges folders.
func place(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	there, err := os.Stat(to)
	if err != nil || !there.IsDir() {
		return os.Rename(from, to)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is a folder, and a file came", to)
	}
	if err := os.Chmod(from, 0o700); err != nil { // so that its entries can be moved
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := place(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// NoFolderError says that a folder isn't there.
type NoFolderError struct{ Path string }

func (e *NoFolderError) Error() string { return e.Path + ": there is no such folder" }

// Target is where a source called name goes, for a destination as the user
// wrote it: into it where it is a folder, else to it. several sources need a
// folder. A name that says nothing ("." or "/") means the folder's content.
func Target(dest, name string, several bool) (string, error) {
	if dest == "" {
		dest = "."
	}
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir():
		if base := path.Base(path.Clean("/" + name)); base != "/" && !strings.HasSuffix("/"+name, "/..") && !strings.HasSuffix("/"+name, "/.") {
			return filepath.Join(dest, base), nil
		}
		return dest, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case several || strings.HasSuffix(dest, "/"):
		return "", &NoFolderError{dest}
	}
	if parent, err := os.Stat(filepath.Dir(dest)); err != nil || !parent.IsDir() {
		return "", &NoFolderError{filepath.Dir(dest)}
	}
	return dest, nil
}
