package pack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/snapshot/objects"
)

// The kinds of objects.
const (
	kindConfig  = "config"    // one, named below
	kindPacks   = "packs"     // by their names
	kindIndex   = "index"     // what is in packs, to save reading their footers
	kindRoots   = "snapshots" // the roots of snapshots, by ID
	kindRot     = "rot"       // a note for each blob found rotten: pack and offset
	kindTrash   = "trash"     // swept packs, by date and name
	kindDeleted = "deleted"   // deleted roots, by date and ID

	configName = kindConfig + "/store"
)

const (
	storeVersion = 2
	// packSize is how many bytes a pack has at least, but for the last of an
	// upload.
	packSize = 16 << 20
	// writers is how many packs are written at a time.
	writers = 2
	// trashDays is how long what was swept can be had back.
	trashDays = 7
)

// config is the first object of a store.
type config struct {
	Version int `json:"version"`
	// What a later version may add, and this one must not overlook.
	Encryption json.RawMessage `json:"encryption,omitempty"`
}

// Options change how a Store works; zero values are the defaults.
type Options struct {
	PackSize int              // bytes
	Trash    time.Duration    // how long what was swept is kept; negative: not at all
	Now      func() time.Time // what dates the trash
}

// Store keeps blobs and roots in a store of objects. Its methods may be called
// concurrently. One process at a time has a store open.
type Store struct {
	objs  objects.Store
	log   *slog.Logger
	codec *codec
	opts  Options

	framed sync.Pool // of *[]byte: blobs as they are stored
	packs  sync.Pool // of *[]byte: packs being made
	packer packer

	sweeping sync.Mutex // held by whoever takes packs away or brings them back

	mu      sync.RWMutex
	index   *index // nil until it is needed
	rotten  map[id]*CorruptError
	pending map[id]*ticket // put, not yet durable
	uploads map[*Upload]struct{}
	sweeps  map[*Sweep]struct{}
	trash   map[id]string // what is in the trash; nil until it is needed
}

// Open opens the store in objs, and makes it where there is none; the caller
// closes objs after it. ErrVersion says that another version made it.
func Open(ctx context.Context, objs objects.Store, log *slog.Logger, opts Options) (*Store, error) {
	if opts.PackSize == 0 {
		opts.PackSize = packSize
	}
	if opts.Trash == 0 {
		opts.Trash = trashDays * 24 * time.Hour
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Store{
		objs: objs, log: log, opts: opts,
		framed:  sync.Pool{New: func() any { b := make([]byte, 0, MaxBlob+blobHeader); return &b }},
		packs:   sync.Pool{New: func() any { b := make([]byte, 0, opts.PackSize+2*(MaxBlob+blobHeader)); return &b }},
		packer:  packer{slots: make(chan struct{}, writers)},
		rotten:  make(map[id]*CorruptError),
		pending: make(map[id]*ticket),
		uploads: make(map[*Upload]struct{}),
		sweeps:  make(map[*Sweep]struct{}),
	}
	if err := s.configure(ctx); err != nil {
		return nil, fmt.Errorf("open snapshot store: %w", err)
	}
	var err error
	s.codec, err = newCodec()
	return s, err
}

// configure reads the store's first object, or creates it.
func (s *Store) configure(ctx context.Context) error {
	raw, err := s.readAll(ctx, configName)
	if errors.Is(err, objects.ErrNotFound) {
		if raw, err = json.Marshal(config{Version: storeVersion}); err != nil {
			return err
		}
		if err := s.objs.Create(ctx, configName, raw); !errors.Is(err, objects.ErrExists) {
			return err
		}
		raw, err = s.readAll(ctx, configName) // an attempt whose answer was lost
	}
	if err != nil {
		return err
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return &CorruptError{Object: configName, Reason: err.Error()}
	}
	if c.Version != storeVersion || c.Encryption != nil {
		return fmt.Errorf("%w: store version %d", ErrVersion, c.Version)
	}
	return nil
}

// Close waits for packs that are being written and lets go of what the store
// holds. Uploads and sweeps are closed before.
func (s *Store) Close() {
	for range writers {
		s.packer.slots <- struct{}{}
	}
	for range writers {
		<-s.packer.slots
	}
	s.codec.close()
}

// id is what a blob is called in packs.
func (s *Store) id(sum Digest) id { return id(sum) }

// readAll reads a whole object.
func (s *Store) readAll(ctx context.Context, name string) ([]byte, error) {
	info, err := s.objs.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, info.Size)
	if n, err := s.objs.ReadAt(ctx, name, buf, 0); n < len(buf) {
		return nil, shortRead(err)
	}
	return buf, nil
}

// shortRead is the error of a read that ended too early.
func shortRead(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Info describes a blob in the store.
type Info struct {
	Stored int64 // bytes that it takes
}

// Stat describes a blob without reading it. A rotten one is an ErrCorrupt.
func (s *Store) Stat(ctx context.Context, sum Digest) (Info, error) {
	p, _, err := s.find(ctx, s.id(sum))
	for errors.Is(err, errAgain) {
		p, _, err = s.find(ctx, s.id(sum))
	}
	return Info{Stored: int64(blobHeader) + int64(p.stored)}, err
}

// Missing returns the place in sums of the first blob that can't be built upon,
// and why: ErrNotFound, or ErrCorrupt for one known to be rotten. No error says
// that all are there. It doesn't look into the trash, and reads nothing.
func (s *Store) Missing(ctx context.Context, sums []Digest) (int, error) {
	for {
		if err := s.load(ctx); err != nil {
			return 0, err
		}
		s.mu.RLock()
		if s.index != nil {
			break
		}
		s.mu.RUnlock() // it was let go of since
	}
	defer s.mu.RUnlock()
	for n, sum := range sums {
		i := s.id(sum)
		if _, ok := s.index.places[i]; ok {
			continue
		}
		if bad := s.rotten[i]; bad != nil {
			return n, bad
		}
		return n, ErrNotFound
	}
	return len(sums), nil
}

// find returns where a blob is. One that is known to be rotten is an ErrCorrupt.
func (s *Store) find(ctx context.Context, i id) (place, string, error) {
	if err := s.load(ctx); err != nil {
		return place{}, "", err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.index == nil { // let go of since
		return place{}, "", errAgain
	}
	if p, ok := s.index.places[i]; ok {
		return p, s.index.packs[p.pack].name, nil
	}
	if bad := s.rotten[i]; bad != nil {
		return place{}, "", bad
	}
	return place{}, "", ErrNotFound
}

// errAgain has a search repeated.
var errAgain = errors.New("the index was let go of")

// Get returns a blob's contents, verified, in buf where its capacity is enough.
// Contents that aren't what was put are an ErrCorrupt, and from then on the next
// Put of the blob writes it anew.
func (s *Store) Get(ctx context.Context, sum Digest, buf []byte) ([]byte, error) {
	i := s.id(sum)
	for tries := 0; ; tries++ {
		p, name, err := s.find(ctx, i)
		if errors.Is(err, errAgain) {
			continue
		}
		if errors.Is(err, ErrNotFound) {
			if found, ferr := s.untrash(ctx, i); ferr != nil {
				return nil, ferr
			} else if found && tries == 0 {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		data, err := s.read(ctx, name, p, sum, buf)
		switch {
		case errors.Is(err, objects.ErrNotFound) && tries < 3:
			continue // a sweep has put it elsewhere since
		case errors.Is(err, objects.ErrNotFound):
			err = &CorruptError{Object: kindPacks + "/" + name, Digest: sum, Reason: "the pack is missing"}
		}
		var bad *CorruptError
		if errors.As(err, &bad) {
			s.noteRot(ctx, i, p, name, bad)
		}
		return data, err
	}
}

// read reads and verifies a blob at a place.
func (s *Store) read(ctx context.Context, pack string, p place, sum Digest, buf []byte) ([]byte, error) {
	mem := s.framed.Get().(*[]byte)
	defer s.framed.Put(mem)
	framed, err := s.readFramed(ctx, pack, p, mem)
	if err != nil {
		return nil, err
	}
	return s.decode(pack, framed, p.off, sum, buf)
}

// readFramed reads a blob as it is stored, into mem.
func (s *Store) readFramed(ctx context.Context, pack string, p place, mem *[]byte) ([]byte, error) {
	size := blobHeader + int(p.stored)
	if cap(*mem) < size {
		*mem = make([]byte, 0, size)
	}
	framed := (*mem)[:size]
	n, err := s.objs.ReadAt(ctx, kindPacks+"/"+pack, framed, int64(p.off))
	switch {
	case n == size:
		return framed, nil
	case err == nil || errors.Is(err, io.EOF):
		return nil, &CorruptError{Object: kindPacks + "/" + pack, Reason: "it is cut short"}
	case errors.Is(err, objects.ErrDamaged):
		return nil, &CorruptError{Object: kindPacks + "/" + pack, Reason: err.Error()}
	}
	return nil, err
}

// decode verifies and unpacks what should be the blob of a digest.
func (s *Store) decode(pack string, framed []byte, off uint32, sum Digest, buf []byte) ([]byte, error) {
	bad := func(wrong string) error {
		return &CorruptError{Object: kindPacks + "/" + pack, Digest: sum, Reason: wrong}
	}
	e := parseBlobHeader(framed)
	e.off = off
	if wrong := checkBlob(framed, e); wrong != "" {
		return nil, bad(wrong)
	}
	if e.id != s.id(sum) {
		return nil, bad("another block is in its place")
	}
	data, wrong := s.codec.unpack(framed, e, buf)
	if wrong != "" {
		return nil, bad(wrong)
	}
	if Sum(data) != sum {
		return nil, bad("its contents don't match its digest")
	}
	return data, nil
}

// noteRot remembers, also beyond this process, that a blob is rotten where it
// is, so that nothing is built on it any more.
func (s *Store) noteRot(ctx context.Context, i id, p place, pack string, bad *CorruptError) {
	s.mu.Lock()
	known := s.index == nil || s.index.places[i] != p
	if !known {
		delete(s.index.places, i)
		s.rotten[i] = bad
	}
	s.mu.Unlock()
	if known {
		return // told before, or healed since
	}
	s.log.Error("snapshot data is corrupt", "block", bad.Digest, "object", bad.Object, "reason", bad.Reason)
	if err := s.objs.Create(ctx, rotName(pack, p.off), nil); err != nil && !errors.Is(err, objects.ErrExists) {
		s.log.Warn("noting it failed; the next check finds it again", "error", err)
	}
}

func rotName(pack string, off uint32) string { return fmt.Sprintf("%s/%s-%d", kindRot, pack, off) }

// parseRotName takes the name of a note of rot apart.
func parseRotName(name string) (pack string, off uint32, ok bool) {
	cut := strings.LastIndexByte(name, '-')
	if cut < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(name[cut+1:], 10, 32)
	return strings.TrimPrefix(name[:cut], kindRot+"/"), uint32(n), err == nil
}
