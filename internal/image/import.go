package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// ImportOptions says what disk image is imported, and to where.
type ImportOptions struct {
	// Dir is the output folder; it must exist. The import leaves a disk in it,
	// or nothing.
	Dir string
	// Source is the file: a raw disk, qcow2, vmdk, vhd, vhdx or vdi, each also
	// packed by xz, zstd or gzip.
	Source io.Reader
	// Checksum is that of the file as it comes: sha256: or sha512: and digits in
	// base 16. Empty means that it isn't checked.
	Checksum string
	// Log receives what the import does. Nil discards it.
	Log *slog.Logger
	// Progress, when set, is called as the import goes on. Done and Total are
	// bytes or hundredths; Total is zero where it isn't known.
	Progress func(Progress)
}

// Imported is a disk that was imported.
type Imported struct {
	Disk     string // path of the raw, sparse file
	Size     int64  // of the disk in bytes, a multiple of 1 MiB
	Format   string // what it was: raw, qcow2, vmdk, vpc, vhdx, vdi
	BootMode string // what it can boot by, in EC2's terms
}

// MaxImportSize is the size of the largest disk that is imported: that of the
// largest volume.
const MaxImportSize = 64 << 40

// ErrChecksum says that a file isn't the one that was meant.
var ErrChecksum = errors.New("the checksum differs")

// importName is the name of the disk in the output folder.
const importName = "disk.raw"

// MissingForImport returns what this machine lacks for importing disk images.
func MissingForImport() []Missing {
	var missing []Missing
	for _, t := range []tool{{name: "qemu-img", pkg: "qemu-utils"}, {name: "xz", pkg: "xz-utils"}} {
		if _, err := t.find(); err != nil {
			missing = append(missing, Missing{Name: t.name, Package: t.pkg, Reason: "importing images"})
		}
	}
	return missing
}

// importing is one import under way.
type importing struct {
	opts ImportOptions
	tmp  string
}

// Import reads a disk image to its end and makes a raw disk of it. It verifies
// what it can before: the checksum, that the file is whole and stands alone,
// and that there is something to boot.
func Import(ctx context.Context, opts ImportOptions) (*Imported, error) {
	if missing := MissingForImport(); len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	tmp, err := os.MkdirTemp(opts.Dir, ".import-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	i := &importing{opts: opts, tmp: tmp}
	made, err := i.run(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return made, err
}

func (i *importing) run(ctx context.Context) (*Imported, error) {
	file := filepath.Join(i.tmp, "file")
	if err := i.receive(ctx, file); err != nil {
		return nil, err
	}
	file, err := i.unpack(ctx, file)
	if err != nil {
		return nil, err
	}
	format, err := diskFormat(file)
	if err != nil {
		return nil, err
	}
	disk := file
	if format != formatRaw {
		disk = filepath.Join(i.tmp, "converted")
		if err := i.convert(ctx, file, format, disk); err != nil {
			return nil, err
		}
	}
	made := &Imported{Disk: filepath.Join(i.opts.Dir, importName), Format: format}
	if made.Size, err = roundUp(disk); err != nil {
		return nil, err
	}
	if made.BootMode, err = bootModeOf(disk); err != nil {
		return nil, err
	}
	if err := syncPath(disk); err != nil {
		return nil, err
	}
	return made, os.Rename(disk, made.Disk)
}

func (i *importing) progress(step string, done, total int64) {
	if i.opts.Progress != nil {
		i.opts.Progress(Progress{Step: step, Done: done, Total: total})
	}
}

var checksumGrammar = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128})$`) })

// CheckChecksum tells whether text has the form of a checksum.
func CheckChecksum(text string) error {
	if !checksumGrammar().MatchString(text) {
		return fmt.Errorf("%q is no checksum: want sha256: and 64 digits in base 16, or sha512: and 128", text)
	}
	return nil
}

// receive writes the source to a file and checks its sum.
func (i *importing) receive(ctx context.Context, path string) error {
	var sum hash.Hash
	kind, want, _ := strings.Cut(i.opts.Checksum, ":")
	switch {
	case i.opts.Checksum == "":
		sum = sha256.New()
	case CheckChecksum(i.opts.Checksum) != nil:
		return CheckChecksum(i.opts.Checksum)
	case kind == "sha512":
		sum = sha512.New()
	default:
		sum = sha256.New()
	}
	n, err := i.writeSparse(ctx, path, io.TeeReader(i.opts.Source, sum), "receive")
	if err != nil {
		return fmt.Errorf("receive the file: %w", err)
	}
	got := hex.EncodeToString(sum.Sum(nil))
	i.opts.Log.Info("image received", "bytes", n, "sum", got)
	if n == 0 {
		return errors.New("the file is empty")
	}
	if want != "" && !strings.EqualFold(got, want) {
		return fmt.Errorf("%w: the file has %s:%s, not %s", ErrChecksum, kind, got, want)
	}
	return nil
}

// sayEvery is how often progress is told while bytes go by.
const sayEvery = 200 * time.Millisecond

// writeSparse writes what r gives to a new file, with holes for its zeros, and
// returns its size.
func (i *importing) writeSparse(ctx context.Context, path string, r io.Reader, step string) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	size, err := i.copySparse(ctx, f, r, step)
	if err == nil {
		err = f.Truncate(size)
	}
	return size, errors.Join(err, f.Close())
}

func (i *importing) copySparse(ctx context.Context, f *os.File, r io.Reader, step string) (size int64, err error) {
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	said := time.Now()
	for {
		n, err := fill(r, block)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := f.WriteAt(block[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return size, nil
		case err != nil:
			return size, err
		case ctx.Err() != nil:
			return size, ctx.Err()
		case size > MaxImportSize:
			return size, fmt.Errorf("larger than the largest volume, %d TiB", MaxImportSize>>40)
		}
		if time.Since(said) > sayEvery {
			said = time.Now()
			i.progress(step, size, 0)
		}
	}
}

// fill reads until the buffer is full. Unlike io.ReadFull's, its errors are the
// reader's own: io.ErrUnexpectedEOF says that the source was cut off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// unpack takes the packing off a file, if there is any, and returns what holds
// the disk.
func (i *importing) unpack(ctx context.Context, path string) (string, error) {
	head, err := readHead(path, 8)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, wait, err := unpacker(ctx, head, f)
	if r == nil || err != nil {
		return path, err
	}
	to := filepath.Join(i.tmp, "unpacked")
	_, err = i.writeSparse(ctx, to, r, "unpack")
	if err = errors.Join(err, wait()); err != nil {
		return "", fmt.Errorf("unpack the file: %w", err)
	}
	return to, os.Remove(path) // its room may be needed
}

// unpacker returns what unpacks a file that begins with head, nil when it isn't
// packed. wait tells, after the end, whether the file was whole.
func unpacker(ctx context.Context, head []byte, f *os.File) (r io.Reader, wait func() error, err error) {
	none := func() error { return nil }
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(f)
		return r, none, err
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(f)
		if err != nil {
			return nil, nil, err
		}
		return d, func() error { d.Close(); return nil }, nil
	case isXZ(head):
		path, err := tool{name: "xz"}.find()
		if err != nil {
			return nil, nil, err
		}
		cmd := exec.CommandContext(ctx, path, "-dc")
		var said bytes.Buffer
		cmd.Stdin, cmd.Stderr = f, &said
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, nil, err
		}
		return out, func() error {
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
			}
			return nil
		}, cmd.Start()
	}
	return nil, nil, nil
}

// convert has qemu-img make a raw disk. The format is said, never guessed: what
// a guess finds in a raw disk is up to whoever made the disk.
func (i *importing) convert(ctx context.Context, from, format, to string) error {
	size, err := virtualSize(ctx, from, format)
	if err != nil {
		return err
	}
	if size > MaxImportSize {
		return fmt.Errorf("the disk has %d bytes, more than the largest volume (%d TiB)", size, MaxImportSize>>40)
	}
	path, err := tool{name: "qemu-img"}.find()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "convert", "-p", "-f", format, "-O", "raw", from, to)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Stdout = percentWriter(func(percent int64) { i.progress("convert "+format, percent, 100) })
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("convert the disk from %s: %w: %s", format, err, bytes.TrimSpace(said.Bytes()))
	}
	return os.Remove(from)
}

// percentWriter reads what qemu-img -p prints: "    (12.34/100%)" and a carriage
// return.
type percentWriter func(percent int64)

func (w percentWriter) Write(p []byte) (int, error) {
	text := string(p)
	if at := strings.LastIndexByte(text, '('); at >= 0 {
		whole, _, _ := strings.Cut(text[at+1:], ".")
		if n, err := strconv.ParseInt(whole, 10, 64); err == nil {
			w(n)
		}
	}
	return len(p), nil
}

// roundUp makes a disk whole MiBs long and returns its size.
func roundUp(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	size := (st.Size() + mib - 1) / mib * mib
	if size == st.Size() {
		return size, nil
	}
	return size, os.Truncate(path, size)
}
