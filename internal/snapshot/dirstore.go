package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The names in a directory store:
//
//	format            the layout's version
//	lock              held by the process that has the store open
//	blocks/ab/abcd…   a block under its digest
//	manifests/snap-…  a manifest under its snapshot's ID
//	tmp/…             uploads; emptied when the store is opened
const (
	formatName    = "format"
	formatText    = "stead snapshot store 1\n"
	lockName      = "lock"
	blocksName    = "blocks"
	manifestsName = "manifests"
	tmpName       = "tmp"
)

// validName keeps a manifest's name from leaving its folder.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// DirStore is a Store in a folder, a file a block.
type DirStore struct {
	path  string
	log   *slog.Logger
	disk  disk
	codec *codec
	lock  *os.File

	batchSize int // blocks that an upload makes durable together

	// mu is held while a sweep decides on and deletes a block, and while an
	// upload declares that it needs one: one of the two comes first.
	mu      sync.Mutex
	uploads map[*dirUpload]struct{}
	sweeps  map[*dirSweep]struct{}
}

// OpenDir opens the store in the folder at path, and makes it, for its owner
// alone, where there is none. ErrLocked says that another process has it open,
// ErrVersion that a newer program made it.
func OpenDir(path string, log *slog.Logger) (*DirStore, error) {
	return openDir(path, log, disk{})
}

func openDir(path string, log *slog.Logger, d disk) (_ *DirStore, err error) {
	s := &DirStore{
		path: path, log: log, disk: d, batchSize: batchSize,
		uploads: make(map[*dirUpload]struct{}),
		sweeps:  make(map[*dirSweep]struct{}),
	}
	defer func() {
		if err != nil {
			_ = s.Close()
			err = fmt.Errorf("open snapshot store %s: %w", path, err)
		}
	}()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, full(err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, full(err)
	}
	s.codec, err = newCodec()
	return s, err
}

// takeLock goes with the process, however that ends.
func (s *DirStore) takeLock() error {
	f, err := os.OpenFile(filepath.Join(s.path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return fmt.Errorf("lock: %w", err)
	}
	s.lock = f
	return nil
}

// prepare makes the folders and the format file, which comes last: with it the
// store is whole.
func (s *DirStore) prepare() error {
	tmp := filepath.Join(s.path, tmpName)
	if err := s.disk.removeAll(tmp); err != nil {
		return err
	}
	if err := s.disk.mkdir(tmp); err != nil {
		return err
	}
	format := filepath.Join(s.path, formatName)
	switch text, err := os.ReadFile(format); {
	case err == nil && string(text) != formatText:
		return fmt.Errorf("%w: format %q", ErrVersion, strings.TrimSpace(string(text)))
	case err == nil:
		// The last owner may have died between a rename and its sync.
		return s.disk.syncDir(filepath.Join(s.path, manifestsName))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	for _, name := range []string{blocksName, manifestsName} {
		if err := s.disk.mkdir(filepath.Join(s.path, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, folder := range []string{s.path, filepath.Dir(s.path)} {
		if err := s.disk.syncDir(folder); err != nil {
			return err
		}
	}
	return s.disk.writeFile(tmp, format, []byte(formatText))
}

// Close implements Store.
func (s *DirStore) Close() error {
	if s.codec != nil {
		s.codec.close()
	}
	if s.lock == nil {
		return nil
	}
	// Closing alone would wait for a child between fork and exec.
	err := errors.Join(unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close())
	s.lock = nil
	return err
}

// blockPath is where a block is, or would be; ok says whether the ID is one of
// this store's.
func (s *DirStore) blockPath(id BlockID) (path string, ok bool) {
	var d Digest
	if len(id) != 2*len(d) || strings.Trim(string(id), "0123456789abcdef") != "" {
		return "", false
	}
	return filepath.Join(s.shard(id), string(id)), true
}

func (s *DirStore) shard(id BlockID) string {
	return filepath.Join(s.path, blocksName, string(id[:2]))
}

// GetBlock implements Store.
func (s *DirStore) GetBlock(ctx context.Context, id BlockID, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, ok := s.blockPath(id)
	if !ok {
		return nil, fmt.Errorf("get block %s: %w", id, ErrNotFound)
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("get block %s: %w", id, absent(err))
	}
	data, err := s.codec.unpack(stored, buf)
	if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) {
		corrupt.Block = id
	}
	return data, err
}

// StatBlock implements Store.
func (s *DirStore) StatBlock(ctx context.Context, id BlockID) (BlockInfo, error) {
	if err := ctx.Err(); err != nil {
		return BlockInfo{}, err
	}
	path, ok := s.blockPath(id)
	if !ok {
		return BlockInfo{}, fmt.Errorf("stat block %s: %w", id, ErrNotFound)
	}
	info, err := os.Stat(path)
	if err != nil {
		return BlockInfo{}, fmt.Errorf("stat block %s: %w", id, absent(err))
	}
	return BlockInfo{ID: id, Stored: info.Size()}, nil
}

// Blocks implements Store.
func (s *DirStore) Blocks(ctx context.Context, fn func(BlockInfo) error) error {
	shards, err := os.ReadDir(filepath.Join(s.path, blocksName))
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	for _, shard := range shards {
		entries, err := os.ReadDir(filepath.Join(s.path, blocksName, shard.Name()))
		if err != nil {
			return fmt.Errorf("list blocks: %w", err)
		}
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			id := BlockID(entry.Name())
			if _, ok := s.blockPath(id); !ok {
				continue // not ours
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("list blocks: %w", err)
			}
			if err := fn(BlockInfo{ID: id, Stored: info.Size()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// manifestPath is where a manifest is, or would be.
func (s *DirStore) manifestPath(name string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("%w: %q", ErrInvalid, name)
	}
	return filepath.Join(s.path, manifestsName, name), nil
}

// GetManifest implements Store.
func (s *DirStore) GetManifest(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := s.manifestPath(name)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, absent(err)
	}
	return raw, nil
}

// Manifests implements Store.
func (s *DirStore) Manifests(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(s.path, manifestsName))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if validName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// DeleteManifest implements Store.
func (s *DirStore) DeleteManifest(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := s.manifestPath(name)
	if err != nil {
		return err
	}
	if err := s.disk.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.disk.syncDir(filepath.Dir(path))
}
