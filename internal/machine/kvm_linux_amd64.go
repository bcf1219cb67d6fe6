package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KVM's requests and exit reasons, from linux/kvm.h for x86-64.
const (
	kvmGetAPIVersion       = 0xAE00
	kvmCreateVM            = 0xAE01
	kvmGetVCPUMmapSize     = 0xAE04
	kvmCreateVCPU          = 0xAE41
	kvmSetUserMemoryRegion = 0x4020AE46
	kvmRun                 = 0xAE80
	kvmSetRegs             = 0x4090AE82
	kvmGetSregs            = 0x8138AE83
	kvmSetSregs            = 0x4138AE84

	kvmAPIVersion = 12
	kvmExitIO     = 2
	kvmExitIntern = 17
)

// The guest of the probe: where its parts lie in its 1 MiB.
const (
	probeMemory = 1 << 20
	probeCode   = 0x1000
	probePML4   = 0x2000
	probePDPT   = 0x3000
	probePD     = 0x4000
	probeStack  = 0x8000
	// probeLoops takes a processor about 1 ms, and something that emulates it
	// far longer than any limit.
	probeLoops = 2_000_000
	// probePatience is how many times longer than its limit the guest may take by
	// the clock, on a host that is busy.
	probePatience = 10
)

// Probe says whether KVM really runs guests: /dev/kvm can be there and accept a
// machine, and then emulate it at a crawl, or refuse what every system needs. It
// lets a small 64-bit guest loop and use SSE and CPUID. nil means usable;
// otherwise the error, an ErrKVMUnusable, says why. limit bounds the processor time
// that the guest takes; the answer comes after ten times that at the latest, and a
// second.
func Probe(limit time.Duration) error {
	answer := make(chan error, 1)
	go func() { answer <- probe(limit) }()
	var err error
	select {
	case err = <-answer:
	case <-time.After(probePatience*limit + time.Second):
		// The thread hangs in the kernel. It is lost, but we are not.
		err = errors.New("the kernel doesn't answer")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKVMUnusable, err)
	}
	return nil
}

func probe(limit time.Duration) error {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	defer unix.Close(kvm)
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != kvmAPIVersion {
		return fmt.Errorf("KVM API version %d: %w", v, errors.Join(err, errors.ErrUnsupported))
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("create a machine: %w", err)
	}
	defer unix.Close(vm)
	memory, err := probeGuest(vm)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }()
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a processor: %w", err)
	}
	defer unix.Close(vcpu)
	if err := longMode(vcpu); err != nil {
		return err
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("size of a processor: %w", err)
	}
	shared, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the processor: %w", err)
	}
	defer func() { _ = unix.Munmap(shared) }()
	return runProbe(vcpu, shared, limit)
}

// probeGuest gives the machine its memory with code and page tables in it.
func probeGuest(vm int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, probeMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("memory for the guest: %w", err)
	}
	le := binary.LittleEndian
	le.PutUint64(memory[probePML4:], probePDPT|3)
	le.PutUint64(memory[probePDPT:], probePD|3)
	le.PutUint64(memory[probePD:], 0x83) // one page of 2 MiB at 0
	code := []byte{0xb9}                 // mov ecx, …
	code = le.AppendUint32(code, probeLoops)
	code = append(code,
		0xff, 0xc9, // dec ecx
		0x75, 0xfc, // jnz -4
		0x66, 0x0f, 0xef, 0xc0, // pxor xmm0, xmm0
		0x31, 0xc0, 0x0f, 0xa2, // xor eax, eax; cpuid
		0xb0, 0x42, // mov al, 0x42
		0xe6, 0x7e, // out 0x7e, al
		0xf4) // hlt
	copy(memory[probeCode:], code)
	region := struct {
		slot, flags                       uint32
		guestAddress, size, hostedAddress uint64
	}{0, 0, 0, probeMemory, uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return nil, errors.Join(fmt.Errorf("give the guest its memory: %w", err), unix.Munmap(memory))
	}
	return memory, nil
}

// longMode sets the processor up for 64-bit code at probeCode.
func longMode(vcpu int) error {
	// struct kvm_sregs: eight segments of 24 bytes (cs ds es fs gs ss tr ldt),
	// gdt and idt of 16, cr0 cr2 cr3 cr4 cr8 efer apic_base, an interrupt bitmap.
	var sregs [312]byte
	if _, err := ioctl(vcpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("read the processor's system registers: %w", err)
	}
	le := binary.LittleEndian
	for i := range 6 {
		selector, kind, long := uint16(16), byte(3), byte(0) // data, writable
		if i == 0 {
			selector, kind, long = 8, 11, 1 // code, readable
		}
		seg := sregs[i*24:]
		le.PutUint64(seg, 0)
		le.PutUint32(seg[8:], 0xffffffff)
		le.PutUint16(seg[12:], selector)
		// type, present, dpl, db, s, l, g
		copy(seg[14:], []byte{kind, 1, 0, 1 - long, 1, long, 1})
	}
	control := sregs[8*24+2*16:]
	le.PutUint64(control, 0x80050033)      // cr0: PG AM WP NE ET MP PE
	le.PutUint64(control[2*8:], probePML4) // cr3
	le.PutUint64(control[3*8:], 0x620)     // cr4: PAE OSFXSR OSXMMEXCPT
	le.PutUint64(control[5*8:], 0x500)     // efer: LME LMA
	if _, err := ioctl(vcpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("set the processor's system registers: %w", err)
	}
	var regs [18]uint64 // rax rbx rcx rdx rsi rdi rsp rbp r8…r15 rip rflags
	regs[6], regs[16], regs[17] = probeStack, probeCode, 2
	if _, err := ioctl(vcpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs))); err != nil {
		return fmt.Errorf("set the processor's registers: %w", err)
	}
	return nil
}

// runProbe runs the guest up to its out instruction, or until limit.
func runProbe(vcpu int, shared []byte, limit time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	var over atomic.Bool
	finished, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if !spent(thread, limit, finished) {
			return
		}
		over.Store(true)
		// A signal takes the thread out of the guest. SIGURG is what the Go
		// runtime itself sends to threads. Again, in case one came too early.
		for {
			_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
			select {
			case <-finished:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	var err error
	for {
		_, err = ioctl(vcpu, kvmRun, 0)
		if !errors.Is(err, unix.EINTR) || over.Load() {
			break
		}
	}
	close(finished)
	<-watched
	reason := binary.LittleEndian.Uint32(shared[8:])
	switch {
	case errors.Is(err, unix.EINTR):
		return fmt.Errorf("the guest's code did not finish in %s: it is emulated or stuck", limit)
	case err != nil:
		return fmt.Errorf("run the guest: %w", err)
	case reason == kvmExitIO:
		return nil
	case reason == kvmExitIntern:
		return fmt.Errorf("KVM internal error, suberror %d", binary.LittleEndian.Uint32(shared[32:]))
	default:
		return fmt.Errorf("the guest ended by exit reason %d", reason)
	}
}

// spent waits until a thread has had so much processor time from now on, or more
// than its time by the clock. It is false when the thread has finished before.
func spent(thread int, limit time.Duration, finished <-chan struct{}) bool {
	start, before := time.Now(), threadTime(thread)
	for {
		select {
		case <-finished:
			return false
		case <-time.After(limit / 10):
		}
		if threadTime(thread)-before >= limit || time.Since(start) >= probePatience*limit {
			return true
		}
	}
}

// threadTime is the processor time that a thread of this process has had.
func threadTime(thread int) time.Duration {
	const perThread, scheduled = 4, 2 // of a clock's number, see clock_getcpuclockid(3)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^thread<<3|perThread|scheduled), &t); err != nil {
		return 0 // then the clock alone counts
	}
	return time.Duration(t.Nano())
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}
