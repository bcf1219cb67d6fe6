package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// The formats of disk images, by qemu-img's names.
const (
	formatRaw   = "raw"
	formatQCOW2 = "qcow2"
	formatVMDK  = "vmdk"
	formatVHD   = "vpc"
	formatVHDX  = "vhdx"
	formatVDI   = "vdi"
)

// diskFormat tells a disk image's format by its first bytes, and refuses those
// that draw on other files. It looks by itself: qemu-img would open a file that
// is named in an image before it can be asked whether there is one.
func diskFormat(path string) (string, error) {
	head, err := readHead(path, 4096)
	if err != nil {
		return "", err
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return formatQCOW2, checkQCOW2(head)
	case bytes.HasPrefix(head, []byte("KDMV")):
		return formatVMDK, checkVMDK(head)
	case bytes.HasPrefix(head, []byte("# Disk DescriptorFile")), bytes.HasPrefix(head, []byte("COWD")):
		return "", errors.New("the vmdk is in several files: convert it with qemu-img convert -O qcow2, or export it as one file")
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		return formatVHDX, nil
	case len(head) >= 0x44 && binary.LittleEndian.Uint32(head[0x40:]) == 0xbeda107f:
		return formatVDI, nil
	}
	foot, err := readTail(path, sectorSize)
	if err != nil {
		return "", err
	}
	if bytes.HasPrefix(foot, []byte("conectix")) || bytes.HasPrefix(head, []byte("conectix")) {
		return formatVHD, nil
	}
	return formatRaw, nil
}

// checkQCOW2 refuses a file that is only the changes to another, or whose data
// is in another. https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
func checkQCOW2(head []byte) error {
	if len(head) < 104 {
		return errors.New("the qcow2 file is cut off")
	}
	const externalData = 1 << 2
	version := binary.BigEndian.Uint32(head[4:])
	switch {
	case version != 2 && version != 3:
		return fmt.Errorf("the qcow2 file has version %d; 2 and 3 are known", version)
	case binary.BigEndian.Uint64(head[8:]) != 0:
		return errors.New("the qcow2 file needs another, its backing file: make it whole with qemu-img convert -O qcow2")
	case version == 3 && binary.BigEndian.Uint64(head[72:])&externalData != 0:
		return errors.New("the qcow2 file has its data in another file: make it whole with qemu-img convert -O qcow2")
	case binary.BigEndian.Uint32(head[32:]) != 0:
		return errors.New("the qcow2 file is encrypted: decrypt it with qemu-img convert")
	}
	return nil
}

// checkVMDK refuses a file that says of itself that it is a description of
// others: one with a capacity of 0.
func checkVMDK(head []byte) error {
	if len(head) < sectorSize || binary.LittleEndian.Uint64(head[12:]) == 0 {
		return errors.New("the vmdk file describes others: export it as one file")
	}
	return nil
}

// virtualSize asks qemu-img how large the disk in an image is, and makes sure
// that it needs no other file.
func virtualSize(ctx context.Context, path, format string) (int64, error) {
	out, err := run(ctx, "", "qemu-img", "info", "--output=json", "-f", format, path)
	if err != nil {
		return 0, fmt.Errorf("read the disk image: %w", err)
	}
	var info struct {
		Size     int64  `json:"virtual-size"`
		Backing  string `json:"backing-filename"`
		Specific struct {
			Data struct {
				DataFile string `json:"data-file"`
				Extents  []struct {
					Filename string `json:"filename"`
				} `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return 0, fmt.Errorf("read the disk image: %w", err)
	}
	if info.Backing != "" || info.Specific.Data.DataFile != "" {
		return 0, fmt.Errorf("the disk image needs another file, %q", info.Backing+info.Specific.Data.DataFile)
	}
	for _, e := range info.Specific.Data.Extents {
		if e.Filename != path {
			return 0, fmt.Errorf("the disk image needs another file, %q", e.Filename)
		}
	}
	return info.Size, nil
}

// bootModeOf tells by what firmware a raw disk can be booted, in EC2's terms. A
// disk without anything to boot from is refused: it can't be an image.
func bootModeOf(path string) (string, error) {
	// The boot sector, the header of a GPT and its 128 entries of 128 bytes.
	head, err := readHead(path, 34*sectorSize)
	if err != nil {
		return "", err
	}
	if len(head) < sectorSize || head[510] != 0x55 || head[511] != 0xaa {
		return "", errors.New("there is no boot sector and no partition table: is it the image of a whole disk?")
	}
	bios := !bytes.Equal(head[:440], make([]byte, 440))
	efi := hasESP(head)
	switch {
	case bios && efi:
		return "uefi-preferred", nil
	case efi:
		return "uefi", nil
	case bios:
		return "legacy-bios", nil
	}
	return "", errors.New("the disk has neither boot code for BIOS nor an EFI system partition")
}

// hasESP tells whether a partition table, of either kind, has an EFI system
// partition.
func hasESP(head []byte) bool {
	for i := range 4 {
		if head[446+16*i+4] == 0xef {
			return true
		}
	}
	esp := []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	if len(head) < 2*sectorSize || !bytes.HasPrefix(head[sectorSize:], []byte("EFI PART")) {
		return false
	}
	for entry := 2 * sectorSize; entry+16 <= len(head); entry += 128 {
		if bytes.Equal(head[entry:entry+16], esp) {
			return true
		}
	}
	return false
}

// readHead reads up to n bytes from a file's beginning.
func readHead(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, n)
	m, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:m], err
}

// readTail reads up to n bytes from a file's end.
func readTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-n), n))
}
