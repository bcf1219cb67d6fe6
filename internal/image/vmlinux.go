package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// A bzImage is a small real-mode loader followed by the kernel proper,
// compressed. The offsets are those of the x86 boot protocol (2.08 and later).
const (
	bzSetupSects    = 0x1f1
	bzMagic         = 0x202
	bzVersion       = 0x206
	bzPayloadOffset = 0x248
	bzPayloadLength = 0x24c
	bzHeaderEnd     = 0x250
	bzMinVersion    = 0x208
)

// maxVmlinux bounds the unpacked kernel, against a damaged or hostile file.
const maxVmlinux = 256 << 20

// errNotPVH means that a kernel has no entry point for direct boot.
var errNotPVH = errors.New("kernel has no PVH entry point")

// extractVmlinux unpacks the ELF kernel of a bzImage. QEMU enters it directly
// by its PVH note, which saves the guest the unpacking: some 0.4 s where
// machines are emulated.
func extractVmlinux(ctx context.Context, bzImage []byte) ([]byte, error) {
	payload, err := bzPayload(bzImage)
	if err != nil {
		return nil, err
	}
	vmlinux, err := unpackKernel(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	if err := checkPVH(vmlinux); err != nil {
		return nil, err
	}
	return vmlinux, nil
}

// bzPayload returns the compressed kernel in a bzImage.
func bzPayload(image []byte) ([]byte, error) {
	if len(image) < bzHeaderEnd || string(image[bzMagic:bzMagic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	le := binary.LittleEndian
	if v := le.Uint16(image[bzVersion:]); v < bzMinVersion {
		return nil, fmt.Errorf("boot protocol %#x is too old", v)
	}
	sects := int64(image[bzSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + int64(le.Uint32(image[bzPayloadOffset:]))
	end := start + int64(le.Uint32(image[bzPayloadLength:]))
	if start > int64(len(image)) || end > int64(len(image)) || end-start < 8 {
		return nil, errors.New("payload lies outside the bzImage")
	}
	return image[start:end], nil
}

// unpackKernel decompresses a payload by its magic number. All but gzip have
// the unpacked size appended, which isn't part of the compressed stream.
func unpackKernel(ctx context.Context, payload []byte) ([]byte, error) {
	stream := payload[:len(payload)-4]
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		zr.Multistream(false)
		return readBounded(zr)
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(bytes.NewReader(stream))
		if err != nil {
			return nil, err
		}
		defer zr.Close()
		return readBounded(zr)
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return readBounded(lz4.NewReader(bytes.NewReader(stream)))
	case isXZ(payload):
		return unxz(ctx, stream)
	default:
		return nil, fmt.Errorf("unknown compression % x", payload[:6])
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxVmlinux+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxVmlinux {
		return nil, fmt.Errorf("unpacked kernel is larger than %d bytes", maxVmlinux)
	}
	return data, nil
}

// isXZ tells whether data begins like an xz file.
func isXZ(data []byte) bool { return bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")) }

// unxz decompresses by the xz program: kernels use its x86 filter, which no
// kept Go library has.
func unxz(ctx context.Context, data []byte) ([]byte, error) {
	path, err := tool{name: "xz"}.find()
	if err != nil {
		return nil, &MissingError{Missing: []Missing{{Name: "xz", Package: "xz-utils", Reason: "unpacking the kernel"}}}
	}
	cmd := exec.CommandContext(ctx, path, "-dc", "--single-stream")
	cmd.Stdin = bytes.NewReader(data)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("xz: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// checkPVH tells whether QEMU can enter an ELF kernel directly.
func checkPVH(vmlinux []byte) error {
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return fmt.Errorf("read unpacked kernel: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), 1<<20))
		if err != nil {
			return fmt.Errorf("read notes of unpacked kernel: %w", err)
		}
		if hasPVHNote(notes) {
			return nil
		}
	}
	return errNotPVH
}

// The owner and type of the note with the PVH entry point.
const (
	pvhNoteOwner = "Xen"
	pvhNoteType  = 18
)

// hasPVHNote looks for the PVH entry point in an ELF note segment.
func hasPVHNote(notes []byte) bool {
	le := binary.LittleEndian
	for len(notes) >= 12 {
		nameSize, descSize := int64(le.Uint32(notes)), int64(le.Uint32(notes[4:]))
		next := 12 + align4(nameSize) + align4(descSize)
		if 12+nameSize > int64(len(notes)) {
			return false
		}
		name := string(bytes.TrimRight(notes[12:12+nameSize], "\x00"))
		if name == pvhNoteOwner && le.Uint32(notes[8:]) == pvhNoteType {
			return true
		}
		if next > int64(len(notes)) {
			return false
		}
		notes = notes[next:]
	}
	return false
}

func align4(n int64) int64 { return (n + 3) &^ 3 }

// kernelImage returns what QEMU is given as the kernel: the unpacked one
// where it can be entered directly, else the file as it is.
func (b *builder) kernelImage(ctx context.Context, k kernel) ([]byte, error) {
	image, err := os.ReadFile(k.image)
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	vmlinux, err := extractVmlinux(ctx, image)
	if err != nil {
		b.log.InfoContext(ctx, "boot the compressed kernel", "kernel", k.version, "reason", err)
		return image, nil
	}
	return vmlinux, nil
}
