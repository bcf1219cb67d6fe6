package upload

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that a caller must tell apart; test for them with errors.Is.
var (
	// ErrConflict says that another block is being put in the same place.
	ErrConflict = errors.New("another block is being put in the same place")
	// ErrSealed says that no more blocks are taken.
	ErrSealed = errors.New("the upload takes no more blocks")
	// ErrDamaged says that what was put can't be read as it was.
	ErrDamaged = errors.New("the upload is damaged")
)

// BlockSize is the size of every block.
const BlockSize = 512 << 10

// writebackSlots is after how many blocks the kernel is told to begin writing,
// so that the sync at the end finds little left.
const writebackSlots = 16

var zeroSum = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(make([]byte, BlockSize)) })

// Upload is one that is open. Its methods may be called concurrently.
type Upload struct {
	path    string
	data    *os.File
	journal *os.File
	boot    func() (Digest, bool)

	mu       sync.Mutex
	idle     sync.Cond         // signalled when a put ends
	latest   map[int64]uint32  // by block index: the record that names it
	slots    map[uint32]uint32 // by record: its slot
	records  uint32
	next     uint32 // slot
	free     []uint32
	busy     map[int64]*Digest // blocks being put
	marked   bool              // the journal names this boot, and isn't synced past it
	doubtful bool
	sealed   bool
	broken   error
	last     time.Time
	progress int
}

// Create begins an upload at a path, to which endings are added. It is durable
// when it returns. One that is there is begun anew.
func Create(path string, at time.Time) (*Upload, error) {
	if err := Remove(path); err != nil {
		return nil, err
	}
	u, err := open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	_, err = u.journal.WriteAt(header(), 0)
	if err == nil {
		err = u.mark()
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin upload: %w", err), u.release(), Remove(path))
	}
	u.last = at
	return u, nil
}

// Open opens an upload that was begun: fs.ErrNotExist where there is none.
func Open(path string) (*Upload, error) {
	u, err := open(path, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("open upload: %w", err)
	}
	if err := u.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open upload: %w", err), u.release())
	}
	return u, nil
}

func open(path string, flags int) (*Upload, error) {
	journal, err := os.OpenFile(path+".journal", flags, 0o600)
	if err != nil {
		return nil, err
	}
	data, err := os.OpenFile(path+".data", flags, 0o600)
	if err != nil {
		return nil, errors.Join(err, journal.Close())
	}
	u := &Upload{
		path: path, data: data, journal: journal, boot: bootID,
		latest: make(map[int64]uint32), slots: make(map[uint32]uint32), busy: make(map[int64]*Digest),
	}
	u.idle.L = &u.mu
	return u, nil
}

// Remove takes an upload's files away; absent ones are fine.
func Remove(path string) error {
	for _, ending := range []string{".data", ".journal"} {
		if err := os.Remove(path + ending); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove upload: %w", err)
		}
	}
	return nil
}

// load reads the journal. What a dying process left half written at its end was
// never answered, and is cut off.
func (u *Upload) load() error {
	now, known := u.boot()
	var written Digest // in which boot
	unsynced := false
	count, torn, err := scan(u.journal, func(n uint32, r record) {
		switch r.kind {
		case kindPut:
			if old, ok := u.latest[r.index]; ok {
				delete(u.slots, old)
			}
			u.latest[r.index], u.slots[n] = n, r.slot
			if r.slot != noSlot {
				u.next = max(u.next, r.slot+1)
			}
			u.last, u.progress = r.at, max(u.progress, int(r.progress))
		case kindBoot:
			u.doubtful = u.doubtful || unsynced && r.sum != written
			unsynced, written = true, r.sum
		case kindSynced:
			unsynced = false
		}
	})
	if err != nil {
		return err
	}
	u.records = count
	used := make(map[uint32]bool, len(u.slots))
	for _, slot := range u.slots {
		used[slot] = true
	}
	for slot := range u.next {
		if !used[slot] {
			u.free = append(u.free, slot)
		}
	}
	u.doubtful = u.doubtful || (unsynced || torn) && (!known || written != now)
	u.marked = unsynced && known && written == now
	return u.journal.Truncate(offset(count))
}

// Last is when the last block was put; zero before the first.
func (u *Upload) Last() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

// Progress is the largest percentage that came with a block.
func (u *Upload) Progress() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.progress
}

// Count is how many blocks there are.
func (u *Upload) Count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.latest)
}

// Put puts a block of BlockSize bytes, whose digest is sum, in the place of any
// that has the same index. When it returns, the block outlives this process.
func (u *Upload) Put(index int64, data []byte, sum Digest, progress int, at time.Time) error {
	slot, done, err := u.begin(index, &sum)
	if err != nil {
		return err
	}
	defer done()
	if slot != noSlot {
		if err := u.write(slot, data); err != nil {
			u.giveBack(slot)
			return fmt.Errorf("put block %d: %w", index, err)
		}
	}
	r := record{kind: kindPut, progress: byte(min(max(progress, 0), 100)), slot: slot, index: index, at: at, sum: sum}
	if err := u.name(r); err != nil {
		u.giveBack(slot)
		return fmt.Errorf("put block %d: %w", index, err)
	}
	return nil
}

// begin claims an index and a slot for a put.
func (u *Upload) begin(index int64, sum *Digest) (slot uint32, done func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.busy[index] != nil {
		if *u.busy[index] != *sum {
			return 0, nil, ErrConflict
		}
		u.idle.Wait() // for the same block: a repeated request
	}
	if u.broken != nil {
		return 0, nil, u.broken
	}
	if u.sealed {
		return 0, nil, ErrSealed
	}
	if !u.marked {
		if err := u.mark(); err != nil {
			return 0, nil, err
		}
	}
	u.busy[index] = sum
	return u.takeSlot(*sum), func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.busy, index)
		u.idle.Broadcast()
	}, nil
}

// takeSlot finds a slot that nothing needs. mu is held.
func (u *Upload) takeSlot(sum Digest) uint32 {
	if sum == zeroSum() {
		return noSlot
	}
	if n := len(u.free); n > 0 {
		slot := u.free[n-1]
		u.free = u.free[:n-1]
		return slot
	}
	u.next++
	return u.next - 1
}

func (u *Upload) giveBack(slot uint32) {
	if slot == noSlot {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.free = append(u.free, slot)
}

func (u *Upload) write(slot uint32, data []byte) error {
	if _, err := u.data.WriteAt(data, int64(slot)*BlockSize); err != nil {
		return err
	}
	if slot%writebackSlots == writebackSlots-1 {
		first := int64(slot+1-writebackSlots) * BlockSize
		// A hint: Sync says whether it is on the disk.
		_ = unix.SyncFileRange(int(u.data.Fd()), first, writebackSlots*BlockSize, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

// name says in the journal where a block is, and frees the slot of the one that
// it replaces.
func (u *Upload) name(r record) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.append(r); err != nil {
		return err
	}
	n := u.records - 1
	if old, ok := u.latest[r.index]; ok {
		if slot := u.slots[old]; slot != noSlot {
			u.free = append(u.free, slot)
		}
		delete(u.slots, old)
	}
	u.latest[r.index], u.slots[n] = n, r.slot
	u.last, u.progress = r.at, max(u.progress, int(r.progress))
	return nil
}

// append writes a record, whole or not at all. mu is held.
func (u *Upload) append(r record) error {
	at := offset(u.records)
	if _, err := u.journal.WriteAt(r.encode(), at); err != nil {
		return errors.Join(err, u.journal.Truncate(at))
	}
	u.records++
	return nil
}

// mark notes this boot in the journal, durably, before anything is put in it.
func (u *Upload) mark() error {
	id, _ := u.boot()
	if err := u.append(record{kind: kindBoot, sum: id, at: time.Unix(0, 0)}); err != nil {
		return err
	}
	if err := u.journal.Sync(); err != nil {
		return u.breakOff(err)
	}
	u.marked = true
	return nil
}

// breakOff ends an upload of which nothing is known any more: what a failed sync
// was to write may be lost, and a second one would not tell.
func (u *Upload) breakOff(err error) error {
	u.broken = fmt.Errorf("write to the disk: %w", errors.Join(err, ErrDamaged))
	return u.broken
}

// sync makes what was put outlive the machine, and notes so in the journal. mu is
// held, so that nothing is put meanwhile that the note would cover.
func (u *Upload) sync() error {
	if u.broken != nil || !u.marked {
		return u.broken
	}
	for len(u.busy) > 0 {
		u.idle.Wait()
	}
	if err := u.data.Sync(); err != nil {
		return u.breakOff(err)
	}
	if err := u.journal.Sync(); err != nil {
		return u.breakOff(err)
	}
	if err := u.append(record{kind: kindSynced, at: time.Unix(0, 0)}); err != nil {
		return err
	}
	if err := u.journal.Sync(); err != nil {
		return u.breakOff(err)
	}
	u.marked = false
	return nil
}

// Seal takes no more blocks, if check has nothing against those that are there,
// and makes them durable. A sealed one can be sealed again.
func (u *Upload) Seal(check func(*Contents) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.sealed
	u.sealed = true // so that what is under way comes to an end
	for len(u.busy) > 0 {
		u.idle.Wait()
	}
	if u.broken != nil {
		return u.broken
	}
	blocks, err := u.contents()
	if err == nil {
		err = check(blocks)
	}
	if err == nil {
		err = u.sync()
	}
	if err != nil {
		u.sealed = was
	}
	return err
}

// Close syncs what was put and lets go of the files.
func (u *Upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sealed = true
	err := u.sync()
	return errors.Join(err, u.release())
}

// Discard lets go of the files and takes them away. Nothing may be read.
func (u *Upload) Discard() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sealed = true
	for len(u.busy) > 0 {
		u.idle.Wait()
	}
	return errors.Join(u.release(), Remove(u.path))
}

func (u *Upload) release() error { return errors.Join(u.data.Close(), u.journal.Close()) }

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
