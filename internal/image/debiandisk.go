package image

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	mib        = 1 << 20
	sectorSize = 512

	// The disk: GRUB's core image for BIOS, the EFI system partition, and last,
	// so that it can grow, the root. The numbers are those of Debian's AMIs.
	coreStart, coreSize = 1 * mib, 3 * mib
	espStart, espSize   = 4 * mib, 32 * mib
	rootStart           = espStart + espSize
	tableSize           = 1 * mib // the partition table's copy at the end
)

// grubModules are built into GRUB: what it takes to reach its configuration on
// the root. The others it finds beside that.
const grubModules = "part_gpt ext2 search search_fs_uuid normal configfile linux echo test gzio minicmd"

// bootFiles are the files of the boot loader that depend on the root's UUID.
// The system's own update-grub writes grub.cfg anew with each kernel.
func (b *debianBuild) bootFiles() map[string]string {
	return map[string]string{
		"etc/fstab": "UUID=" + b.uuid + " / ext4 errors=remount-ro 0 1\n",
		"boot/grub/early.cfg": "search.fs_uuid " + b.uuid + " root hd0,gpt1\n" +
			"set prefix=($root)/boot/grub\n",
		"boot/grub/grub.cfg": "# The image's first. update-grub replaces it.\n" +
			"set timeout=0\n" +
			"menuentry 'Debian GNU/Linux' {\n" +
			"\tlinux /vmlinuz root=UUID=" + b.uuid + " ro console=tty0 console=ttyS0,115200\n" +
			"\tinitrd /initrd.img\n" +
			"}\n",
	}
}

// makeDisk makes the disk with its partitions from the system's tarball.
func (b *debianBuild) makeDisk(ctx context.Context) error {
	disk := filepath.Join(b.tmp, debianName)
	if err := writeMode(disk, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(disk, b.opts.SizeBytes); err != nil {
		return err
	}
	if err := b.partition(ctx, disk); err != nil {
		return fmt.Errorf("partition the disk: %w", err)
	}
	if err := b.fillRoot(ctx, disk); err != nil {
		return fmt.Errorf("make the root file system: %w", err)
	}
	b.progress("make it bootable", 96)
	if err := b.fillESP(ctx, disk); err != nil {
		return fmt.Errorf("make the EFI system partition: %w", err)
	}
	if err := b.installGRUB(disk); err != nil {
		return fmt.Errorf("install GRUB: %w", err)
	}
	return nil
}

func (b *debianBuild) partition(ctx context.Context, disk string) error {
	const biosBoot, efi, linuxRoot = "21686148-6449-6E6F-744E-656564454649", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
	script := filepath.Join(b.tmp, "partitions")
	table := fmt.Sprintf("label: gpt\nunit: sectors\n1: start=%d, size=%d, type=%s\n14: start=%d, size=%d, type=%s\n15: start=%d, size=%d, type=%s\n",
		rootStart/sectorSize, (b.opts.SizeBytes-rootStart-tableSize)/sectorSize, linuxRoot,
		coreStart/sectorSize, coreSize/sectorSize, biosBoot, espStart/sectorSize, espSize/sectorSize, efi)
	if err := writeMode(script, []byte(table), 0o644); err != nil {
		return err
	}
	return b.follow(ctx, "sh", "-c", "sfdisk -q "+quote(disk)+" <"+quote(script))
}

// fillRoot unpacks the system and makes the root file system of it, both under
// one fakeroot, which remembers the owners in between. GRUB of Debian 12 knows
// no checksum seeds.
func (b *debianBuild) fillRoot(ctx context.Context, disk string) error {
	b.progress("make the root file system", 85)
	blocks := strconv.FormatInt((b.opts.SizeBytes-rootStart-tableSize)/4096, 10)
	mke2fs := []string{
		"mke2fs -q -F -t ext4 -L stead-root -m 1 -b 4096 -I 256 -U", b.uuid, "-O ^metadata_csum_seed,^orphan_file",
		"-E", fmt.Sprintf("offset=%d,assume_storage_prezeroed=1,nodiscard", int64(rootStart)),
		"-d", quote(b.tree()), quote(disk), blocks,
	}
	tarball := quote(filepath.Join(b.tmp, "system.tar"))
	return b.follow(ctx, "fakeroot", "sh", "-ec", "tar -x -p --numeric-owner -C "+quote(b.tree())+" -f "+tarball+"; rm "+tarball+"; "+strings.Join(mke2fs, " "))
}

func (b *debianBuild) fillESP(ctx context.Context, disk string) error {
	esp, loader := filepath.Join(b.tmp, "esp"), filepath.Join(b.tree(), "boot/grub/x86_64-efi/core.efi")
	script := fmt.Sprintf("mformat -C -i %[1]s -T %[2]d -h 64 -s 32 -v EFI :: && mmd -i %[1]s ::/EFI ::/EFI/BOOT && mcopy -i %[1]s %[3]s ::/EFI/BOOT/BOOTX64.EFI",
		quote(esp), espSize/sectorSize, quote(loader))
	if err := b.follow(ctx, "sh", "-c", script); err != nil {
		return err
	}
	data, err := os.ReadFile(esp)
	if err != nil {
		return err
	}
	return writeAt(disk, data, espStart)
}

// Where GRUB's boot sector says where its core image is, and how the core
// image's own first sector does: grub-core/boot/i386/pc/boot.S and diskboot.S.
const (
	bootCodeEnd     = 0x1b8 // what follows is the disk's: its signature, its table
	bootKernelAt    = 0x5c
	bootDriveCheck  = 0x66
	coreListAt      = sectorSize - 12
	coreLoadSegment = 0x820
)

// installGRUB writes GRUB for BIOS as grub-install would: the boot sector, and
// the core image that it loads into a partition without a file system.
func (b *debianBuild) installGRUB(disk string) error {
	dir := filepath.Join(b.tree(), "boot/grub/i386-pc")
	boot, err := os.ReadFile(filepath.Join(dir, "boot.img"))
	if err != nil {
		return err
	}
	core, err := os.ReadFile(filepath.Join(dir, "core.img"))
	if err != nil {
		return err
	}
	if len(boot) != sectorSize || len(core) < 2*sectorSize || len(core) > coreSize {
		return fmt.Errorf("boot.img has %d bytes, core.img %d", len(boot), len(core))
	}
	const at = coreStart / sectorSize
	binary.LittleEndian.PutUint64(boot[bootKernelAt:], at)
	boot[bootDriveCheck], boot[bootDriveCheck+1] = 0x90, 0x90 // the BIOS tells the drive rightly
	sectors := (len(core) + sectorSize - 1) / sectorSize
	binary.LittleEndian.PutUint64(core[coreListAt:], at+1)
	binary.LittleEndian.PutUint16(core[coreListAt+8:], uint16(sectors-1))
	binary.LittleEndian.PutUint16(core[coreListAt+10:], coreLoadSegment)
	return errors.Join(writeAt(disk, boot[:bootCodeEnd], 0), writeAt(disk, core, coreStart))
}

func writeAt(path string, data []byte, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(f, off), strings.NewReader(string(data)))
	return errors.Join(err, f.Close())
}
