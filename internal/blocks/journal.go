package blocks

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// journal notes which blocks of a transfer are done, in a file of its own: a
// line of JSON that says what the transfer is, then a record of 40 bytes for
// each block: index, SHA-256, CRC-32C of both. A record that is torn ends it.
//
// A lost record costs a block that is moved again, so none is synced. The file
// is locked: two runs of one transfer would spoil each other's.
type journal struct {
	mu   sync.Mutex
	path string // "" keeps nothing
	file *os.File
	lock *os.File
	head journalHead
	done *digests
}

type journalHead struct {
	Version int `json:"version"`
	// About is what the transfer is from and to. Notes about another are void.
	About string `json:"about"`
	// Token finds the snapshot that was begun, Snapshot is its ID once known.
	Token    string `json:"token,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
	// Root is the token that the caller gave, from which Token follows.
	Root string `json:"root,omitempty"`
}

const (
	journalVersion = 1
	recordSize     = 4 + sha256.Size + 4
	lockSuffix     = ".lock"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal opens the notes at a path, and reads those of an earlier try. An
// empty path keeps nothing.
func openJournal(path string) (*journal, error) {
	j := &journal{path: path, done: newDigests()}
	if path == "" {
		return j, nil
	}
	if err := j.acquire(); err != nil {
		return nil, err
	}
	if err := j.load(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// notes opens those of a transfer, or, for a plan, only reads them.
func (o Options) notes(path string) (*journal, error) {
	if !o.Plan || path == "" {
		return openJournal(path)
	}
	j := &journal{path: path, done: newDigests()}
	err := j.load()
	j.path = ""
	return j, err
}

// acquire takes the lock, which is a file beside: the notes themselves are
// replaced and removed.
func (j *journal) acquire() error {
	for {
		f, err := os.OpenFile(j.path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return &Error{Op: "lock", Resource: j.path, Reason: "another command is at it", Remedy: "wait until it has ended", Err: ErrState}
			}
			return fmt.Errorf("lock %s: %w", j.path, err)
		}
		// Whoever had it may have removed it meanwhile.
		mine, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(j.path + lockSuffix); err == nil && os.SameFile(mine, there) {
				j.lock = f
				return nil
			}
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// load reads what there is. Notes that can't be understood are none.
func (j *journal) load() error {
	text, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	line, rest, ok := bytes.Cut(text, []byte("\n"))
	var head journalHead
	if !ok || !understood(line, &head) {
		return nil
	}
	j.head = head
	for len(rest) >= recordSize {
		record := rest[:recordSize]
		index := int32(binary.BigEndian.Uint32(record))
		if index < 0 || crc32.Checksum(record[:recordSize-4], castagnoli) != binary.BigEndian.Uint32(record[recordSize-4:]) {
			break
		}
		j.done.set(index, [sha256.Size]byte(record[4:]))
		rest = rest[recordSize:]
	}
	return nil
}

func understood(line []byte, head *journalHead) bool {
	return json.Unmarshal(line, head) == nil && head.Version == journalVersion
}

// begin makes the notes those of the transfer that head names. Whoever has
// loaded others decides what of them goes on: see keep.
func (j *journal) begin(head journalHead, keep bool) error {
	head.Version = journalVersion
	j.head = head
	if !keep {
		j.done = newDigests()
	}
	if j.path == "" {
		return nil
	}
	if j.file != nil {
		_ = j.file.Close() // it is replaced
		j.file = nil
	}
	f, err := os.CreateTemp(filepath.Dir(j.path), "."+filepath.Base(j.path)+"-")
	if err != nil {
		return err
	}
	err = j.write(f)
	if err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return err
	}
	j.file = f
	return syncDir(filepath.Dir(j.path))
}

// write writes the head and all records anew.
func (j *journal) write(f *os.File) error {
	line, err := json.Marshal(j.head)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	_, _ = w.Write(append(line, '\n')) // a bufio.Writer keeps its first error for Flush
	for _, index := range j.done.indices() {
		sum, _ := j.done.get(index)
		_, _ = w.Write(record(index, sum))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

func record(index int32, sum [sha256.Size]byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, recordSize), uint32(index))
	b = append(b, sum[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// note notes a block that is done.
func (j *journal) note(index int32, sum [sha256.Size]byte) error {
	j.done.set(index, sum)
	if j.file == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.file.Write(record(index, sum))
	if err != nil {
		return fmt.Errorf("note what is done: %w", err)
	}
	return nil
}

// close ends the notes, which stay.
func (j *journal) close() {
	if j.file != nil {
		_ = j.file.Close() // nothing in it must last
		j.file = nil
	}
	if j.lock != nil {
		_ = os.Remove(j.lock.Name())
		_ = j.lock.Close()
		j.lock = nil
	}
}

// remove deletes the notes: the transfer is over.
func (j *journal) remove() error {
	if j.path == "" {
		return nil
	}
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes a folder's names last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
