// Command guest is the init process of the machines that the tests boot: a whole
// system of one program. The kernel's command line says what it does (do=…); it
// reports on the serial port, a line each, and never returns.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the writer and the test agree on; see snapshot_test.go.
const (
	blockSize    = 4096
	stampedPart  = 8 << 20  // the first part of each disk takes stamps
	discardChunk = 64 << 10 // the rest is discarded chunk by chunk
	discardEvery = 4
)

func main() {
	do := prepare()
	if do != "ignore" {
		go button()
	}
	say("READY %s", do)
	switch do {
	case "poweroff":
		powerOff()
	case "write":
		write()
	case "fsync":
		fsync()
	case "fill":
		fill()
	default:
		watchDisks()
	}
	select {}
}

func say(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }

// must reports what fails; the test looks for the word.
func must(what string, err error) {
	if err != nil {
		say("ERROR %s: %v", what, err)
	}
}

// prepare mounts what the kernel offers, loads the modules in their order and
// returns what to do.
func prepare() string {
	for _, m := range []struct{ kind, path string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		_ = os.MkdirAll(m.path, 0o755)
		_ = unix.Mount(m.kind, m.path, m.kind, 0, "") // the kernel may have done it
	}
	list, err := os.ReadFile("/modules/order")
	must("modules", err)
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open("/modules/" + name)
		must("module", err)
		must("module "+name, unix.FinitModule(int(f.Fd()), "", 0))
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	must("cmdline", err)
	for word := range strings.FieldsSeq(string(cmdline)) {
		if do, ok := strings.CutPrefix(word, "do="); ok {
			return do
		}
	}
	return ""
}

// writing is held during a write, and for good by powerOff: the kernel takes the
// disks away before it powers off, and a write then fails for no fault of theirs.
var writing sync.Mutex

func powerOff() {
	writing.Lock()
	say("POWEROFF")
	unix.Sync()
	must("power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// button powers off when the power button is pressed.
func button() {
	names, _ := filepath.Glob("/dev/input/event*")
	for _, name := range names {
		f, err := os.Open(name)
		must("button", err)
		go func() {
			const evKey, keyPower = 1, 116
			event := make([]byte, 24)
			for {
				if _, err := f.Read(event); err != nil {
					return
				}
				if binary.LittleEndian.Uint16(event[16:]) == evKey && binary.LittleEndian.Uint16(event[18:]) == keyPower {
					powerOff()
				}
			}
		}()
	}
}

// watchDisks tells the serial numbers of the disks whenever they change.
func watchDisks() {
	last := "?"
	for {
		var serials []string
		paths, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, p := range paths {
			b, _ := os.ReadFile(p)
			serials = append(serials, strings.TrimSpace(string(b)))
		}
		slices.Sort(serials)
		if now := strings.Join(serials, ","); now != last {
			say("DISKS [%s]", now)
			last = now
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func openDisk(path string, flags int) *os.File {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0)
		if err == nil {
			return f
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// aligned returns memory fit for O_DIRECT.
func aligned(size int) []byte {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must("memory", err)
	return b
}

// write stamps block k mod n of both disks with k, first disk first, each write
// durable before the next; now and then it discards a chunk before.
func write() {
	disks := []*os.File{
		openDisk("/dev/vda", unix.O_DIRECT|unix.O_DSYNC),
		openDisk("/dev/vdb", unix.O_DIRECT|unix.O_DSYNC),
	}
	size, err := disks[0].Seek(0, 2)
	must("size", err)
	block := aligned(blockSize)
	for k := uint64(1); ; k++ {
		for at := 0; at < blockSize; at += 8 {
			binary.LittleEndian.PutUint64(block[at:], k)
		}
		for _, d := range disks {
			writing.Lock()
			at := stampedPart + int64(k/discardEvery)*discardChunk
			if k%discardEvery == 0 && at < size {
				must("discard", discard(d, at, discardChunk))
			}
			_, err := d.WriteAt(block, int64(k%(stampedPart/blockSize))*blockSize)
			must("write", err)
			writing.Unlock()
		}
		if k%20 == 0 {
			say("WROTE %d", k)
		}
	}
}

func discard(f *os.File, off, length int64) error {
	const blkDiscard = 0x1277
	span := [2]uint64{uint64(off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkDiscard, uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return errno
	}
	return nil
}

// fsync writes through the guest's page cache and makes it durable, once a
// second, forever.
func fsync() {
	d := openDisk("/dev/vda", 0)
	for k := 1; ; k++ {
		_, err := d.WriteAt([]byte(fmt.Sprintf("durable %08d", k)), 0)
		must("write", err)
		say("SYNCING %d", k)
		must("fsync", d.Sync())
		say("SYNCED %d", k)
		time.Sleep(time.Second)
	}
}

// fill writes the whole disk.
func fill() {
	d := openDisk("/dev/vda", unix.O_DIRECT)
	size, err := d.Seek(0, 2)
	must("size", err)
	chunk := aligned(256 << 10)
	for i := range chunk {
		chunk[i] = 0xa5
	}
	for at := int64(0); at < size; at += int64(len(chunk)) {
		_, err := d.WriteAt(chunk, at)
		must("write", err)
	}
	must("fsync", d.Sync())
	say("FILLED")
	watchDisks()
}
