package image

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bootable is a disk of 3 MiB that a BIOS would boot from, with data at its end.
func bootable() []byte {
	disk := make([]byte, 3*mib)
	disk[0], disk[510], disk[511] = 0xfa, 0x55, 0xaa
	copy(disk[len(disk)-100:], "the end")
	return disk
}

// importing imports from memory into a folder of the test's own.
func importFrom(t *testing.T, opts ImportOptions) (*Imported, error) {
	t.Helper()
	if missing := MissingForImport(); len(missing) > 0 {
		lacking(t, "%v", &MissingError{Missing: missing})
	}
	opts.Dir = t.TempDir()
	made, err := Import(t.Context(), opts)
	entries, derr := os.ReadDir(opts.Dir)
	if derr != nil {
		t.Fatal(derr)
	}
	if want := map[bool]int{true: 1}[err == nil]; len(entries) != want {
		t.Errorf("the folder holds %v after %v", entries, err)
	}
	return made, err
}

// converted returns a disk in a format, by qemu-img, and packed by a program.
func converted(t *testing.T, disk []byte, format, pack string) []byte {
	t.Helper()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	if err := os.WriteFile(from, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "qemu-img", "convert", "-f", "raw", "-O", format, from, to)
	data, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if pack == "" {
		return data
	}
	cmd := exec.CommandContext(t.Context(), pack, "-c")
	cmd.Stdin = bytes.NewReader(data)
	if data, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestImportFormats(t *testing.T) {
	for _, c := range []struct{ format, pack string }{
		{"raw", ""}, {"raw", "gzip"}, {"raw", "xz"}, {"qcow2", ""}, {"qcow2", "gzip"}, {"vmdk", ""}, {"vpc", ""}, {"vhdx", ""}, {"vdi", ""},
	} {
		t.Run(c.format+" "+c.pack, func(t *testing.T) {
			t.Parallel()
			data := converted(t, bootable(), c.format, c.pack)
			sum := sha512.Sum512(data)
			made, err := importFrom(t, ImportOptions{Source: bytes.NewReader(data), Checksum: "sha512:" + hex.EncodeToString(sum[:])})
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(made.Disk)
			if err != nil {
				t.Fatal(err)
			}
			if made.Format != c.format || made.BootMode != "legacy-bios" || made.Size != int64(len(got)) || made.Size%mib != 0 {
				t.Errorf("%+v, and the disk has %d bytes", made, len(got))
			}
			if want := bootable(); !bytes.HasPrefix(got, want) || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
				t.Error("the disk differs from what was packed")
			}
		})
	}
}

// cutOff is a source that breaks.
type cutOff struct{ io.Reader }

func (c cutOff) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestImportRefuses(t *testing.T) {
	qcow2 := converted(t, bootable(), "qcow2", "")
	with := func(change func(data []byte)) io.Reader {
		data := bytes.Clone(qcow2)
		change(data)
		return bytes.NewReader(data)
	}
	blank := make([]byte, 2*mib)
	for name, c := range map[string]struct {
		source   io.Reader
		checksum string
		want     string
	}{
		"a wrong sum":     {bytes.NewReader(bootable()), "sha256:" + strings.Repeat("0", 64), ErrChecksum.Error()},
		"no sum":          {bytes.NewReader(bootable()), "sha1:00", "no checksum"},
		"cut off":         {cutOff{bytes.NewReader(bootable()[:1<<20])}, "", "unexpected EOF"},
		"packed, cut off": {bytes.NewReader(converted(t, bootable(), "raw", "xz")[:200]), "", "unpack"},
		"gzip, cut off":   {bytes.NewReader(converted(t, bootable(), "raw", "gzip")[:200]), "", "unpack"},
		"nothing":         {bytes.NewReader(nil), "", "empty"},
		"a page":          {strings.NewReader("<html>" + strings.Repeat("x", 4096)), "", "no boot sector"},
		"blank":           {bytes.NewReader(blank), "", "no boot sector"},
		"backing file":    {with(func(d []byte) { binary.BigEndian.PutUint64(d[8:], 512) }), "", "backing file"},
		"data file":       {with(func(d []byte) { d[79] |= 4 }), "", "another file"},
		"encrypted":       {with(func(d []byte) { d[35] = 1 }), "", "encrypted"},
		"enormous":        {with(func(d []byte) { binary.BigEndian.PutUint64(d[24:], 1<<62) }), "", "disk"},
		"vmdk of others":  {strings.NewReader("# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n"), "", "several files"},
		"vmdk, hidden":    {io.MultiReader(strings.NewReader("KDMV"), bytes.NewReader(blank)), "", "describes others"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := importFrom(t, ImportOptions{Source: c.source, Checksum: c.checksum})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A file of a huge, empty disk takes no room.
func TestImportHugeStaysSmall(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, bootable(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	command(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", huge, image)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	made, err := importFrom(t, ImportOptions{Source: f})
	if err != nil {
		t.Fatal(err)
	}
	if out := strings.Fields(command(t, "du", "-k", made.Disk)); made.Size != 1<<40 || len(out[0]) > 5 {
		t.Errorf("%+v takes %s KiB", made, out[0])
	}
}

func TestBootModeOf(t *testing.T) {
	disk := func(bios, mbr, gpt bool) []byte {
		d := make([]byte, mib)
		d[510], d[511] = 0x55, 0xaa
		if bios {
			d[0] = 0xfa
		}
		if mbr {
			d[446+16+4] = 0xef
		}
		if gpt {
			copy(d[512:], "EFI PART")
			copy(d[1024+128*14:], []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b})
		}
		return d
	}
	for want, d := range map[string][]byte{
		"legacy-bios": disk(true, false, false), "uefi": disk(false, true, false), "uefi-preferred": disk(true, false, true), "": disk(false, false, false),
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := bootModeOf(path); got != want || (err == nil) != (want != "") {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestMirrorsOf(t *testing.T) {
	for name, c := range map[string]struct{ targets, main, security string }{
		"none":           {"", "", ""},
		"somebody's own": {"http://mirror.example/debian/ bookworm main\nhttp://mirror.example/debian bookworm-updates main\nhttps://mirror.example/debian-security/ bookworm-security main\n", "http://mirror.example/debian", "https://mirror.example/debian-security"},
		"others":         {"https://packages.example/apt cloud-sdk main\nfile:/srv/debian bookworm main\nhttp://archive.example/ubuntu noble main\n", "", ""},
	} {
		if main, security := mirrorsOf(c.targets); main != c.main || security != c.security {
			t.Errorf("%s: %s, %s", name, main, security)
		}
	}
}
