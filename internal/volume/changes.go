package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ChangeUnit is what one bit of Changes stands for, in bytes.
const ChangeUnit = 512 << 10

const (
	changedSuffix = ".changed" // what holds now
	carriedSuffix = ".carried" // what held when a machine was started last
)

// ErrNoChanges says that it isn't known what of a volume has changed.
var ErrNoChanges = errors.New("what has changed of the volume is not known")

// Changes says which parts of a volume may differ from a snapshot of it.
type Changes struct {
	// Base is the snapshot's ID.
	Base string
	// Blocks has a bit for each ChangeUnit of the volume, the lowest of the
	// first byte first; it is set for what may differ. So may what it has no
	// bit for.
	Blocks []byte
}

// unchanged is the Changes of a volume of size bytes that is as its snapshot.
func unchanged(base string, size int64) Changes {
	units := (size + ChangeUnit - 1) / ChangeUnit
	return Changes{Base: base, Blocks: make([]byte, (units+7)/8)}
}

// Changes reads what has changed of a volume that no machine runs on. It is
// ErrNoChanges in any doubt: where nothing was saved, where it is damaged, or
// where the file isn't the one, or not as, it was saved for.
func (d *Dir) Changes(id string) (Changes, error) {
	f, err := d.open(id, os.O_RDONLY)
	if err != nil {
		return Changes{}, wrap("read changes of", id, err)
	}
	defer f.Close()
	rec, err := d.changes(id, f)
	return rec.Changes, wrap("read changes of", id, err)
}

func (d *Dir) changes(id string, f *os.File) (changeRecord, error) {
	rec, err := readChanges(d.sidecar(id, changedSuffix))
	if err != nil {
		return changeRecord{}, err
	}
	now, err := identify(f)
	if err != nil {
		return changeRecord{}, err
	}
	if now != rec.file {
		return changeRecord{}, fmt.Errorf("%w: the file was changed since by something else", ErrNoChanges)
	}
	if boot, err := bootID(); err != nil || boot != rec.boot {
		return changeRecord{}, fmt.Errorf("%w: this machine was started since", ErrNoChanges)
	}
	return rec, nil
}

// SaveChanges notes what has changed of a volume that a machine has just let go
// of. All of the volume is on the disk before it is noted, so that no power cut
// takes back what was taken for unchanged. ErrInUse while anybody can write to
// the volume.
func (d *Dir) SaveChanges(ctx context.Context, id string, ch Changes) (err error) {
	defer func() { err = wrap("save changes of", id, err) }()
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := d.Reader(id)
	if err != nil {
		return err
	}
	return errors.Join(d.saveChanges(id, r.f, ch), r.Close())
}

// Keep notes that the volume is as the snapshot base, which was read from this
// Reader. It is an error if the file was changed since Reader opened it.
func (r *Reader) Keep(base string) (err error) {
	defer func() { err = wrap("save changes of", r.id, err) }()
	if now, err := identify(r.f); err != nil || now != r.file {
		return errors.Join(errors.New("the file was changed while it was read"), err)
	}
	return r.dir.saveChanges(r.id, r.f, unchanged(base, r.size))
}

// saveChanges syncs the volume and binds ch to the file as it is now.
func (d *Dir) saveChanges(id string, f *os.File, ch Changes) error {
	before, err := identify(f)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	before.outlast()
	after, err := identify(f)
	if err != nil {
		return err
	}
	if after != before {
		return errors.New("the file is being changed")
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	rec := changeRecord{Changes: ch, file: after, boot: boot}
	_, _ = rand.Read(rec.nonce[:]) // never fails
	return d.writeSidecar(d.sidecar(id, changedSuffix), rec.encode())
}

// CarryChanges takes what has changed of a volume that a machine is about to
// write to. It holds no more after that, but together with what the machine
// writes from now on: what it is kept under is returned, for CarriedChanges. It
// is taken once, durably before the return; ErrNoChanges if there is nothing, or
// in any doubt.
func (d *Dir) CarryChanges(id string) (base, carried string, err error) {
	defer func() { err = wrap("carry changes of", id, err) }()
	f, err := d.open(id, os.O_RDONLY)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	path := d.sidecar(id, changedSuffix)
	rec, err := d.changes(id, f)
	if errors.Is(err, ErrNoChanges) {
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return "", "", errors.Join(err, rerr)
		}
	}
	if err != nil {
		return "", "", err
	}
	if err := os.Rename(path, d.sidecar(id, carriedSuffix)); err != nil {
		return "", "", err
	}
	return rec.Base, rec.carried(), syncDir(d.path)
}

// CarriedChanges reads what CarryChanges took; ErrNoChanges if it isn't there
// whole.
func (d *Dir) CarriedChanges(id, carried string) (Changes, error) {
	if err := check(id, 1); err != nil {
		return Changes{}, wrap("read changes of", id, err)
	}
	rec, err := readChanges(d.sidecar(id, carriedSuffix))
	if err == nil && rec.carried() != carried {
		err = fmt.Errorf("%w: those are of another start", ErrNoChanges)
	}
	if err != nil {
		return Changes{}, wrap("read changes of", id, err)
	}
	return rec.Changes, nil
}

// dropChanges removes what is noted of a volume that is deleted.
func (d *Dir) dropChanges(id string) error {
	var errs []error
	for _, suffix := range []string{changedSuffix, carriedSuffix} {
		if err := os.Remove(d.sidecar(id, suffix)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *Dir) sidecar(id, suffix string) string { return filepath.Join(d.path, id+suffix) }

// writeSidecar puts a file in place whole and durably, or not at all.
func (d *Dir) writeSidecar(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name()) // gone already once in place
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// identity is what a file has that tells whether it is the same and as it was.
type identity struct {
	Size, Inode  uint64
	MTime, CTime int64 // nanoseconds
}

// clockTick is longer than the steps of the clock that files get their times from.
const clockTick = 20 * time.Millisecond

// outlast waits until whoever changes the file gives it other times than these:
// two changes within a tick of the kernel's clock look like one.
func (i identity) outlast() {
	for _, at := range []int64{i.MTime, i.CTime} {
		if wait := time.Until(time.Unix(0, at).Add(clockTick)); wait > 0 && wait <= clockTick {
			time.Sleep(wait)
		}
	}
}

func identify(f *os.File) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, err
	}
	return identity{Size: uint64(st.Size), Inode: st.Ino, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, nil
}

// bootID tells this run of the machine from others.
func bootID() (id [16]byte, err error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, err
	}
	n, err := hex.Decode(id[:], bytes.ReplaceAll(bytes.TrimSpace(raw), []byte("-"), nil))
	if err == nil && n < len(id) {
		err = fmt.Errorf("the machine's boot ID is %q", raw)
	}
	return id, err
}

// changeRecord is Changes as they are kept beside a volume:
//
//	8 bytes   "STDCHG" 0 2
//	8 bytes   nonce
//	16 bytes  the boot ID of the machine that it was written on
//	32 bytes  size, inode, mtime and ctime of the volume's file, 8 each
//	2 bytes   length of the base's ID, and that
//	4 bytes   length of the bits in bytes, and those
//	32 bytes  SHA-256 of all that is before
//
// Numbers are big-endian.
type changeRecord struct {
	Changes
	nonce [8]byte // no two records have the same
	boot  [16]byte
	file  identity
}

const changeMagic = "STDCHG\x00\x02"

// carried names the record.
func (r changeRecord) carried() string { return hex.EncodeToString(r.nonce[:]) }

func (r changeRecord) encode() []byte {
	b := append([]byte(changeMagic), r.nonce[:]...)
	b = append(b, r.boot[:]...)
	b = binary.BigEndian.AppendUint64(b, r.file.Size)
	b = binary.BigEndian.AppendUint64(b, r.file.Inode)
	b = binary.BigEndian.AppendUint64(b, uint64(r.file.MTime))
	b = binary.BigEndian.AppendUint64(b, uint64(r.file.CTime))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(r.Base))), r.Base...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(r.Blocks))), r.Blocks...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func readChanges(path string) (changeRecord, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return changeRecord{}, ErrNoChanges
	}
	if err != nil {
		return changeRecord{}, fmt.Errorf("%w: %w", ErrNoChanges, err)
	}
	rec, ok := decodeChanges(b)
	if !ok {
		return changeRecord{}, fmt.Errorf("%w: %s is damaged", ErrNoChanges, path)
	}
	return rec, nil
}

func decodeChanges(b []byte) (rec changeRecord, ok bool) {
	const head = len(changeMagic) + 8 + 16 + 32
	if len(b) < head+2+4+sha256.Size || !bytes.HasPrefix(b, []byte(changeMagic)) {
		return rec, false
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return rec, false
	}
	copy(rec.nonce[:], body[len(changeMagic):])
	copy(rec.boot[:], body[len(changeMagic)+8:])
	word := func(i int) uint64 { return binary.BigEndian.Uint64(body[len(changeMagic)+8*i:]) }
	rec.file = identity{Size: word(3), Inode: word(4), MTime: int64(word(5)), CTime: int64(word(6))}
	rest := body[head:]
	n := int(binary.BigEndian.Uint16(rest))
	if rest = rest[2:]; n == 0 || len(rest) < n+4 {
		return rec, false
	}
	rec.Base, rest = string(rest[:n]), rest[n:]
	if uint64(binary.BigEndian.Uint32(rest)) != uint64(len(rest)-4) {
		return rec, false
	}
	rec.Blocks = rest[4:]
	return rec, true
}
